"""The client's messages → what each lane gets, and how far along the client's own counting is.

Owns: the decoders, which lane a packet belongs to, the clocks of tagged lanes, and the way from
a lane's samples back to the client's frames. Knows nothing of speech, words or credit.

Interleaved audio has one decoder, and a frame is one sample of every channel. Tagged audio has
one decoder per lane; frames are counted over all lanes together, in the order of sending, so that
a client keeps one list of what it sent and one number says where in it the server stands.

Invariants: I1 a refused packet changes nothing; I2 all lanes of a tagged session share one clock:
a lane joins at the furthest lane's time, and one that has fallen behind it by more than
``LAG_SECONDS_MAX`` is moved up to it when it speaks again, by the order of packets alone, never by
the time of their arrival; I3 everything that ``stored_through`` leaves out is held by its lane as
stored, and it never goes down; I4 an intake that starts at a ``restart_frame``, with the ``state``
of that place, gives each lane the samples that were asked for there, bit for bit; I5 that place
lies inside no skipped time.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from streaming.audio import PcmDecoder
from streaming.engines import Samples
from streaming.errors import BadAudio, OutOfOrder, UnsupportedOption
from streaming.wire import CHANNELS_MAX, AudioFormat

LAG_SECONDS_MAX = 1
"""How far apart tagged lanes may run: more than a network's jitter and a client's packets, less
than what would show in a transcript. A talker who is silent and sends nothing is moved up."""
MARKS_PER_SECOND = 10
"""How finely tagged lanes remember how far they were at places in the client's counting."""

MARKS_MAX = 4_096
"""Three times what the audio of a buffer needs. Skipped time needs no room in it, and while the
store takes nothing no mark is done with: every other one is then forgotten."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one lane gets: samples, then time without any."""

    lane: int
    samples: Samples
    skipped_samples: int = 0


class Intake(Protocol):
    """How a session's audio comes in."""

    @property
    def frame_bytes(self) -> int: ...

    @property
    def frames_received(self) -> int:
        """Frames in the client's counting, skipped ones included."""

    @property
    def dangling_bytes(self) -> int:
        """Of a frame that has not arrived whole."""

    def frames_in(self, data: bytes) -> int:
        """How many frames a packet completes. Raises: BadAudio, OutOfOrder."""

    def decode(self, data: bytes) -> list[Piece]:
        """Raises: as ``frames_in``; and then nothing was taken."""

    def skip(self, ms: int, lane: int | None) -> list[Piece]:
        """Time without audio. Raises: BadAudio, OutOfOrder, UnsupportedOption."""

    def flush(self, lane: int) -> list[Piece]:
        """What waited for more audio; for a lane whose talker has paused."""

    def has_tail(self, lane: int) -> bool:
        """True where ``flush`` would give something."""

    def finish(self) -> list[Piece]:
        """The rest of all lanes; what is dangling is dropped, and still counted."""

    def drop_partial_frame(self) -> None:
        """The connection broke: the client sends the frame again."""

    def stored_through(self, samples: Mapping[int, int]) -> int:
        """The client's frame before which nothing is needed any more.

        ``samples``: for each lane, the sample before which nothing is.
        """

    def restart_frame(self, samples: Mapping[int, int]) -> int:
        """Where another intake can begin and give each lane these samples again, at the latest."""

    def state(self, frame: int) -> "TaggedState | None":
        """What that other one must know of its place, which ``restart_frame`` gave last."""

    def samples_produced(self, lane: int) -> int:
        """At the start, the first sample that a lane will get."""


class InterleavedIntake:
    """All channels in each packet."""

    def __init__(self, audio: AudioFormat, start_frame: int = 0) -> None:
        self._audio = audio
        self._decoder = PcmDecoder(audio.encoding, audio.sample_rate, audio.channels, start_frame)
        self.frame_bytes = self._decoder.frame_bytes
        self._stored_frame = 0
        self._skips: deque[tuple[int, int]] = deque()
        """First frame of each skipped time that was not dealt with, and the one after its last."""

    @property
    def frames_received(self) -> int:
        return self._decoder.frames_received

    @property
    def dangling_bytes(self) -> int:
        return self._decoder.dangling_bytes

    def frames_in(self, data: bytes) -> int:
        return (self._decoder.dangling_bytes + len(data)) // self.frame_bytes

    def decode(self, data: bytes) -> list[Piece]:
        return self._pieces(self._decoder.decode(data))

    def skip(self, ms: int, lane: int | None) -> list[Piece]:
        if lane is not None:
            raise UnsupportedOption(
                "skip names a lane, but the channels of this session share each packet; "
                "leave the lane out, or start with audio.tagged"
            )
        first = self.frames_received
        pieces = self._pieces(*_skipped(self._decoder, ms * self._audio.sample_rate // 1000))
        self._note_skip(first, self.frames_received)
        return pieces

    def _note_skip(self, first: int, end: int) -> None:
        if self._skips and self._skips[-1][1] == first:
            first = self._skips.pop()[0]
        self._skips.append((first, end))
        if len(self._skips) > MARKS_MAX:
            # Somebody who begins again then begins a little earlier than need be.
            first, (_, end) = self._skips.popleft()[0], self._skips.popleft()
            self._skips.appendleft((first, end))

    def flush(self, lane: int) -> list[Piece]:
        """All channels at once: they pause together."""
        return self._pieces(self._decoder.flush())

    def has_tail(self, lane: int) -> bool:
        return self._decoder.has_tail

    def finish(self) -> list[Piece]:
        return self._pieces(self._decoder.finish())

    def drop_partial_frame(self) -> None:
        self._decoder.drop_partial_frame()

    def stored_through(self, samples: Mapping[int, int]) -> int:
        self._stored_frame = max(self._stored_frame, self.restart_frame(samples))
        return self._stored_frame

    def restart_frame(self, samples: Mapping[int, int]) -> int:
        frame = self._decoder.restart_frame(min(samples.values()))
        while self._skips and self._skips[0][1] <= frame:
            self._skips.popleft()
        # A client repeats a skip whole, or not at all.
        return min(frame, self._skips[0][0]) if self._skips else frame

    def state(self, frame: int) -> None:
        return None

    def samples_produced(self, lane: int) -> int:
        return self._decoder.samples_produced

    def _pieces(self, channels: list[Samples], skipped_samples: int = 0) -> list[Piece]:
        return [Piece(lane, samples, skipped_samples) for lane, samples in enumerate(channels)]


@dataclass(frozen=True, slots=True)
class TaggedState:
    """Where the lanes of tagged audio stood at a place in the client's counting."""

    furthest_frame: int
    lane_frames: tuple[tuple[int, int], ...]
    """(lane, its own frame there, or where it joined after that)"""
    catch_ups: tuple["CatchUp", ...]
    """Those after that place, which the packets alone might not bring about again: a client may
    put them together in another way."""
    heard_frames: int
    """Before this place catch-ups are known, and no others are made."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """A lane was moved up by so many frames, before the packet at a place."""

    place: int
    lane: int
    frames: int


class TaggedIntake:
    """One lane in each packet, named by its first byte; whole samples follow."""

    def __init__(
        self, audio: AudioFormat, start_frame: int = 0, state: TaggedState | None = None
    ) -> None:
        state = state or TaggedState(0, (), (), 0)
        self._audio = audio
        self._decoders: dict[int, PcmDecoder] = {}
        self._joined_at: dict[int, int] = {}
        """On the lanes' shared clock, at the client's rate; as what follows."""
        self._furthest_frame = state.furthest_frame
        self._catch_ups = deque(state.catch_ups)
        self._known_catch_ups = deque(state.catch_ups)
        self._heard_frames = state.heard_frames
        self._lag_frames_max = LAG_SECONDS_MAX * audio.sample_rate
        self._stored_frame = self.frames_received = start_frame
        self.frame_bytes = PcmDecoder(audio.encoding, audio.sample_rate, 1).frame_bytes
        self.dangling_bytes = 0
        for lane, frame in state.lane_frames:
            self._join(lane, frame)
        self._marks = deque([self._mark()])

    def add(self, lane: int) -> int:
        """A lane joins; returns the sample on the shared clock at which it does."""
        return self._join(lane, self._furthest_frame).samples_produced

    def _join(self, lane: int, frame: int) -> PcmDecoder:
        audio = self._audio
        decoder = PcmDecoder(audio.encoding, audio.sample_rate, 1, frame)
        self._decoders[lane], self._joined_at[lane] = decoder, frame
        return decoder

    @property
    def _joined(self) -> list[int]:
        """Lanes that have joined by now: after a crash those that do so later are known before."""
        return [n for n, frame in self._joined_at.items() if frame <= self._furthest_frame]

    def _mark(self) -> "_Mark":
        frames = {lane: decoder.frames_received for lane, decoder in self._decoders.items()}
        return _Mark(self.frames_received, self._furthest_frame, frames)

    def _note_place(self) -> None:
        """Before a message is taken: it may be the one to begin with again."""
        apart = self._audio.sample_rate // MARKS_PER_SECOND * len(self._decoders)
        if self.frames_received - self._marks[-1].place >= max(1, apart):
            self._marks.append(self._mark())
        if len(self._marks) > MARKS_MAX:
            # The first one stays; between the others there may be more time.
            self._marks = deque(islice(self._marks, 0, None, 2))

    def frames_in(self, data: bytes) -> int:
        if not data:
            return 0  # keeps an idle connection
        self._decoder(data[0])
        frames, rest = divmod(len(data) - 1, self.frame_bytes)
        if rest:
            raise BadAudio(
                f"a packet of lane {data[0]} ends with {rest} of {self.frame_bytes} bytes of a "
                "sample; a tagged packet is one byte, its lane, and then whole mono samples"
            )
        return frames

    def decode(self, data: bytes) -> list[Piece]:
        frames = self.frames_in(data)
        if not frames:
            return []
        lane, content = data[0], memoryview(data)[1:]
        decoder = self._decoders[lane]
        self._note_place()
        pieces = self._caught_up(lane, content, frames)
        pieces += [Piece(lane, samples) for samples in decoder.decode(content)]
        self.frames_received += frames
        self._furthest_frame = max(self._furthest_frame, decoder.frames_received)
        return pieces

    def _caught_up(self, lane: int, content: memoryview, frames: int) -> list[Piece]:
        """Moves a lane that has been silent to the others' time: its packet ends where they are."""
        decoder = self._decoders[lane]
        lag_frames = self._lag_frames(lane, decoder.frames_received + frames)
        if not lag_frames:
            return []
        decoder.check(content)
        self._catch_ups.append(CatchUp(self.frames_received, lane, lag_frames))
        return _of_lane(lane, *_skipped(decoder, lag_frames))

    def _lag_frames(self, lane: int, end_frame: int) -> int:
        """By how much to move a lane up whose packet would end there; 0 for not at all."""
        if self.frames_received >= self._heard_frames:
            lag_frames = self._furthest_frame - end_frame
            return lag_frames if lag_frames > self._lag_frames_max else 0
        known = self._known_catch_ups
        while known and known[0].place < self.frames_received:
            known.popleft()
        is_here = bool(known) and (known[0].place, known[0].lane) == (self.frames_received, lane)
        return known.popleft().frames if is_here else 0

    def skip(self, ms: int, lane: int | None) -> list[Piece]:
        frames = ms * self._audio.sample_rate // 1000
        lanes = self._joined if lane is None else [lane]
        decoders = [(one, self._decoder(one)) for one in lanes]
        self._note_place()
        pieces: list[Piece] = []
        for one, decoder in decoders:
            pieces += _of_lane(one, *_skipped(decoder, frames))
        if lane is None:
            self._furthest_frame += frames
        else:
            reached = self._decoders[lane].frames_received
            self._furthest_frame = max(self._furthest_frame, reached)
        self.frames_received += frames
        return pieces

    def flush(self, lane: int) -> list[Piece]:
        return _of_lane(lane, self._decoders[lane].flush())

    def has_tail(self, lane: int) -> bool:
        return self._decoders[lane].has_tail

    def finish(self) -> list[Piece]:
        return [piece for lane in self._decoders for piece in self.flush(lane)]

    def drop_partial_frame(self) -> None:
        """There is none: packets hold whole samples."""

    def stored_through(self, samples: Mapping[int, int]) -> int:
        self._stored_frame = max(self._stored_frame, self.restart_frame(samples))
        return self._stored_frame

    def restart_frame(self, samples: Mapping[int, int]) -> int:
        needed = {lane: d.restart_frame(samples[lane]) for lane, d in self._decoders.items()}
        if self._is_early(now := self._mark(), needed):
            self._marks.append(now)
        while len(self._marks) > 1 and self._is_early(self._marks[1], needed):
            self._marks.popleft()
        while self._catch_ups and self._catch_ups[0].place < self._marks[0].place:
            self._catch_ups.popleft()
        return self._marks[0].place

    def _is_early(self, mark: "_Mark", needed: Mapping[int, int]) -> bool:
        """Nothing that is needed came before it."""
        return all(self._frame_at(mark, lane) <= frame for lane, frame in needed.items())

    def _frame_at(self, mark: "_Mark", lane: int) -> int:
        return mark.lane_frames.get(lane, self._joined_at[lane])

    def state(self, frame: int) -> TaggedState:
        mark = self._mark() if frame == self.frames_received else self._marks[0]
        assert mark.place == frame, "not what restart_frame gave last"
        return TaggedState(
            mark.furthest_frame,
            tuple((lane, self._frame_at(mark, lane)) for lane in self._decoders),
            tuple(one for one in self._catch_ups if one.place >= frame),
            max(self.frames_received, self._heard_frames),
        )

    def samples_produced(self, lane: int) -> int:
        return self._decoders[lane].samples_produced

    def _decoder(self, lane: int) -> PcmDecoder:
        decoder = self._decoders.get(lane)
        if decoder is None:
            raise OutOfOrder(
                f"lane {lane} was not added; send "
                f'{{"type":"lane","lane":{lane}}} before its audio (lanes are 0 to '
                f"{CHANNELS_MAX - 1}; each tagged packet starts with one byte, its lane)"
            )
        return decoder


def make_intake(
    audio: AudioFormat, start_frame: int = 0, state: TaggedState | None = None
) -> InterleavedIntake | TaggedIntake:
    """``start_frame`` is the first that will come, ``state`` that of its place.

    Raises: UnsupportedOption where the format contradicts itself.
    """
    if audio.tagged:
        if audio.channels != 1 or audio.channel_names is not None:
            raise UnsupportedOption(
                "tagged audio is mono, and its lanes are added by lane messages; leave out "
                "audio.channels and audio.channel_names"
            )
        return TaggedIntake(audio, start_frame, state)
    names = audio.channel_names
    if names is not None and len(names) != audio.channels:
        raise UnsupportedOption(
            f"audio.channel_names has {len(names)} names for {audio.channels} channels; "
            "name each channel, null for one without a name"
        )
    return InterleavedIntake(audio, start_frame)


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far the lanes were when a message came."""

    place: int
    """In the client's counting."""
    furthest_frame: int
    lane_frames: dict[int, int]


def _skipped(decoder: PcmDecoder, frames: int) -> tuple[list[Samples], int]:
    """The rest before the skipped time, by channel, and how many samples that time is."""
    before = decoder.samples_produced
    tails = decoder.skip(frames)
    return tails, decoder.samples_produced - before - len(tails[0])


def _of_lane(lane: int, channels: list[Samples], skipped_samples: int = 0) -> list[Piece]:
    return [Piece(lane, samples, skipped_samples) for samples in channels]

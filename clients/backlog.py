"""Audio that the server has not stored yet, addressed by the client's own frames. Pure.

Of tagged audio, frames are counted over all lanes, in the order in which they are sent. Skipped
time counts as frames too; it takes no memory, and no credit: the server grants as much anew.

Owns: which bytes can still be asked for again, what is to be sent next, and how far credit lets
it go. Knows no socket and no time.
Invariants: B1 what lies at or after the last ack can always be sent again; B2 every byte is sent
in order, and after a rewind exactly from the frame that the server named; B3 the bytes held never
exceed ``bytes_max``; B4 nothing is offered beyond the credit.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import cast

from streaming.wire import CHANNELS_MAX, SKIP_MS_MAX, Configure, Flush, Lane, Skip

BYTES_MAX = 64 * 1024 * 1024
"""40 s of eight float channels at 48 kHz: above every server's longest open utterance, which is
all that an ack can be behind, and far below what would hurt the machine."""

TOGETHER_MS_MAX = 200
"""Packets of a tagged lane that have to wait go out together, past those of other lanes, up to
this: servers count messages, and put a lane that was silent where the others are by then."""

Control = Flush | Configure | Lane


@dataclass(frozen=True, slots=True)
class _Packet:
    start_byte: int
    content: bytes
    lane: int | None = None

    @property
    def end_byte(self) -> int:
        return self.start_byte + len(self.content)


@dataclass(frozen=True, slots=True)
class _Pause:
    """Skipped time, and how many bytes of audio it stands for."""

    start_byte: int
    bytes_skipped: int
    content: Skip

    @property
    def end_byte(self) -> int:
        return self.start_byte + self.bytes_skipped


@dataclass(frozen=True, slots=True)
class _Placed:
    """A control message, and the byte of audio in front of which it belongs."""

    start_byte: int
    content: Control

    @property
    def end_byte(self) -> int:
        return self.start_byte


_Item = _Packet | _Pause | _Placed


class Backlog:
    """Keeps what was accepted until it is acknowledged, and offers it for sending in order.

    ``frame_bytes`` is the size of one sample of every channel; ``message_bytes_max`` bounds what
    is offered at once.
    """

    def __init__(
        self,
        frame_bytes: int,
        message_bytes_max: int,
        *,
        sample_rate: int = 16_000,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._message_bytes_max = message_bytes_max
        self._frame_bytes = frame_bytes
        self._sample_rate = sample_rate
        together = sample_rate * TOGETHER_MS_MAX // 1000 * frame_bytes
        self._together_bytes_max = min(message_bytes_max, together)
        self._bytes_max = bytes_max
        self._credit_bytes = 0
        self._stored_bytes = 0
        self._accepted_bytes = 0
        self._paused_bytes = 0
        """Of what is held: it stands for skipped time and takes no memory."""
        self._ahead_bytes = 0
        """Of those, what the server has not heard of: it will add as much to the credit."""
        self._offered_bytes = 0
        """What lies before was on its way to a server at some time."""
        self._sent: deque[_Item] = deque()
        self._waiting: deque[_Item] = deque()

    @property
    def accepted_frames(self) -> int:
        return self._accepted_bytes // self._frame_bytes

    @property
    def stored_frames(self) -> int:
        return self._stored_bytes // self._frame_bytes

    @property
    def held_bytes(self) -> int:
        return max(0, self._accepted_bytes - self._stored_bytes - self._paused_bytes)

    @property
    def is_sent(self) -> bool:
        """True when nothing waits for its first, or next, sending."""
        return not self._waiting

    def room_bytes(self) -> int:
        """How much may be accepted now: one message, within the credit and ``bytes_max``."""
        credit = self._credit_bytes + self._ahead_bytes - self._accepted_bytes
        free = self._bytes_max - self.held_bytes
        return max(0, min(credit, free, self._message_bytes_max))

    def accept(self, content: bytes, lane: int | None = None) -> None:
        """Take audio for sending; the caller has asked ``room_bytes`` first."""
        if len(content) > self.room_bytes():
            raise ValueError("more audio than there is room for")
        if content and (lane is None or not self._joins(content, lane)):
            self._waiting.append(_Packet(self._accepted_bytes, content, lane))
        self._accepted_bytes += len(content)

    def _joins(self, content: bytes, lane: int) -> bool:
        """Lets audio go with what waits of its lane; what waits behind that moves back.

        What was offered before stays as it was: a server that takes the session over knows by its
        places in the audio when lanes were moved up.
        """
        for back in range(1, min(len(self._waiting), CHANNELS_MAX) + 1):
            item = self._waiting[-back]
            if not isinstance(item, _Packet) or item.start_byte < self._offered_bytes:
                return False
            if item.lane != lane:
                continue
            if len(item.content) + len(content) > self._together_bytes_max:
                return False
            self._waiting[-back] = replace(item, content=item.content + content)
            for behind in range(1, back):
                later = self._waiting[-behind]
                self._waiting[-behind] = replace(later, start_byte=later.start_byte + len(content))
            return True
        return False

    def accept_skip(self, message: Skip) -> None:
        """Place time without audio after what was accepted so far."""
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, _Pause) and last.content.lane == message.lane:
            ms = last.content.ms + message.ms
            if ms <= SKIP_MS_MAX:
                self._waiting.pop()
                self._add_pause(-last.bytes_skipped)
                message = message.model_copy(update={"ms": ms})
        size = message.ms * self._sample_rate // 1000 * self._frame_bytes
        self._waiting.append(_Pause(self._accepted_bytes, size, message))
        self._add_pause(size)

    def _add_pause(self, size: int) -> None:
        self._accepted_bytes += size
        self._paused_bytes += size
        self._ahead_bytes += size

    def accept_control(self, message: Control) -> None:
        """Place a message after the audio accepted so far."""
        _place(self._waiting, _Placed(self._accepted_bytes, message))

    def grant(self, credit_until_frame: int) -> None:
        """Credit of a new connection may be lower than that of the old one, so it is set."""
        self._credit_bytes = credit_until_frame * self._frame_bytes

    def acknowledge(self, stored_through_frame: int) -> bool:
        """Forget what the server keeps; True where that was news."""
        stored = min(stored_through_frame * self._frame_bytes, self._accepted_bytes)
        if stored <= self._stored_bytes:
            return False
        self._stored_bytes = stored
        while self._sent and self._sent[0].end_byte < stored:
            self._drop_oldest()
        while self._sent and _is_before(self._sent[0], stored):
            self._drop_oldest()
        return True

    def _drop_oldest(self) -> None:
        item = self._sent.popleft()
        if isinstance(item, _Pause):
            self._paused_bytes -= item.bytes_skipped

    def rewind(self, from_frame: int) -> None:
        """Offer again everything from a frame on.

        Raises: ValueError where the server asks for audio that it has acknowledged, or that was
        never there: nothing good can follow.
        """
        at = from_frame * self._frame_bytes
        if not self._stored_bytes <= at <= self._accepted_bytes:
            raise ValueError(f"the server resumes at frame {from_frame}, which is not held here")
        items = (*self._sent, *self._waiting)
        if any(isinstance(item, _Pause) and item.start_byte < at < item.end_byte for item in items):
            raise ValueError(f"the server resumes at frame {from_frame}, inside skipped time")
        # What it has, and has not stored, is kept all the same: the next one may be a new process.
        parts = [part for item in items for part in _split(item, at)]
        self._sent = deque(part for part in parts if _is_before(part, at))
        self._waiting = deque(part for part in parts if not _is_before(part, at))
        pauses = (item.bytes_skipped for item in self._waiting if isinstance(item, _Pause))
        self._ahead_bytes = sum(pauses)

    def take(self) -> bytes | Control | Skip | None:
        """The next thing to send; None where all is sent or the credit is used up.

        Packets that had to wait go out together: a server counts messages per second.
        """
        if not self._is_allowed():
            return None
        item = self._waiting.popleft()
        if isinstance(item, _Packet):
            return self._take_together(item)
        self._offered_bytes = max(self._offered_bytes, item.end_byte)
        if isinstance(item, _Pause):
            self._sent.append(item)
            self._credit_bytes += item.bytes_skipped
            self._ahead_bytes -= item.bytes_skipped
        else:
            _place(self._sent, item)
        return item.content

    def _take_together(self, first: _Packet) -> bytes:
        together, size = [first], len(first.content)
        size_max = self._message_bytes_max if first.lane is None else self._together_bytes_max
        while self._is_allowed() and isinstance(packet := self._waiting[0], _Packet):
            size += len(packet.content)
            if size > size_max or packet.lane != first.lane:
                break
            together.append(packet)
            self._waiting.popleft()
        self._sent.extend(together)
        self._offered_bytes = max(self._offered_bytes, together[-1].end_byte)
        tag = b"" if first.lane is None else bytes([first.lane])
        return b"".join((tag, *(packet.content for packet in together)))

    def _is_allowed(self) -> bool:
        if not self._waiting:
            return False
        item = self._waiting[0]
        needed = item.end_byte if isinstance(item, _Packet) else item.start_byte
        return needed <= self._credit_bytes


def _is_before(item: _Item, at: int) -> bool:
    return item.start_byte < at and item.end_byte <= at


def _split(item: _Item, at: int) -> tuple[_Item, ...]:
    if not isinstance(item, _Packet) or not item.start_byte < at < item.end_byte:
        return (item,)
    size = at - item.start_byte
    return replace(item, content=item.content[:size]), _Packet(at, item.content[size:], item.lane)


def _place(queue: deque[_Item], item: _Placed) -> None:
    """Append a control; one of each kind at one place, so that packets bound their number.

    Of lanes, one message of each: the last name holds.
    """
    neighbours: list[_Placed] = []
    while queue and isinstance(queue[-1], _Placed):
        neighbours.append(cast("_Placed", queue.pop()))
    for old in reversed(neighbours):
        if _is_same_kind(old.content, item.content):
            item = _Placed(item.start_byte, _merged(old.content, item.content))
        else:
            queue.append(old)
    queue.append(item)


def _is_same_kind(first: Control, second: Control) -> bool:
    if isinstance(first, Lane) and isinstance(second, Lane):
        return first.lane == second.lane
    return type(first) is type(second)


def _merged(first: Control, second: Control) -> Control:
    """One message that does what both do, the second having the last word."""
    if isinstance(second, Flush | Lane):
        return second
    return Configure.model_validate(
        first.model_dump(exclude_unset=True) | second.model_dump(exclude_unset=True)
    )

"""The checkpoint that ships with captiond behind a real server: real words, end to end.

The bounds on the clip are those that ``captiond demo`` promises. Audio is sent as fast as the
server's credit lets it in, except the clip, which is paced so that partials come.
"""

import asyncio
import itertools
import json
import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from random import Random

import numpy as np
import pytest
import pytest_asyncio
import soundfile

from clients.live import CaptionFold
from clients.stream import CaptionStream
from server.child import ServerChild, running_server
from server.scoring import (
    diarization_error_rate,
    normalized,
    turns_of_words,
    word_error_rate,
)
from streaming.engines import Samples
from streaming.events import CaptionWord, Event, Final, LanguageDetected, Partial
from streaming.timeline import SAMPLE_RATE_HZ, Span, samples_from_seconds
from streaming.turns import Turn
from streaming.wire import Start
from tools.demo_whisper import noise
from tools.demo_whisper.corpus import HELD_OUT_VARIANTS, Corpus, Split
from tools.demo_whisper.sentences import Sentence, draw
from tools.demo_whisper.synthesis import Samples as Waveform
from tools.demo_whisper.synthesis import SynthesisError, Synthesizer, Voice

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CLIP = Path(__file__).resolve().parents[2] / "server/assets/demo_clip"
PACKET_SAMPLES = SAMPLE_RATE_HZ // 10
PACED_PACKET_S = 0.05
"""Twice as fast as people talk."""
GERMAN_SENTENCES = 5
GERMAN_VOICE = Voice("de", HELD_OUT_VARIANTS[0], rate_wpm=150)
PROMPT = "Alice will review the new contract on Monday. The code for the server is four two nine."
NOISE_SAMPLES = 20 * SAMPLE_RATE_HZ


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerChild]:
    arguments = ["--asr", "demo", "--diarizer", "embedded"]
    async with running_server(arguments, tmp_path_factory.mktemp("demo-checkpoint")) as child:
        yield child


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client holds at the end, and every event on the way."""

    fold: CaptionFold
    events: list[Event]

    @property
    def text(self) -> str:
        return " ".join(caption.text for caption in self.fold.captions)

    @property
    def words(self) -> list[CaptionWord]:
        return [word for caption in self.fold.captions for word in caption.words]


async def caption(
    url: str, audio: Samples, start: Start | None = None, *, paced: bool = False
) -> Heard:
    heard = Heard(CaptionFold(), [])
    async with CaptionStream.open(url, start or Start()) as stream:

        async def send() -> None:
            for first in range(0, len(audio), PACKET_SAMPLES):
                await stream.send(audio[first : first + PACKET_SAMPLES].tobytes())
                if paced:
                    await asyncio.sleep(PACED_PACKET_S)
            await stream.end()

        sending = asyncio.create_task(send())
        async for event in stream:
            heard.fold.apply(event)
            heard.events.append(event)
        await sending
    assert heard.fold.done is not None
    assert not heard.fold.notices, "every second of audio is captioned or judged to be silent"
    return heard


def pcm(sound: Waveform) -> Samples:
    samples: Samples = (np.clip(sound, -1, 1) * 32_767).astype(np.int16)
    return samples


@dataclass(frozen=True, slots=True)
class Reference:
    """The clip's truth. A word ends where the next begins: only its start is its own."""

    text: str
    words: list[tuple[str, float, str]]
    """Text, start in seconds, speaker."""
    turns: list[Turn]


@pytest.fixture(scope="module")
def reference() -> Reference:
    fields = json.loads((CLIP / "reference.json").read_text())
    words = [(word["word"], word["start"], word["speaker"]) for word in fields["words"]]
    turns = [
        Turn(Span(*(samples_from_seconds(turn[end]) for end in ("start", "end"))), turn["speaker"])
        for turn in fields["turns"]
    ]
    return Reference(fields["text"], words, turns)


def clip_audio() -> Samples:
    audio, rate = soundfile.read(CLIP / "clip.flac", dtype="int16")
    assert rate == SAMPLE_RATE_HZ
    samples: Samples = audio
    return samples


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clip(server: ServerChild) -> Heard:
    return await caption(server.url, clip_audio(), paced=True)


Pair = tuple[CaptionWord, tuple[str, float, str]]


def matched(heard: Heard, reference: Reference) -> list[Pair]:
    """Each heard word with the word of the clip that it is, both in order."""
    said = [normalized(text) for text, _, _ in reference.words]
    words = [normalized(word.text) for word in heard.words]
    blocks = SequenceMatcher(None, said, words, autojunk=False).get_matching_blocks()
    return [
        (heard.words[block.b + place], reference.words[block.a + place])
        for block in blocks
        for place in range(block.size)
    ]


async def test_the_clip_is_worded_and_told_apart(clip: Heard, reference: Reference) -> None:
    error_rate = word_error_rate(reference.text, clip.text)
    der = diarization_error_rate(reference.turns, turns_of_words(clip.words))
    print(f"demo clip: WER {error_rate:.3f}, DER {der:.3f}")
    assert error_rate <= 0.05
    assert der <= 0.15
    assert len({word.speaker for word in clip.words}) == 2


async def test_partials_show_the_words_that_become_final(clip: Heard) -> None:
    finals = {event.caption_id: event for event in clip.events if isinstance(event, Final)}
    partials = [event for event in clip.events if isinstance(event, Partial) and event.text]
    assert partials
    agreed = shown = 0
    for partial in partials:
        # The last word may have been heard in part.
        words = normalized(partial.text).split()[:-1]
        final = normalized(finals[partial.caption_id].text).split()
        agreed += sum(a == b for a, b in zip(words, final, strict=False))
        shown += len(words)
    print(f"{len(partials)} partials: {agreed} of {shown} words as in the final")
    assert shown > 0
    assert agreed >= 0.9 * shown


async def test_words_start_when_they_are_said(clip: Heard, reference: Reference) -> None:
    pairs = matched(clip, reference)
    assert len(pairs) >= 0.95 * len(reference.words)
    errors_s = [abs(word.span.start / SAMPLE_RATE_HZ - start_s) for word, (_, start_s, _) in pairs]
    print(f"word starts: median error {statistics.median(errors_s):.3f} s")
    assert statistics.median(errors_s) <= 0.15
    for word, (text, start_s, _) in pairs:
        # No word is over before it is said, nor lasts longer than any word of the domain does.
        assert word.span.end / SAMPLE_RATE_HZ > start_s, text
        assert 0 < word.span.samples <= 1.5 * SAMPLE_RATE_HZ, text
    assert all(a.span.start <= b.span.start for a, b in itertools.pairwise(clip.words))


async def test_every_word_has_its_speaker_at_the_end(clip: Heard, reference: Reference) -> None:
    assert all(word.speaker is not None for word in clip.words)
    pairs = matched(clip, reference)
    labels = sorted({str(word.speaker) for word in clip.words})
    people = sorted({speaker for _, _, speaker in reference.words})
    assert len(labels) == len(people)
    right = max(
        sum(mapping[str(word.speaker)] == speaker for word, (_, _, speaker) in pairs)
        for order in itertools.permutations(people)
        for mapping in [dict(zip(labels, order, strict=True))]
    )
    print(f"attribution: {right} of {len(reference.words)} words")
    assert right >= 0.95 * len(reference.words)


async def test_a_prompt_leaves_right_words_right(
    server: ServerChild, clip: Heard, reference: Reference
) -> None:
    prompted = await caption(server.url, clip_audio(), Start(prompt=PROMPT, partials=False))
    kept = [said for _, said in matched(prompted, reference)]
    lost = [said for _, said in matched(clip, reference) if said not in kept]
    print(f"behind a prompt: WER {word_error_rate(reference.text, prompted.text):.3f}")
    assert not lost


@dataclass(frozen=True, slots=True)
class German:
    """German sentences one after another, and what was said."""

    audio: Samples
    sentences: list[Sentence]


@pytest.fixture(scope="module")
def german() -> German:
    try:
        synthesizer = Synthesizer()
    except SynthesisError as error:
        pytest.skip(str(error))
    rng, pause = Random("spoken to a server"), np.zeros(SAMPLE_RATE_HZ, np.float32)
    sentences = [draw(rng, "de") for _ in range(GERMAN_SENTENCES)]
    parts = [pause]
    for sentence in sentences:
        parts += [synthesizer.say(sentence.text, GERMAN_VOICE).samples, pause]
    return German(pcm(np.concatenate(parts)), sentences)


async def test_german_is_found_and_kept(server: ServerChild, german: German) -> None:
    heard = await caption(server.url, german.audio, Start(partials=False))
    found = [event for event in heard.events if isinstance(event, LanguageDetected)]
    error_rate = word_error_rate(" ".join(s.text for s in german.sentences), heard.text)
    print(f"German: WER {error_rate:.3f}, language {found}")
    assert [event.language for event in found] == ["de"]
    finals = [event for event in heard.events if isinstance(event, Final)]
    assert {final.language for final in finals if final.seq > found[0].seq} == {"de"}
    assert error_rate <= 0.10


async def test_german_becomes_english(server: ServerChild, german: German) -> None:
    start = Start(language="de", task="translate", partials=False)
    heard = await caption(server.url, german.audio, start)
    truth = " ".join(str(sentence.translation) for sentence in german.sentences)
    error_rate = word_error_rate(truth, heard.text)
    print(f"German to English: WER {error_rate:.3f}: {heard.text}")
    assert error_rate <= 0.15


def silence(_: np.random.Generator, length: int) -> Waveform:
    return np.zeros(length, np.float32)


def tone(_: np.random.Generator, length: int) -> Waveform:
    found: Waveform = np.sin(2 * np.pi * 440 / SAMPLE_RATE_HZ * np.arange(length)) * 0.3
    return found


def white(rng: np.random.Generator, length: int) -> Waveform:
    return noise.level(rng.standard_normal(length, np.float32), -25)


def babble(rng: np.random.Generator, length: int) -> Waveform:
    try:
        corpus = Corpus(Split.TEST, "babble for a server", None)
    except SynthesisError as error:
        pytest.skip(str(error))
    return corpus.babble(rng, length)


@pytest.mark.parametrize("sound", [silence, white, tone, babble], ids=lambda f: str(f.__name__))
async def test_sounds_without_speech_have_no_words(server: ServerChild, sound: noise.Sound) -> None:
    heard = await caption(server.url, pcm(sound(np.random.default_rng(7), NOISE_SAMPLES)))
    assert heard.words == []
    assert not [event for event in heard.events if isinstance(event, Partial) and event.text]


SENTENCE_S, MUTED_S, RESUMED_S, MUTE_MS = 6.5, 7.91, 9.6, 20_000
"""In the clip: before, within and after "Maria will review the new budget on Monday."."""


async def test_a_mute_in_mid_sentence_parts_it_and_moves_the_rest(server: ServerChild) -> None:
    audio, muted = clip_audio(), samples_from_seconds(MUTED_S)
    before_mute = samples_from_seconds(SENTENCE_S)
    finals: list[Final] = []
    async with CaptionStream.open(server.url, Start(partials=False)) as stream:
        await stream.send(audio[:muted].tobytes())
        async for event in stream:
            if not isinstance(event, Final):
                continue
            finals.append(event)
            if before_mute < event.span.start < muted:
                await stream.skip(MUTE_MS)
                await stream.send(audio[muted : samples_from_seconds(RESUMED_S)].tobytes())
                await stream.end()
    before, after = (final for final in finals if final.span.start > before_mute)
    print(f"before the mute: {before.text!r}, after it: {after.text!r}")
    # A checkpoint of few sentences may end a broken one by itself; exact words around a mute are
    # what the scripted engine shows (test_mute.py, test_lanes.py).
    assert normalized(before.text).startswith("maria will review")
    assert normalized(after.text) in {"the new budget on monday", "new budget on monday"}
    start_s = after.span.start / SAMPLE_RATE_HZ - MUTE_MS / 1000
    assert MUTED_S - 0.05 <= start_s <= RESUMED_S

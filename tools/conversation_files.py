"""A conversation's audio and truth as files: FLAC, RTTM, STM, CTM, plain text.

Owns: the formats. RTTM has one line per turn, STM one per utterance, CTM one per word with the
speaker as its channel, so that nobody has to guess whose a word in an overlap is. Times are
seconds with three decimals; everything in a conversation lies on whole milliseconds, so nothing is
rounded but words.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, TimedWord


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one person says in one go; seconds from the start of the recording."""

    speaker: str
    start_s: float
    end_s: float
    words: tuple[TimedWord, ...]
    active_s: tuple[tuple[float, float], ...]
    """When there is speech: a single stretch, unless the recording has pauses."""

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A recording and all that is said in it, by start."""

    name: str
    samples: Samples
    utterances: tuple[Utterance, ...]

    @property
    def has_words(self) -> bool:
        return all(utterance.words for utterance in self.utterances)

    @property
    def words(self) -> list[tuple[str, TimedWord]]:
        """Speaker and word, by time."""
        said = [(u.speaker, word) for u in self.utterances for word in u.words]
        return sorted(said, key=lambda pair: (pair[1].start_s, pair[1].end_s))


def write_conversation(conversation: Conversation, folder: Path) -> dict[str, str]:
    """Writes the files and returns the recording's line of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    name = conversation.name
    pcm = np.clip(np.round(conversation.samples * 32_768), -32_768, 32_767).astype(np.int16)
    soundfile.write(folder / f"{name}.flac", pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
    files = {"rttm": rttm(conversation)}
    if conversation.has_words:
        text = " ".join(word.text for _, word in conversation.words)
        files |= {"stm": stm(conversation), "ctm": ctm(conversation), "txt": text + "\n"}
    for suffix, content in files.items():
        (folder / f"{name}.{suffix}").write_text(content, encoding="utf-8")
    line = {"audio": f"{name}.flac", "language": "en"}
    keys = {"rttm": "rttm", "stm": "stm", "ctm": "ctm", "txt": "text"}
    return line | {keys[suffix]: f"{name}.{suffix}" for suffix in files}


def rttm(conversation: Conversation) -> str:
    return _lines(
        f"SPEAKER {conversation.name} 1 {start_s:.3f} {end_s - start_s:.3f} <NA> <NA> "
        f"{utterance.speaker} <NA> <NA>"
        for utterance in conversation.utterances
        for start_s, end_s in utterance.active_s
    )


def stm(conversation: Conversation) -> str:
    return _lines(
        f"{conversation.name} 1 {u.speaker} {u.start_s:.3f} {u.end_s:.3f} {u.text}"
        for u in conversation.utterances
    )


def ctm(conversation: Conversation) -> str:
    return _lines(
        f"{conversation.name} {speaker} {word.start_s:.3f} {word.end_s - word.start_s:.3f} "
        f"{word.text} 1.00"
        for speaker, word in conversation.words
    )


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)

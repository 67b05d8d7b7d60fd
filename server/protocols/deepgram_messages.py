"""Deepgram's JSON: what captiond's words, times and speakers look like to Deepgram's clients.

Every key that a client of theirs reads is there, always: some index without asking. No message has
a type that their clients do not know. Times are seconds on the clock of the submitted audio.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streaming.events import CaptionWord
from streaming.timeline import Span, seconds

Message = dict[str, Any]

UNKNOWN_CONFIDENCE = 1.0
"""Of a recognizer that gives none: the field is required, and clients drop what has a low one."""
DISPLAYED_SYMBOLS = frozenset("%#@&*")
"""Punctuation to Unicode, but said aloud."""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word as Deepgram's clients know it: never punctuation alone."""

    text: str
    """As written, with its punctuation."""
    plain: str
    """Lower case, without."""
    span: Span
    confidence: float
    speaker: int | None
    is_glued: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What recognizes; shown to clients, acted upon by none."""

    uuid: str
    name: str
    version: str
    arch: str

    def fields(self) -> Message:
        return {"name": self.name, "version": self.version, "arch": self.arch}


def plain_text(text: str) -> str:
    """Lower case, without punctuation at its ends."""
    first, last = 0, len(text)
    while first < last and _is_punctuation(text[first]):
        first += 1
    while last > first and _is_punctuation(text[last - 1]):
        last -= 1
    return text[first:last].lower()


def _is_punctuation(character: str) -> bool:
    is_mark = unicodedata.category(character)[0] in "PZC"
    return is_mark and character not in DISPLAYED_SYMBOLS


def spoken_words(words: Sequence[CaptionWord], voices: Sequence[int | None]) -> list[SpokenWord]:
    """The words, each with its voice; punctuation that stands alone goes to the word before."""
    spoken: list[SpokenWord] = []
    before = ""
    for word, voice in zip(words, voices, strict=True):
        plain, text = plain_text(word.text), word.text.strip()
        if not plain and spoken:
            spoken[-1] = replace(spoken[-1], text=spoken[-1].text + text)
        elif not plain:
            before += text
        else:
            confidence = UNKNOWN_CONFIDENCE if word.confidence is None else word.confidence
            is_glued = word.is_glued and bool(spoken)
            spoken.append(SpokenWord(before + text, plain, word.span, confidence, voice, is_glued))
            before = ""
    return spoken


def transcript(words: Sequence[SpokenWord], *, punctuate: bool) -> str:
    parts = ((word.text if punctuate else word.plain, word.is_glued) for word in words)
    return "".join(text if is_glued else f" {text}" for text, is_glued in parts).strip()


def word_fields(word: SpokenWord, *, punctuate: bool) -> Message:
    fields: Message = {
        "word": word.plain,
        "start": seconds(word.span.start),
        "end": seconds(word.span.end),
        "confidence": word.confidence,
    }
    if punctuate:
        fields["punctuated_word"] = word.text
    if word.speaker is not None:
        fields["speaker"] = word.speaker
    return fields


def alternative(
    words: Sequence[SpokenWord], *, punctuate: bool, language: str | None = None
) -> Message:
    """``language``: told where the client left it open."""
    confidences = [word.confidence for word in words]
    fields: Message = {
        "transcript": transcript(words, punctuate=punctuate),
        "confidence": round(sum(confidences) / len(confidences), 3) if confidences else 0.0,
        "words": [word_fields(word, punctuate=punctuate) for word in words],
    }
    if language is not None:
        fields["languages"] = [language]
        for word in fields["words"]:
            word["language"] = language
    return fields


@dataclass(frozen=True, slots=True)
class Flags:
    """What a ``Results`` says about its place in the talk."""

    is_final: bool = True
    speech_final: bool = False
    from_finalize: bool = False


class Phrasebook:
    """The messages of one request."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.channels = 1
        self.model = ModelInfo("", "", "", "")
        """Both are to be set as soon as there is a session."""

    def results(self, channel: int, span: Span, flags: Flags, told: Message) -> Message:
        """``told``: an ``alternative``."""
        return {
            "type": "Results",
            "channel_index": [channel, self.channels],
            "duration": seconds(span.samples),
            "start": seconds(span.start),
            "is_final": flags.is_final,
            "speech_final": flags.speech_final,
            "from_finalize": flags.from_finalize,
            "channel": {"alternatives": [told]},
            "metadata": {
                "request_id": self.request_id,
                "model_info": self.model.fields(),
                "model_uuid": self.model.uuid,
            },
        }

    def nothing_to_finalize(self) -> Message:
        """Answers a Finalize before any audio."""
        flags = Flags(speech_final=True, from_finalize=True)
        return self.results(0, Span(0, 0), flags, alternative([], punctuate=False))

    def speech_started(self, channel: int, at: int) -> Message:
        place = [channel, self.channels]
        return {"type": "SpeechStarted", "channel": place, "timestamp": seconds(at)}

    def utterance_end(self, channel: int, last_word_end: int) -> Message:
        place = [channel, self.channels]
        return {"type": "UtteranceEnd", "channel": place, "last_word_end": seconds(last_word_end)}

    def error(self, variant: str, description: str, message: str | None = None) -> Message:
        """``message``: the client's own, where it is about one."""
        fields = {"type": "Error", "variant": variant, "description": description}
        return fields if message is None else {**fields, "message": message}

    def configured(self, keyterms: Sequence[str] | None) -> Message:
        """``keyterms``: those in effect, where they were replaced."""
        fields: Message = {"type": "ConfigureSuccess", "request_id": self.request_id}
        return fields if keyterms is None else {**fields, "keyterms": list(keyterms)}

    def not_configured(self, code: str, description: str) -> Message:
        return {
            "type": "ConfigureFailure",
            "request_id": self.request_id,
            "code": code,
            "description": description,
        }

    def metadata(self, *, sha256: str, created: str, duration_s: float) -> Message:
        """The last message of all."""
        models: Mapping[str, Message] = {self.model.uuid: self.model.fields()}
        return {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self.request_id,
            "sha256": sha256,
            "created": created,
            "duration": duration_s,
            "channels": self.channels,
            "models": [self.model.uuid],
            "model_info": models,
        }

"""The address of a Deepgram request → what the session is to do, and what the client wants told.

Owns the names, defaults and ranges of ``/v1/listen``'s query parameters. What captiond has no use
for is accepted and named in ``ignored``; what would be understood wrongly is refused before the
upgrade. Unknown names are ignored: clients send whatever their vendor added last.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from multidict import MultiMapping

from streaming.errors import UnsupportedOption
from streaming.timeline import samples_from_ms
from streaming.tuning_ranges import ENDPOINTING_MS_MAX
from streaming.wire import (
    CHANNELS_MAX,
    KEYWORDS_MAX,
    NAME_CHARACTERS_MAX,
    SAMPLE_RATE_HZ_MAX,
    SAMPLE_RATE_HZ_MIN,
    AudioFormat,
    Encoding,
    Start,
)

RAW_ENCODINGS: Mapping[str, Encoding] = {
    "linear16": "pcm_s16le",
    "linear32": "pcm_f32le",
    "mulaw": "mulaw",
    "alaw": "alaw",
}
CODED_ENCODINGS = ("flac", "ogg-opus", "opus", "amr-nb", "amr-wb")
UNDECODED_ENCODINGS = ("speex", "g729")
"""No decoder here takes them without a container."""
UTTERANCE_END_MS_MIN, UTTERANCE_END_MS_MAX = 100, 60_000
DEFAULT_LANGUAGE = "en"
ANY_LANGUAGE = "multi"
ACCEPTED_AND_IGNORED = (
    *("alternatives", "detect_entities", "dictation", "extra", "filler_words", "intents"),
    *("language_hint", "measurements", "mip_opt_out", "no_delay", "numerals"),
    *("profanity_filter", "redact", "replace", "search", "sentiment", "summarize", "tag"),
    *("topics", "utt_split", "version"),
)
REFUSED = {
    "callback": "results come over this connection; leave callback out",
    "callback_method": "results come over this connection; leave callback out",
}
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


class _Values:
    """The parameters, read one by one. Raises: UnsupportedOption."""

    def __init__(self, query: MultiMapping[str]) -> None:
        self._query = query

    def all(self, name: str) -> list[str]:
        return self._query.getall(name, [])

    def last(self, name: str) -> str | None:
        """None where it is missing or empty."""
        values = self.all(name)
        return values[-1].strip() or None if values else None

    def flag(self, name: str) -> bool:
        value = (self.last(name) or "").lower()
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        raise UnsupportedOption(f"{name}={value}; write true or false")

    def is_asked(self, name: str) -> bool:
        return (self.last(name) or "").lower() not in _FALSE

    def number(self, name: str) -> int | None:
        value = self.last(name)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError:
            raise UnsupportedOption(f"{name}={value}; write a whole number") from None

    def pause_ms(self) -> int | None:
        """Silence that ends an utterance; 0 where its end is not to be told, None by default."""
        value = (self.last("endpointing") or "").lower()
        if value in ("false", "0"):
            return 0
        return None if value in ("", "true") else self.number("endpointing")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the client wants to be told, and how."""

    multichannel: bool = False
    """Channels are told apart; else they are heard as one."""
    interim: bool = False
    endpoints: bool = True
    """Finals say where an utterance ended."""
    utterance_end_samples: int | None = None
    speech_events: bool = False
    diarize: bool = False
    punctuate: bool = False
    tells_language: bool = False
    detects_language: bool = False
    """Prerecorded, as what follows."""
    tells_utterances: bool = False
    tells_paragraphs: bool = False


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """One request."""

    terms: Terms
    start: Start
    """Its audio holds where ``encoding`` is raw; else what is decoded says."""
    encoding: str | None
    """None: a container that says it itself."""
    sample_rate: int | None
    channels: int
    """In the client's audio."""
    model: str | None
    ignored: tuple[str, ...]
    """Names of parameters that change nothing here."""

    def in_any_language(self) -> "ListenOptions":
        """The same, with the language to be found."""
        return replace(self, start=self.start.model_copy(update={"language": None}))

    @property
    def is_raw(self) -> bool:
        return self.encoding in RAW_ENCODINGS

    @property
    def raw_encoding(self) -> Encoding:
        """Where it is raw."""
        return RAW_ENCODINGS[self.encoding or ""]

    @property
    def is_mixed(self) -> bool:
        """Several channels, to be heard as one."""
        return self.channels > 1 and not self.terms.multichannel


def parse_query(parameters: MultiMapping[str], *, pause_ms_min: int) -> ListenOptions:
    """``pause_ms_min``: the server's own silence at the end of an utterance. Clients ask for 10 to
    300 ms by default, which would cut a phrase wherever somebody breathes, and cost words.

    Raises: UnsupportedOption, with the name of the parameter.
    """
    query = _Values(parameters)
    for name, advice in REFUSED.items():
        if query.last(name):
            raise UnsupportedOption(f"{name} is not supported: {advice}")
    encoding, sample_rate = _encoding(query), query.number("sample_rate")
    if encoding in RAW_ENCODINGS and sample_rate is None:
        raise UnsupportedOption(f"encoding={encoding} needs sample_rate, such as 16000")
    _check("sample_rate", sample_rate, SAMPLE_RATE_HZ_MIN, SAMPLE_RATE_HZ_MAX)
    channels = query.number("channels") or 1
    _check("channels", channels, 1, CHANNELS_MAX)
    terms = _terms(query)
    return ListenOptions(
        terms=terms,
        start=_start(
            query, terms, _raw_audio(terms, encoding, sample_rate, channels), pause_ms_min
        ),
        encoding=encoding,
        sample_rate=sample_rate,
        channels=channels,
        model=query.last("model"),
        ignored=tuple(name for name in ACCEPTED_AND_IGNORED if query.is_asked(name)),
    )


def _encoding(query: _Values) -> str | None:
    encoding = (query.last("encoding") or "").lower() or None
    if encoding is None or encoding in RAW_ENCODINGS or encoding in CODED_ENCODINGS:
        return encoding
    if encoding in UNDECODED_ENCODINGS:
        raise UnsupportedOption(
            f"encoding={encoding} cannot be decoded here; send opus, mulaw or linear16, or leave "
            "encoding out where the audio is in an Ogg container"
        )
    offered = ", ".join((*RAW_ENCODINGS, *CODED_ENCODINGS))
    raise UnsupportedOption(f'encoding "{encoding}"; choose one of {offered}, or leave it out')


def _terms(query: _Values) -> Terms:
    utterance_end_ms = query.number("utterance_end_ms")
    _check("utterance_end_ms", utterance_end_ms, UTTERANCE_END_MS_MIN, UTTERANCE_END_MS_MAX)
    return Terms(
        multichannel=query.flag("multichannel"),
        interim=query.flag("interim_results"),
        endpoints=query.pause_ms() != 0,
        utterance_end_samples=utterance_end_ms and samples_from_ms(utterance_end_ms),
        speech_events=query.flag("vad_events"),
        diarize=_wants_speakers(query),
        punctuate=query.flag("punctuate") or query.flag("smart_format"),
        tells_language=query.last("language") == ANY_LANGUAGE,
        detects_language=query.flag("detect_language"),
        tells_utterances=query.flag("utterances"),
        tells_paragraphs=query.flag("paragraphs") or query.flag("smart_format"),
    )


def _wants_speakers(query: _Values) -> bool:
    model = (query.last("diarize_model") or "").lower()
    return bool(model) or query.flag("diarize")


def _is_any_language(query: _Values) -> bool:
    return query.last("language") == ANY_LANGUAGE or query.flag("detect_language")


def _raw_audio(
    terms: Terms, encoding: str | None, sample_rate: int | None, channels: int
) -> AudioFormat:
    """As the session gets it, mixed where need be; of coded audio nothing is known yet."""
    if encoding is None or encoding not in RAW_ENCODINGS or sample_rate is None:
        return AudioFormat()
    if channels > 1 and not terms.multichannel:
        return AudioFormat(sample_rate=sample_rate)
    raw = RAW_ENCODINGS[encoding]
    return AudioFormat(encoding=raw, sample_rate=sample_rate, channels=channels)


def _start(query: _Values, terms: Terms, audio: AudioFormat, pause_ms_min: int) -> Start:
    pause_ms = query.pause_ms() or 0
    return Start(
        audio=audio,
        language=None if _is_any_language(query) else _language(query.last("language")),
        keywords=_keywords(query),
        diarize=terms.diarize,
        partials=terms.interim,
        endpointing_ms=min(pause_ms, ENDPOINTING_MS_MAX) if pause_ms > pause_ms_min else None,
    )


def _language(tag: str | None) -> str:
    """What recognizers go by, of a BCP-47 tag: ``en-US`` is ``en``."""
    language = (tag or DEFAULT_LANGUAGE).replace("_", "-").partition("-")[0].lower()
    if not (2 <= len(language) <= 3 and language.isascii() and language.isalpha()):
        raise UnsupportedOption(f'language "{tag}"; write it as "en", "en-US" or "{ANY_LANGUAGE}"')
    return language


def _keywords(query: _Values) -> list[str]:
    """Phrases of ``keyterm``, and those of ``keywords`` without their boost."""
    weighted = (text.rpartition(":") for text in query.all("keywords"))
    plain = [
        word if colon and _is_number(boost) else f"{word}{colon}{boost}"
        for word, colon, boost in weighted
    ]
    return checked_keywords([*query.all("keyterm"), *plain])


def checked_keywords(phrases: Iterable[str]) -> list[str]:
    """Raises: UnsupportedOption where they are too many or too long."""
    found = [phrase for phrase in (" ".join(text.split()) for text in phrases) if phrase]
    if len(found) > KEYWORDS_MAX:
        raise UnsupportedOption(f"{len(found)} keyterms; give at most {KEYWORDS_MAX}")
    for phrase in found:
        if len(phrase) > NAME_CHARACTERS_MAX:
            raise UnsupportedOption(
                f"a keyterm of {len(phrase)} characters; give at most {NAME_CHARACTERS_MAX}"
            )
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise UnsupportedOption(f"{name}={value}; give {least} to {most}")

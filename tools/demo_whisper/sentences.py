"""The closed domain: short meeting sentences, numbers and digit strings, in English and German.

Pure: one random generator in, one sentence out.  German sentences carry an English translation
made of words of the English grammar.  Sentences whose hash is reserved (the demo clip's) are
never drawn.
"""

import hashlib
import json
import random
import re
import string
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RESERVED_FILE = Path(__file__).with_name("reserved.json")


def words_of(text: str) -> list[str]:
    """A list of words, written as people read one."""
    return text.split()


DIGITS = words_of("zero one two three four five six seven eight nine")
_ONES = [*DIGITS, "ten", "eleven", "twelve"]
_TENS = words_of("twenty thirty forty fifty sixty seventy eighty ninety")
_NAMES = words_of("Alice Robert Maria David Susan Kevin Laura Peter Anna Thomas")
SPELLINGS = {"Anna": "Annah", "David": "Davide", "Robert": "Roberto", "Susan": "Susann"}
"""Names with a second spelling, which is written where a prompt or a keyword lists it. The other
six names have none. Each ends in a letter of its own: which spelling a prompt lists can then be
seen at one of its tokens, and a decoder of three layers learns to look there."""
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
_PLACES = words_of("Berlin London Paris Chicago Texas Boston Tokyo Madrid")
_TOPICS = words_of(
    "budget project report server release customer contract design product market schedule "
    "meeting training support security database network office travel website team plan"
)
_ADJECTIVES = words_of(
    "new old first second final next last good bad big small early late open ready important "
    "difficult simple"
)
_VERBS = words_of(
    "review finish start change send test build discuss cancel approve update check close move plan"
)

DIGITS_DE = words_of("null eins zwei drei vier fünf sechs sieben acht neun")
_ONES_DE = [*DIGITS_DE, "zehn", "elf", "zwölf"]
_DAYS_DE = ["Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag"]
_PLACES_DE = words_of("Berlin London Paris Boston Tokio Madrid")
_NOUNS_DE = [  # nominative, accusative, English
    ("das Budget", "das Budget", "budget"),
    ("das Projekt", "das Projekt", "project"),
    ("der Bericht", "den Bericht", "report"),
    ("der Server", "den Server", "server"),
    ("der Kunde", "den Kunden", "customer"),
    ("der Vertrag", "den Vertrag", "contract"),
    ("das Produkt", "das Produkt", "product"),
    ("der Markt", "den Markt", "market"),
    ("das Treffen", "das Treffen", "meeting"),
    ("die Sicherheit", "die Sicherheit", "security"),
    ("die Datenbank", "die Datenbank", "database"),
    ("das Netzwerk", "das Netzwerk", "network"),
    ("das Büro", "das Büro", "office"),
    ("die Reise", "die Reise", "travel"),
    ("der Plan", "den Plan", "plan"),
]
_VERBS_DE = [
    ("prüfen", "check"),
    ("beenden", "finish"),
    ("starten", "start"),
    ("ändern", "change"),
    ("schicken", "send"),
    ("testen", "test"),
    ("bauen", "build"),
    ("besprechen", "discuss"),
    ("absagen", "cancel"),
    ("planen", "plan"),
]
_ADJECTIVES_DE = [
    ("neu", "new"),
    ("alt", "old"),
    ("gut", "good"),
    ("schlecht", "bad"),
    ("groß", "big"),
    ("klein", "small"),
    ("offen", "open"),
    ("fertig", "ready"),
    ("wichtig", "important"),
    ("schwierig", "difficult"),
    ("einfach", "simple"),
]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as written; ``translation`` is its English, None when it is English itself."""

    text: str
    language: str
    translation: str | None = None


def text_hash(text: str) -> str:
    """What ``reserved.json`` lists for a sentence or a voice: SHA-256 of the text in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def reserved_hashes() -> frozenset[str]:
    """Sentences and voice variants of the demo clip, kept out of training."""
    listed = json.loads(RESERVED_FILE.read_text())
    return frozenset([*listed["sentences"], *listed["variants"]])


def draw(rng: random.Random, language: str) -> Sentence:
    """One sentence in ``language`` ("en" or "de") that the demo clip does not hold."""
    while True:
        sentence = _english(rng) if language == "en" else _german(rng)
        if text_hash(sentence.text) not in reserved_hashes():
            return sentence


def draw_named(rng: random.Random, language: str, names: Collection[str] = SPELLINGS) -> Sentence:
    """One sentence that holds one of ``names``, some of the grammar's."""
    while True:
        sentence = draw(rng, language)
        if not said_in(sentence.text).isdisjoint(names):
            return sentence


def said_in(text: str) -> set[str]:
    """The words of ``text``, without marks."""
    return set(re.findall(r"\w+", text))


def respelled(text: str, given: str) -> str:
    """``text`` with every name in its second spelling that ``given`` lists."""
    listed = said_in(given)
    for usual, second in SPELLINGS.items():
        if second in listed:
            text = re.sub(rf"\b{usual}\b", second, text)
    return text


def digit_string(rng: random.Random, count: int, language: str = "en") -> list[str]:
    """``count`` random digits as words, from a capital to a full stop."""
    words = [rng.choice(DIGITS if language == "en" else DIGITS_DE) for _ in range(count)]
    words[0] = words[0].capitalize()
    words[-1] += "."
    return words


def spelled_words() -> Iterator[str]:
    """Every written form in the domain, in a fixed order (from which the tokenizer is made)."""
    rng = random.Random("spelled words")
    for language in ("en", "de"):
        for _ in range(6_000):
            sentence = draw(rng, language)
            yield from (sentence.text + " " + (sentence.translation or "")).split()
        for digit in DIGITS if language == "en" else DIGITS_DE:
            yield from (digit, digit + ".", digit.capitalize(), digit.capitalize() + ".")


def _english(rng: random.Random) -> Sentence:
    text, _ = _filled(rng, rng.choice(_ENGLISH), "", _SLOTS)
    return Sentence(text, "en")


def _german(rng: random.Random) -> Sentence:
    text, translation = _filled(rng, *rng.choice(_GERMAN), _SLOTS_DE)
    return Sentence(_capitalised(text), "de", _capitalised(translation))


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


# A slot draws a word, or a (German, English) pair of words; "{topic2}" is a second draw of
# "{topic}".
_Pair = tuple[str, str]
_Slots = dict[str, Callable[[random.Random], _Pair]]


def _filled(rng: random.Random, template: str, translation: str, slots: _Slots) -> _Pair:
    """Both templates with one draw per slot of the first."""
    fields = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    drawn = {name: slots[name.rstrip("2")](rng) for name in fields}
    own = {name: pair[0] for name, pair in drawn.items()}
    english = {name: pair[1] for name, pair in drawn.items()}
    return template.format(**own), translation.format(**english)


def _one_of(pairs: list[_Pair]) -> Callable[[random.Random], _Pair]:
    return lambda rng: rng.choice(pairs)


def _same(words: list[str]) -> Callable[[random.Random], _Pair]:
    return _one_of([(word, word) for word in words])


def _number(rng: random.Random) -> _Pair:
    """Zero to twelve, or a two-word number such as "thirty four"."""
    if rng.random() < 0.6:
        return (number := rng.choice(_ONES)), number
    return (number := f"{rng.choice(_TENS)} {rng.choice(_ONES[1:10])}"), number


def _digits(rng: random.Random) -> _Pair:
    """Three to seven digits in German and in English."""
    values = [rng.randrange(10) for _ in range(rng.randint(3, 7))]
    return " ".join(DIGITS_DE[v] for v in values), " ".join(DIGITS[v] for v in values)


_SLOTS: _Slots = {
    "name": _same(_NAMES),
    "topic": _same(_TOPICS),
    "verb": _same(_VERBS),
    "adjective": _same(_ADJECTIVES),
    "day": _same(_DAYS),
    "place": _same(_PLACES),
    "number": _number,
    "digits": lambda rng: _digits(rng)[::-1],
}

_SLOTS_DE: _Slots = {
    "name": _same(_NAMES),
    "noun": _one_of([(nominative, f"the {english}") for nominative, _, english in _NOUNS_DE]),
    "thing": _one_of([(accusative, f"the {english}") for _, accusative, english in _NOUNS_DE]),
    "verb": _one_of(_VERBS_DE),
    "adjective": _one_of(_ADJECTIVES_DE),
    "day": _one_of(list(zip(_DAYS_DE, _DAYS, strict=True))),
    "place": _one_of([(place, place.replace("Tokio", "Tokyo")) for place in _PLACES_DE]),
    "number": _one_of(list(zip(_ONES_DE, _ONES, strict=True))[2:]),
    "digits": _digits,
}

_ENGLISH = (
    "{name} will {verb} the {adjective} {topic} on {day}.",
    "We need to {verb} the {topic} before {day}.",
    "Can you {verb} the {topic} with {name}?",
    "The {topic} is {adjective}, but the {topic2} is not {adjective2}.",
    "I think the {adjective} {topic} has {number} problems.",
    "Our team in {place} has {number} people.",
    "Yes, I will {verb} it.",
    "No, that is not {adjective}.",
    "Thank you, {name}.",
    "Hello, this is {name} in {place}.",
    "Please {verb} the {topic} and the {topic2}.",
    "Let us {verb} this {day} at {number}.",
    "How many people are in {place}?",
    "Room number {number} is {adjective}.",
    "My number is {digits}.",
    "The code for the {topic} is {digits}.",
    "I did not {verb} the {topic} because it was {adjective}.",
    "What about the {topic} in {place}?",
    "That sounds {adjective} to me.",
    "{name} and {name2} are in {place} today.",
    "When can we {verb} the {topic}?",
)

_GERMAN = (
    ("{name} wird {thing} am {day} {verb}.", "{name} will {verb} {thing} on {day}."),
    ("Wir müssen {thing} vor {day} {verb}.", "We need to {verb} {thing} before {day}."),
    ("Kannst du {thing} mit {name} {verb}?", "Can you {verb} {thing} with {name}?"),
    ("{noun} ist {adjective}.", "{noun} is {adjective}."),
    (
        "{noun} ist {adjective}, aber {noun2} ist nicht {adjective2}.",
        "{noun} is {adjective}, but {noun2} is not {adjective2}.",
    ),
    ("Unser Team in {place} hat {number} Leute.", "Our team in {place} has {number} people."),
    ("Ja, ich werde es {verb}.", "Yes, I will {verb} it."),
    ("Nein, das ist nicht {adjective}.", "No, that is not {adjective}."),
    ("Vielen Dank, {name}.", "Thank you, {name}."),
    ("Hallo, hier ist {name} in {place}.", "Hello, this is {name} in {place}."),
    ("Meine Nummer ist {digits}.", "My number is {digits}."),
    ("Raum Nummer {number} ist {adjective}.", "Room number {number} is {adjective}."),
    ("Wo ist {noun} in {place}?", "Where is {noun} in {place}?"),
    ("Das klingt {adjective}.", "That sounds {adjective} to me."),
)

"""Names, ids and words as fields of formats that separate fields by spaces (RTTM, STM, CTM).

Invariant F1: speakers who differ in the transcript differ in its files, and each is the same in all
of them.
"""

from collections.abc import Callable, Iterable

from streaming.exports.transcript import plain, rounded_ms
from streaming.timeline import Span

FILE_ID = "session"
"""Where the session's own id is not known."""
UNKNOWN = "unknown"
"""The speaker of words that nobody was found for, in formats that want one."""

_INERT = str.maketrans({"<": "‹", ">": "›", "{": "❴", "}": "❵"})
"""Labels and alternatives to the readers of STM and CTM."""
_IN_NAMES = str.maketrans({" ": "_", '"': "”"})
"""A name with a quote would swallow the lines after it in readers that are made for CSV."""
_MISSING = frozenset(
    {
        *("#n/a", "#na", "n/a", "na", "nan", "-nan", "none", "null"),
        *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    }
)
"""In lower case, what pandas, and so pyannote.database, reads as no name at all."""

Field = Callable[[str], str]


def name_field(name: str) -> str:
    """A speaker's name, spaces as underscores."""
    field = word_field(name).translate(_IN_NAMES)
    return f"{field}_" if field.lower() in _MISSING else field


def file_field(file_id: str) -> str:
    """Not a comment, which a semicolon begins, and never empty."""
    field = name_field(plain(file_id).lstrip("\ufeff"))
    return field.replace(";", ",") or FILE_ID


def word_field(word: str) -> str:
    return word.translate(_INERT)


def distinct_names(speakers: Iterable[str], to_field: Field) -> dict[str | None, str]:
    """Each speaker's field, numbered where two would be alike; None is there too."""
    fields: dict[str | None, str] = {None: UNKNOWN}
    taken = {UNKNOWN}
    for speaker in speakers:
        field, number = to_field(speaker), 2
        while field in taken:
            field, number = f"{to_field(speaker)}_{number}", number + 1
        fields[speaker] = field
        taken.add(field)
    return fields


def lasting_ms(span: Span) -> tuple[int, int]:
    """Start and end, a millisecond apart at least: readers drop or refuse what takes no time."""
    start_ms = rounded_ms(span.start)
    return start_ms, max(start_ms + 1, rounded_ms(span.end))


def decimal_seconds(ms: int) -> str:
    return f"{ms // 1000}.{ms % 1000:03}"

"""Names that people gave to a session's speakers: kept beside its events, which never change.

Owns: which speaker is called what, in the store, and word of it to those who read along. Events
say ``S1`` for ever; whoever shows or exports them puts the name in its place. Knows no requests.
Invariants: N1 a name is one inert line, and none that a speaker of some session could have by
itself; N2 at most ``NAMES_MAX`` of a session; N3 they go with their session.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from server.store import TranscriptStore
from streaming.errors import BadMessage, UnsupportedOption
from streaming.exports.transcript import plain
from streaming.wire import NAME_CHARACTERS_MAX

NAMES_MAX = 200
"""Ten times as many people as there are lanes."""

_MADE_UP = re.compile(r"S\d+")
Wake = Callable[[], None]


def checked_names(changes: Mapping[str, object]) -> dict[str, str | None]:
    """Speaker → name, or None to take the name away. Raises: BadMessage."""
    if not changes or len(changes) > NAMES_MAX:
        raise BadMessage(f"give 1 to {NAMES_MAX} speakers, each with a name or null")
    return {_checked_speaker(speaker): _checked(name) for speaker, name in changes.items()}


def _checked_speaker(speaker: str) -> str:
    if not 1 <= len(speaker) <= NAME_CHARACTERS_MAX or not _is_encodable(speaker):
        raise BadMessage("each speaker is called as in the captions, such as S1")
    return speaker


def _checked(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not _is_encodable(name):
        raise BadMessage("a name is text, or null to take it away")
    line = plain(name)
    if not 1 <= len(line) <= NAME_CHARACTERS_MAX:
        raise BadMessage(f"a name has 1 to {NAME_CHARACTERS_MAX} characters that can be seen")
    if _MADE_UP.fullmatch(line):
        raise BadMessage(f"{line} is what an unnamed speaker may be called; choose another name")
    return line


def _is_encodable(text_: str) -> bool:
    try:
        text_.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text_  # PostgreSQL's text cannot hold it


@dataclass(slots=True)
class _Audience:
    """Of one session, while there is any."""

    wakes: set[Wake] = field(default_factory=set)
    changes: int = 0


class SpeakerNames:
    """Those of all sessions of one store."""

    def __init__(self, store: TranscriptStore) -> None:
        self._store = store
        self._audiences: dict[str, _Audience] = {}

    async def of(self, session_id: str) -> dict[str, str]:
        """Speaker → name. Raises: StoreError."""
        return await self._store.names(session_id)

    async def give(self, session_id: str, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Store the changes, all or none, and tell the audience; returns all names.

        Raises: UnsupportedOption, StoreError.
        """
        named = {**await self.of(session_id), **changes}
        if sum(name is not None for name in named.values()) > NAMES_MAX:
            raise UnsupportedOption(f"a session has at most {NAMES_MAX} names; take some away")
        await self._store.rename(session_id, changes)
        self._tell(session_id)
        return await self.of(session_id)

    def feed(self, session_id: str, wake: Wake) -> "NameFeed":
        """``wake`` is called when there may be new names; close the feed at the end."""
        audience = self._audiences.setdefault(session_id, _Audience())
        audience.wakes.add(wake)
        return NameFeed(self, session_id, wake)

    def _tell(self, session_id: str) -> None:
        audience = self._audiences.get(session_id)
        if audience is not None:
            audience.changes += 1
            for wake in tuple(audience.wakes):
                wake()


class NameFeed:
    """One reader's view of a session's names."""

    def __init__(self, names: SpeakerNames, session_id: str, wake: Wake) -> None:
        self._names = names
        self._session_id = session_id
        self._wake = wake
        self._seen: int | None = None

    async def news(self) -> dict[str, str] | None:
        """All names where they have changed since the last call, and at the first one."""
        changes = self._names._audiences[self._session_id].changes
        if changes == self._seen:
            return None
        self._seen = changes
        return await self._names.of(self._session_id)

    def close(self) -> None:
        audience = self._names._audiences[self._session_id]
        audience.wakes.discard(self._wake)
        if not audience.wakes:
            del self._names._audiences[self._session_id]

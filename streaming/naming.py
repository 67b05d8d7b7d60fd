"""What a session calls what it finds: its captions c1, c2 …, and its speakers S1, S2 …

Owns the counts, which go on where another server does. Knows no words and no voices.
"""

from collections.abc import Set as AbstractSet


class Names:
    """One session's."""

    def __init__(self, captions: int, speakers: int) -> None:
        """So many were given before."""
        self.captions = captions
        self.speakers = speakers

    def new_caption(self) -> str:
        self.captions += 1
        return f"c{self.captions}"

    def new_speaker(self, given: AbstractSet[str | None]) -> str:
        """The next one that nobody was given as a name."""
        self.speakers += 1
        while f"S{self.speakers}" in given:
            self.speakers += 1
        return f"S{self.speakers}"

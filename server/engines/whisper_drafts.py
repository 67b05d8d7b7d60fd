"""What a draft still has to say after the model has disagreed with one of its tokens. Pure.

A draft is a guess and never changes what is decoded, only in how many passes: the model's own
choice always stands. A timestamp that moved by 20 ms, or a word that was misheard in the middle,
need not cost the rest of the draft.
"""

from collections.abc import Callable, Sequence

LOOK_AHEAD_TOKENS = 4
"""Words that the draft had too many are looked for so far."""


def realigned(rest: Sequence[int], token: int, is_stamp: Callable[[int], bool]) -> list[int]:
    """What may follow ``token``, where the draft had ``rest`` instead.

    Returns a guess of the tokens behind ``token``; empty where there is none.
    """
    ahead = list(rest[1 : 1 + LOOK_AHEAD_TOKENS])
    if not is_stamp(token) and token in ahead:
        return list(rest[ahead.index(token) + 2 :])
    if is_stamp(token) and is_stamp(rest[0]):
        # A pair that closes one phrase and opens the next moves as one.
        is_pair = len(rest) > 1 and rest[1] == rest[0]
        return [token, *rest[2:]] if is_pair else list(rest[1:])
    if is_stamp(token):
        # A phrase ends here that went on in the draft: most often at one moment.
        return [token, *rest]
    if is_stamp(rest[0]):
        return _without_leading(rest, is_stamp)
    return list(rest[1:])


def _without_leading(rest: Sequence[int], is_stamp: Callable[[int], bool]) -> list[int]:
    """The phrase goes on that ended in the draft; the first word after it was ``token``'s place."""
    first = next((i for i, token in enumerate(rest) if not is_stamp(token)), len(rest))
    return list(rest[first + 1 :])

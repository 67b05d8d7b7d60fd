"""How many streams a server holds: what must be true of N streams, and the search for the most.

Pure. A server **holds** N streams at a level when the words of all of them came in time, no faster
than the machine allows one stream to be right, without a gap and without a stream that failed.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

PARTIALS_MIN = 0.8
"""Per second of speech: a caption that only comes when all has been said is no live caption."""
WER_SLACK = 0.02
"""Above the word error rate of one stream: a server may not answer load with guesses."""
LATENESS_S_MAX = 0.1
"""p99 of packets. Later than a packet, and the load is not the one that was asked for."""
OTHERS_SHARE_MAX = 0.05
"""Of the machine's processors, for programs that are no part of the measurement."""
STREAMS_MAX = 256
FINENESS = 16
"""A minute of measuring for each stream more is too much where many are held."""


@dataclass(frozen=True, slots=True)
class Level:
    """Seconds after the end of a word, for 95 words of 100."""

    name: str
    first_shown_s: float
    stable_s: float


USUAL = Level("streams_held", 4.0, 6.0)
STRICT = Level("streams_held_strict", 1.5, 4.0)
LEVELS = (USUAL, STRICT)

Quantiles = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Probe:
    """So many streams at once, and what became of them."""

    streams: int
    wer: float | None
    first_shown_s: Quantiles
    stable_s: Quantiles
    partials_per_speech_s: float
    gaps: int
    failures: tuple[str, ...]
    """Of streams: one text each."""
    cpu_s_per_stream_s: float
    """Of the server and its workers."""
    lateness_s_p99: float | None
    """Of the load's own packets."""
    others_share: float
    """Of the machine, for other programs, and for other machines on the same processors."""
    scheduler_waits_s: float = 0.0
    """For a processor, over all threads of the server."""
    words_never_shown: float = field(default=0.0)
    """Share of the words said."""

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Why these figures are not the server's own; none where they are."""
        found = []
        if self.others_share > OTHERS_SHARE_MAX:
            found.append(f"other programs took {self.others_share:.0%} of the machine")
        return tuple(found)


def shortfalls(probe: Probe, level: Level, wer_of_one: float) -> tuple[str, ...]:
    """Why these streams are not held; nothing where they are."""
    told = [*probe.failures[:1]] if probe.failures else []
    # Who leaves no processor for the load beside it holds no more, whatever its delays look like.
    if probe.lateness_s_p99 is None or probe.lateness_s_p99 > LATENESS_S_MAX:
        told.append(f"the load was late: p99 {probe.lateness_s_p99} s")
    told += [f"{probe.gaps} gaps"] if probe.gaps else []
    for what, quantiles, bound in (
        ("first shown", probe.first_shown_s, level.first_shown_s),
        ("stable", probe.stable_s, level.stable_s),
    ):
        p95 = quantiles["p95"]
        if p95 is None or p95 > bound:
            told.append(f"{what} p95 {p95} s, above {bound} s")
    if probe.partials_per_speech_s < PARTIALS_MIN:
        told.append(f"{probe.partials_per_speech_s} partials a second, below {PARTIALS_MIN}")
    if probe.wer is None or probe.wer > wer_of_one + WER_SLACK:
        told.append(f"WER {probe.wer}, above {wer_of_one} + {WER_SLACK}")
    return tuple(told)


async def largest(
    holds: Callable[[int], Awaitable[bool]], streams_max: int = STREAMS_MAX, guess: int = 2
) -> int:
    """The most streams that hold, 0 where one does not: one, a guess, doubling, then bisection
    until the next number that does not is at most a sixteenth above.

    Takes for granted that who holds N streams holds fewer.
    """
    held, failed = 0, 1
    while await holds(failed):
        held = failed
        if held >= streams_max:
            return held
        failed = min(max(guess, 2 * failed), streams_max)
    while failed - held > max(1, held // FINENESS):
        middle = (held + failed) // 2
        if await holds(middle):
            held = middle
        else:
            failed = middle
    return held

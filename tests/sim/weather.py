"""What may go wrong in a world, how often, and the tally of what did.

Owns the names of faults and of the ways through a session. A world in which a name of either kind
never occurs over the suite's seeds is a simulation that has rotted: a test says so.
"""

import random
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Something that a server, a network, an engine or a client does wrong."""

    ENGINE_FAILURE = "engine failure"
    ENGINE_CRASH = "engine crash"
    ENGINE_HANG = "engine hang"
    POISONOUS_WINDOW = "poisonous window"
    ABSURD_ANSWER = "absurd answer"
    MISSHAPEN_ANSWER = "misshapen answer"
    LATE_ANSWER = "late answer"
    DOUBLE_ANSWER = "double answer"
    FULL_QUEUE = "full queue"
    STORE_REFUSAL = "store refusal"
    JITTER = "jitter"
    STALL = "stall"
    LOSS = "connection loss"
    HALF_OPEN = "half-open connection"
    STALE_PACKET = "stale packet"
    FREEZE = "server freeze"
    SERVER_CRASH = "server crash"
    LATE_COMMIT = "commit that nobody heard of"
    DRIFT = "clock drift"
    SLOW_READER = "slow reader"
    BAD_PACKET = "bad packet"
    TOO_FAST = "too fast"
    CUT_FRAME = "cut frame"
    NO_RETURN = "client never returns"


class Way(StrEnum):
    """Something that a session can go through, wrong or not."""

    SEVERAL_SESSIONS = "several sessions"
    CHANNELS = "channels"
    NAMED_LANE = "named lane"
    TAGGED = "tagged lanes"
    FLOATS = "floats"
    COMPANDED = "companded"
    RESAMPLED = "resampled"
    FILE_SPEED = "file speed"
    CREDIT_WAIT = "wait for credit"
    MUTE = "mute"
    FLUSH = "flush"
    CONFIGURE = "configure"
    DRAIN = "server drain"
    DRAIN_OF_A_TALKER = "drain of a session whose talker does not pause"
    IDLE_FLUSH = "idle flush"
    NO_DIARIZER = "no diarizer"
    GRID = "diarizer that looks at all audio"
    HINTS = "number of speakers given"
    NO_PARTIALS = "no partials"
    TUNED = "tuned session"
    STABLE_ONLY = "stable words only"
    TRANSLATE = "translate"
    LANGUAGE_DETECTED = "language detected"
    CUT = "cut utterance"
    REPLACED_PARTIAL = "replaced partial"
    WITHDRAWAL = "withdrawal"
    RETRY = "second try"
    GAP = "gap"
    REVISION = "revision"
    LAG = "lag"
    DEGRADED = "degraded"
    NO_LAST_PASS = "no last pass of the diarizer"
    CONGESTION = "congested log"
    BEHIND = "reader behind the log"
    VIEWER = "viewer"
    RESUME = "resume"
    TAKEOVER = "takeover"
    EXPIRY = "expiry"
    TAKEN_OVER = "session taken over after a crash"
    INTERRUPTED = "session that nobody took over"


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad this world is; each share is the chance of a fault at each occasion for it."""

    failure_share: float
    crash_share: float
    hang_share: float
    poison_share: float
    """Of words; any window that holds one fails, each time."""
    absurd_share: float
    misshapen_share: float
    late_share: float
    double_share: float
    queue_jobs_max: int
    latency_ms: float
    refusal_share: float
    store_ms: float
    network_ms: float
    jitter_ms: float
    stall_share: float
    loss_share: float
    half_open_share: float
    """Of lost connections: the server does not notice."""
    no_return_share: float
    """Of lost connections: nobody comes back."""
    freeze_share: float
    slow_share: float
    """Of writes to a reader that hold up the next one."""
    bad_packet_share: float
    too_fast_share: float
    calm_after_s: float
    """When faults end, at the latest."""
    server_crashes: int

    @classmethod
    def draw(cls, lots: random.Random) -> "Weather":
        """Most faults are absent from most worlds, so that all sorts of mixtures come up."""

        def some(*shares: float) -> float:
            return lots.choice(shares) if lots.random() < 0.4 else 0.0

        return cls(
            failure_share=some(0.02, 0.2, 0.6),
            crash_share=some(0.01, 0.1),
            hang_share=some(0.01, 0.05),
            poison_share=some(0.02, 0.1),
            absurd_share=some(0.05, 0.5),
            misshapen_share=some(0.05, 0.3),
            late_share=some(0.5, 1.0),
            double_share=some(0.05, 0.3),
            queue_jobs_max=lots.choice([2, 8, 32, 20_000, 20_000, 20_000]),
            latency_ms=lots.choice([1, 20, 100, 300, 900]),
            refusal_share=some(0.1, 0.7),
            store_ms=lots.choice([0, 2, 50, 2_000]),
            network_ms=lots.choice([0, 5, 80]),
            jitter_ms=lots.choice([0, 10, 300]),
            stall_share=some(0.02),
            loss_share=some(0.005, 0.03),
            half_open_share=lots.choice([0.0, 0.5, 1.0]),
            no_return_share=some(0.1, 0.5),
            freeze_share=some(0.002),
            slow_share=some(0.2, 0.9),
            bad_packet_share=some(0.01),
            too_fast_share=some(0.2),
            calm_after_s=lots.choice([10.0, 60.0, 3_600.0]),
            server_crashes=lots.choice([3, 1, 0, 0, 0]),
        )

"""How fast a peer may send: token buckets over a monotonic time that is an argument.

Pure: no clock, no sockets. What is counted (messages, empty ones included) is decided here;
what happens to a peer that is too fast is decided by the caller.
Invariant L1: over any span of t seconds a bucket gives at most burst + rate * t.
"""

from streaming.errors import TooFast

NS_PER_S = 1_000_000_000

PACKET_BURST_S = 2
"""A client that catches up after a network stall may send two seconds' worth at once."""


class TokenBucket:
    """Fills at ``rate_per_s`` up to ``burst``; starts full.

    The level is an integer count of 10⁻⁹ tokens, so no rounding can add up over a long session.
    """

    __slots__ = ("_capacity_nano", "_filled_at_ns", "_level_nano", "_rate_per_s")

    def __init__(self, rate_per_s: int, burst: int) -> None:
        if rate_per_s < 1 or burst < 1:
            raise ValueError(f"rate {rate_per_s} and burst {burst} must be at least 1")
        self._rate_per_s = rate_per_s
        self._capacity_nano = burst * NS_PER_S
        self._level_nano = self._capacity_nano
        self._filled_at_ns: int | None = None

    def take(self, n: int, now_ns: int) -> bool:
        """Take ``n`` tokens; False, with nothing taken, where there are fewer."""
        self._fill(now_ns)
        if n * NS_PER_S > self._level_nano:
            return False
        self._level_nano -= n * NS_PER_S
        return True

    def _fill(self, now_ns: int) -> None:
        if self._filled_at_ns is None:
            self._filled_at_ns = now_ns
        elapsed_ns = max(0, now_ns - self._filled_at_ns)
        self._filled_at_ns += elapsed_ns
        level_nano = self._level_nano + elapsed_ns * self._rate_per_s
        self._level_nano = min(self._capacity_nano, level_nano)


class PacketGate:
    """Lets through so many messages per second of one connection, whatever their size.

    Flow control by bytes does not see empty messages: ten thousand of them cost as much time as
    ten thousand real ones.
    """

    __slots__ = ("_bucket", "_per_second_max")

    def __init__(self, per_second_max: int) -> None:
        self._per_second_max = per_second_max
        self._bucket = TokenBucket(per_second_max, per_second_max * PACKET_BURST_S)

    def receive_packet(self, now_ns: int) -> None:
        """Call once for each message. Raises: TooFast."""
        if not self._bucket.take(1, now_ns):
            raise TooFast(
                f"more than {self._per_second_max} messages per second; put more audio into each",
                retry_after_ms=1000,
            )

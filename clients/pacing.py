"""When a packet may be sent. Pure: the start and the present are arguments.

Real time is an open loop: packet k is due when its last frame would have been spoken, whatever
the server does, so a slow server cannot slow the load that measures it.
Invariant P1: due times depend on the start and the frame alone, never on earlier packets.
"""

from dataclasses import dataclass
from enum import StrEnum

NS_PER_SECOND = 1_000_000_000


class Pace(StrEnum):
    """How fast recorded audio is sent."""

    REALTIME = "realtime"
    """As if it were spoken now."""
    MAX = "max"
    """As fast as the server's credit allows."""


@dataclass(frozen=True, slots=True)
class Pacer:
    """The audio clock of one stream against the monotonic clock."""

    pace: Pace
    sample_rate: int
    started_ns: int

    def due_ns(self, end_frame: int) -> int:
        """When audio up to this frame may be sent."""
        if self.pace is Pace.MAX:
            return self.started_ns
        return self.started_ns + end_frame * NS_PER_SECOND // self.sample_rate

    def wait_s(self, end_frame: int, now_ns: int) -> float:
        """How long the packet that ends at this frame must still wait."""
        return max(0, self.due_ns(end_frame) - now_ns) / NS_PER_SECOND


def packet_frames(packet_ms: int, sample_rate: int) -> int:
    """Whole frames of one packet, at least one."""
    return max(1, packet_ms * sample_rate // 1000)

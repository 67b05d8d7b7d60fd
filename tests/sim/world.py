"""The clock, the event heap and the log that all rooms of a simulated world share.

Time is an integer of nanoseconds and moves only from event to event. No asyncio, no threads. Every
room draws from lots of its own, named by the seed and the room, so that one more draw in one room
moves nothing elsewhere, and nothing depends on the hash seed of the interpreter.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable

from tests.sim.weather import Fault, Way, Weather

MS = 1_000_000
SECOND = 1_000 * MS


class World:
    """See the module's docstring."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_ns = 0
        self.weather = Weather.draw(self.lots("weather"))
        self.lines: list[str] = []
        self.faults: Counter[Fault] = Counter()
        self.ways: Counter[Way] = Counter()
        self.is_calm = False
        """From now on nothing fails."""
        self.steps = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._freezes = self.lots("freezes")

    def lots(self, room: str) -> random.Random:
        return random.Random(f"{self.seed} {room}")

    def after(self, delay_ns: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now_ns + max(0, int(delay_ns)), self._count, action))

    def log(self, who: str, text: str) -> None:
        self.lines.append(f"{self.now_ns} {who} {text}")

    def strikes(self, fault: Fault, share: float, lots: random.Random) -> bool:
        """True, and noted, where this fault happens now; never in calm weather."""
        is_hit = lots.random() < share and not self.is_calm
        if is_hit:
            self.note(fault)
        return is_hit

    def note(self, fault: Fault) -> None:
        self.faults[fault] += 1
        self.log("fault", fault.value)

    def go(self, way: Way) -> None:
        """A session goes a way that is worth counting."""
        self.ways[way] += 1

    def step(self) -> bool:
        """Let the next thing happen; False when nothing is left to happen."""
        if not self._heap:
            return False
        self.steps += 1
        at_ns, _, action = heapq.heappop(self._heap)
        # After a freeze everything that was due in it happens at its end.
        self.now_ns = max(self.now_ns, at_ns)
        if self.strikes(Fault.FREEZE, self.weather.freeze_share / 10, self._freezes):
            self.now_ns += self._freezes.randrange(5 * SECOND)
        action()
        return True


def delay_ns(lots: random.Random, mean_ms: float) -> int:
    """An exponential draw; most are shorter than the mean, a few much longer."""
    return int(lots.expovariate(1 / mean_ms) * MS) if mean_ms else 0

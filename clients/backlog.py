"""Audio that the server has not stored yet, addressed by the client's own frames. Pure.

Owns: which bytes can still be asked for again, what is to be sent next, and how far credit lets
it go. Knows no socket and no time.
Invariants: B1 what lies at or after the last ack can always be sent again; B2 every byte is sent
in order, and after a rewind exactly from the frame that the server named; B3 the bytes held never
exceed ``bytes_max``; B4 nothing is offered beyond the credit.
"""

from collections import deque
from dataclasses import dataclass
from typing import cast

from streaming.wire import Configure, Flush

BYTES_MAX = 64 * 1024 * 1024
"""40 s of eight float channels at 48 kHz: above every server's longest open utterance, which is
all that an ack can be behind, and far below what would hurt the machine."""

Control = Flush | Configure


@dataclass(frozen=True, slots=True)
class _Packet:
    start_byte: int
    content: bytes

    @property
    def end_byte(self) -> int:
        return self.start_byte + len(self.content)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A control message, and the byte of audio in front of which it belongs."""

    start_byte: int
    content: Control

    @property
    def end_byte(self) -> int:
        return self.start_byte


class Backlog:
    """Keeps what was accepted until it is acknowledged, and offers it for sending in order.

    ``frame_bytes`` is the size of one sample of every channel; ``message_bytes_max`` bounds what
    is offered at once.
    """

    def __init__(
        self, frame_bytes: int, message_bytes_max: int, *, bytes_max: int = BYTES_MAX
    ) -> None:
        self._message_bytes_max = message_bytes_max
        self._frame_bytes = frame_bytes
        self._bytes_max = bytes_max
        self._credit_bytes = 0
        self._stored_bytes = 0
        self._accepted_bytes = 0
        self._sent: deque[_Packet | _Placed] = deque()
        self._waiting: deque[_Packet | _Placed] = deque()

    @property
    def accepted_frames(self) -> int:
        return self._accepted_bytes // self._frame_bytes

    @property
    def stored_frames(self) -> int:
        return self._stored_bytes // self._frame_bytes

    @property
    def held_bytes(self) -> int:
        return self._accepted_bytes - self._stored_bytes

    @property
    def is_sent(self) -> bool:
        """True when nothing waits for its first, or next, sending."""
        return not self._waiting

    def room_bytes(self) -> int:
        """How much may be accepted now: one message, within the credit and ``bytes_max``."""
        credit = self._credit_bytes - self._accepted_bytes
        free = self._bytes_max - self.held_bytes
        return max(0, min(credit, free, self._message_bytes_max))

    def accept(self, content: bytes) -> None:
        """Take audio for sending; the caller has asked ``room_bytes`` first."""
        if len(content) > self.room_bytes():
            raise ValueError("more audio than there is room for")
        if content:
            self._waiting.append(_Packet(self._accepted_bytes, content))
            self._accepted_bytes += len(content)

    def accept_control(self, message: Control) -> None:
        """Place a message after the audio accepted so far."""
        _place(self._waiting, _Placed(self._accepted_bytes, message))

    def grant(self, credit_until_frame: int) -> None:
        """Credit of a new connection may be lower than that of the old one, so it is set."""
        self._credit_bytes = credit_until_frame * self._frame_bytes

    def acknowledge(self, stored_through_frame: int) -> bool:
        """Forget what the server keeps; True where that was news."""
        stored = min(stored_through_frame * self._frame_bytes, self._accepted_bytes)
        if stored <= self._stored_bytes:
            return False
        self._stored_bytes = stored
        while self._sent and self._sent[0].end_byte < stored:
            self._sent.popleft()
        while self._sent and self._is_stored_packet(self._sent[0]):
            self._sent.popleft()
        return True

    def _is_stored_packet(self, item: "_Packet | _Placed") -> bool:
        return isinstance(item, _Packet) and item.end_byte <= self._stored_bytes

    def rewind(self, from_frame: int) -> None:
        """Offer again everything from a frame on.

        Raises: ValueError where the server asks for audio that it has acknowledged, or that was
        never there: nothing good can follow.
        """
        at = from_frame * self._frame_bytes
        if not self._stored_bytes <= at <= self._accepted_bytes:
            raise ValueError(f"the server resumes at frame {from_frame}, which is not held here")
        items = deque(item for item in (*self._sent, *self._waiting) if item.end_byte >= at)
        self._sent.clear()
        self._waiting = deque(_cut(item, at) for item in items if not _is_before(item, at))

    def take(self) -> bytes | Control | None:
        """The next thing to send; None where all is sent or the credit is used up.

        Packets that had to wait go out together: a server counts messages per second.
        """
        if not self._is_allowed():
            return None
        item = self._waiting.popleft()
        if isinstance(item, _Placed):
            _place(self._sent, item)
            return item.content
        together = [item]
        size = len(item.content)
        while self._is_allowed() and isinstance(packet := self._waiting[0], _Packet):
            size += len(packet.content)
            if size > self._message_bytes_max:
                break
            together.append(packet)
            self._waiting.popleft()
        self._sent.extend(together)
        return b"".join(packet.content for packet in together)

    def _is_allowed(self) -> bool:
        return bool(self._waiting) and self._waiting[0].end_byte <= self._credit_bytes


def _is_before(item: _Packet | _Placed, at: int) -> bool:
    return isinstance(item, _Packet) and item.end_byte <= at


def _cut(item: _Packet | _Placed, at: int) -> _Packet | _Placed:
    if isinstance(item, _Placed) or item.start_byte >= at:
        return item
    return _Packet(at, item.content[at - item.start_byte :])


def _place(queue: deque[_Packet | _Placed], item: _Placed) -> None:
    """Append a control; one of each kind at one place, so that packets bound their number."""
    neighbours: list[_Placed] = []
    while queue and isinstance(queue[-1], _Placed):
        neighbours.append(cast("_Placed", queue.pop()))
    for old in reversed(neighbours):
        if type(old.content) is type(item.content):
            item = _Placed(item.start_byte, _merged(old.content, item.content))
        else:
            queue.append(old)
    queue.append(item)


def _merged(first: Control, second: Control) -> Control:
    """One message that does what both do, the second having the last word."""
    if isinstance(second, Flush):
        return second
    return Configure.model_validate(
        first.model_dump(exclude_unset=True) | second.model_dump(exclude_unset=True)
    )

"""What systemd hands to a service, and what it wants to hear: sockets, and that it is ready.

Owns: the two protocols, sd_listen_fds(3) and sd_notify(3), which are a few lines each and need no
library. The variables are taken out of the environment, so that no engine process inherits them.
"""

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass, field

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""


class SystemdError(Exception):
    """A hand-over that cannot be used; the message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """Without systemd: no sockets, and nobody to tell."""

    sockets: tuple[socket.socket, ...] = ()
    """Listening already."""
    notify_address: str | bytes | None = field(default=None, repr=False)

    @classmethod
    def take(cls, environment: MutableMapping[str, str] = os.environ) -> "Systemd":
        """Take over what was handed to this process. Raises: SystemdError."""
        process = environment.pop("LISTEN_PID", "")
        count = environment.pop("LISTEN_FDS", "")
        environment.pop("LISTEN_FDNAMES", None)
        path = environment.pop("NOTIFY_SOCKET", "")
        is_ours = process == str(os.getpid()) and count.isdigit()
        sockets = tuple(
            _listening(FIRST_DESCRIPTOR + i) for i in range(int(count) if is_ours else 0)
        )
        # An @ stands for the zero byte of an abstract address.
        address = b"\0" + path[1:].encode() if path.startswith("@") else path or None
        return cls(sockets, address)

    def notify(self, state: str) -> None:
        """Tell systemd, e.g. ``READY=1``. One that does not listen is not waited for."""
        if self.notify_address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(state.encode(), self.notify_address)
            except OSError:
                return


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
        is_listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise SystemdError(
            f"LISTEN_FDS names descriptor {descriptor}, which is no socket: {error.strerror}"
        ) from None
    if passed.family not in (socket.AF_INET, socket.AF_INET6) or not is_listening:
        raise SystemdError(
            f"descriptor {descriptor} from systemd is no listening TCP socket; write the unit's "
            "ListenStream= as address:port"
        )
    passed.setblocking(False)
    return passed

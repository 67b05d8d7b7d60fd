"""Whether one more session may start, and what to tell the client where it may not.

Pure: counts and states come in, nothing is remembered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from streaming.errors import Draining, Overloaded, TooFast

RETRY_AFTER_LOADING_MS = 5_000
"""Loading and warming models takes seconds."""
RETRY_AFTER_FULL_MS = 3_000
"""Sessions last minutes, but with many of them one ends every few seconds."""
RETRY_AFTER_QUOTA_MS = 10_000
"""The tenant has to end a session of its own first."""
RETRY_AFTER_DRAINING_MS = 1_000
"""Another server, or this one's successor, may answer at once."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits that a new session must fit into."""

    sessions_max: int
    per_tenant_max: int | None = None
    """None: a tenant may use all of ``sessions_max``."""

    def admit(
        self, tenant: str, active: Mapping[str, int], *, is_draining: bool, is_ready: bool
    ) -> None:
        """``active`` counts the present sessions, detached ones included, by tenant.

        Raises: Draining, Overloaded, or TooFast (the tenant's own limit), with a retry hint.
        """
        if is_draining:
            raise Draining(
                "the server is going down; connect again", retry_after_ms=RETRY_AFTER_DRAINING_MS
            )
        if not is_ready:
            raise Overloaded(
                "the server is still loading its models; try again",
                retry_after_ms=RETRY_AFTER_LOADING_MS,
            )
        if self.per_tenant_max is not None and active.get(tenant, 0) >= self.per_tenant_max:
            raise TooFast(
                f"this key already has {self.per_tenant_max} sessions; end one first",
                retry_after_ms=RETRY_AFTER_QUOTA_MS,
            )
        if sum(active.values()) >= self.sessions_max:
            raise Overloaded(
                f"all {self.sessions_max} sessions are taken; try again or use another server",
                retry_after_ms=RETRY_AFTER_FULL_MS,
            )

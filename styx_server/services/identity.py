"""Who this server is: which database it works on, and which of the processes on it this one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from styx_server.services.leadership import replica_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which database this is, and which process.

    Attributes:
        address: where the database is, as `database.connect` takes it.
    """

    deployment_id: UUID
    replica_id: UUID
    address: dict[str, Any]

    @property
    def number(self) -> int:
        """The server's number in locks, notes and events."""
        return replica_number(self.replica_id)

"""The lease of this agent: kept in memory and on disk, asked before every start. Next: `rules.py`, what it means."""

from __future__ import annotations

from styx_agent.supervisor import clock
from styx_agent.supervisor.journal import LeaseFile
from styx_agent.supervisor.rules import Lease


class LeaseKeeper:
    """The last acked beat, also that of an earlier supervisor of this start of the machine."""

    def __init__(self, directory: str) -> None:
        self._file = LeaseFile(directory)
        kept = self._file.load()
        self._lease = None if kept is None else Lease(sent_micros=kept[0], window_micros=kept[1])

    def current(self) -> Lease | None:
        """None: no server has ever answered."""
        return self._lease

    def extend(self, sent_micros: int, window_micros: int) -> bool:
        """A beat sent at that time is stored. Whether something may have to end earlier than was thought."""
        before = self._lease
        if before is None:
            self._lease = Lease(sent_micros=sent_micros, window_micros=window_micros)
        else:
            self._lease = Lease(sent_micros=max(sent_micros, before.sent_micros), window_micros=window_micros)
        if self._lease != before:
            self._file.save(self._lease.sent_micros, window_micros)
        return before is None or window_micros < before.window_micros

    def may_start(self) -> bool:
        """Whether something new may be started now."""
        return self._lease is not None and self._lease.may_start(clock.boottime_micros())

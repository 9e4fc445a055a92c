"""What everybody wrote down, as files of JSON lines, and the one clock that all of them read.

The clock is CLOCK_BOOTTIME in nanoseconds: the same for every process of a machine, never set back. Writers append and
flush, so a history is whole up to the moment at which its writer died.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]

CLIENT, FAULTS, LEASES, STYX, RUNS = "client.jsonl", "faults.jsonl", "leases.jsonl", "styx.jsonl", "runs"


def now() -> int:
    """Nanoseconds since the machine started."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Recorder:
    """Appends events to one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, what: str, **facts: Any) -> None:
        """One event, now."""
        self._file.write(json.dumps({"at": now(), "what": what, **facts}) + "\n")

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


def read(path: Path) -> list[Event]:
    """Every whole line of a file; the last one may have been cut by a kill."""
    if not path.exists():
        return []
    return list(_parsed(path.read_text("utf-8", errors="replace").splitlines()))


def _parsed(lines: list[str]) -> Iterator[Event]:
    for number, line in enumerate(lines):
        try:
            event = json.loads(line)
        except ValueError:
            if number + 1 < len(lines):
                raise
            return
        yield event


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a task, in its own words.

    Attributes:
        events: start, beats, output written, OVERLAP, end.
    """

    key: str
    events: list[Event]

    @property
    def start(self) -> Event:
        """Its first words."""
        return self.events[0]

    @property
    def fence(self) -> int:
        """Of the attempt that it was told to be."""
        return int(self.start["fence"])

    @property
    def end(self) -> Event | None:
        """Its last words, if it came to say them."""
        return next((event for event in self.events if event["what"] == "end"), None)

    @property
    def last_sign(self) -> int:
        """When it, or a process that it started, was last known to live."""
        return max(int(event["at"]) for event in self.events)

    def written(self, stream: int) -> int:
        """Bytes of a stream that it had surely written."""
        return max((int(event["upto"]) for event in self.events if event.get("stream") == stream), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """Everything that a checker looks at.

    Attributes:
        client: what was asked of Styx, and what it answered.
        runs: what the tasks did.
        faults: what the nemesis did.
        leases: the leases of all agents as they were seen again and again.
        styx: what Styx itself says in the end: its tasks, attempts, events and logs.
    """

    client: list[Event] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    faults: list[Event] = field(default_factory=list)
    leases: list[Event] = field(default_factory=list)
    styx: list[Event] = field(default_factory=list)


def load(folder: Path) -> Histories:
    """Reads all histories of a folder."""
    runs = [
        Run(key=path.parent.name, events=events)
        for path in sorted((folder / RUNS).glob("*/*.run"))
        if (events := read(path))
    ]
    return Histories(
        client=read(folder / CLIENT),
        runs=runs,
        faults=read(folder / FAULTS),
        leases=read(folder / LEASES),
        styx=read(folder / STYX),
    )

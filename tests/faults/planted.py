"""Bugs that the harness must find, each as a few words of the product that are replaced in a copy of it.

A replacement must match exactly once: when the product changes, this list has to follow.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("styx", "styx_server", "styx_agent", "styx_cli")
HOLD, HELD = "hold", "held"
"""Files in the copy: while the first is there, who is slow waits between its look and its act, and makes the second."""
SPOKE = "spoke"
"""File in the copy: the link has said to the supervisor what it says first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Words of one file, and what stands there instead."""

    file: str
    old: str
    new: str


SLOW_REAPER = Replacement(
    file="styx_server/loops/reap.py",
    old="        if silent:\n            await self._reap(silent)\n",
    new=f"""        if silent:
            from pathlib import Path

            while Path({HOLD!r}).exists():
                Path({HELD!r}).touch()
                await self._clock.sleep(0.02)
            await self._reap(silent)
""",
)
"""No bug: a reaper may be slow at any point, and this one waits where it hurts most."""

SLOW_DELIVERY = Replacement(
    file="styx_server/services/delivery.py",
    old='        bodies = {(row["id"], row["fence"]): row for row in found}\n',
    new=f"""        from pathlib import Path

        while Path({HOLD!r}).exists() and any(row["attempt"] == 1 for row in rows):
            Path({HELD!r}).touch()
            await __import__("asyncio").sleep(0.02)
        bodies = {{(row["id"], row["fence"]): row for row in found}}
""",
)
"""No bug either: an order that was read from the database may be slow to leave, here that of a first attempt."""

TELLING_LINK = Replacement(
    file="styx_agent/link.py",
    old="        endpoint = await asyncio.to_thread(discover, url)\n",
    new=f"""        from pathlib import Path

        await clock.sleep(0.01)
        Path({SPOKE!r}).touch()
        endpoint = await asyncio.to_thread(discover, url)
""",
)
"""No bug: a link that is killed as soon as it has spoken is killed as often as this machine can."""

PLANTED: dict[str, tuple[Replacement, ...]] = {
    "ack before commit": (
        Replacement(
            file="styx_server/transport/session_stream.py",
            old="            answers = await self._store(session, reports)\n",
            new="            self._outbox.send(wire.ServerMessage(report_ack=wire.ReportAck(seq=batch[-1].seq)))\n"
            "            answers = await self._store(session, reports)\n",
        ),
    ),
    "deadline from receipt": (
        Replacement(
            file="styx_agent/session.py",
            old="            self._extend(sent_at)\n",
            new="            self._extend(clock.boottime_micros())\n",
        ),
    ),
    "deadline reset at restart": (
        Replacement(
            file="styx_agent/link.py",
            old="        await self._supervisor.ready.wait()\n",
            new="        await self._supervisor.ready.wait()\n"
            '        now = {"sent_micros": clock.boottime_micros(), "window_micros": 2_000_000}\n'
            '        self._ledger.say({"op": "extend"} | now)\n',
        ),
    ),
    "no epoch check": (
        Replacement(
            file="styx_server/store/sql/agents.sql",
            old="where agent_leases.agent_id = input.id and agent_leases.epoch = input.epoch\n"
            "returning agent_leases.agent_id, agent_leases.epoch;",
            new="where agent_leases.agent_id = input.id\nreturning agent_leases.agent_id, input.epoch;",
        ),
    ),
    "expiry from the wall clock": (
        Replacement(
            file="styx_server/store/sql/agents.sql",
            old="select agent_id, lease_seq from agent_leases\nwhere exists",
            new="select agent_id, lease_seq, extract(epoch from now() - beat_time)::float8 as age from agent_leases\n"
            "where exists",
        ),
        Replacement(
            file="styx_server/loops/reap.py",
            old="        if self._is_outage(now):\n",
            new="        for row in rows:\n"
            '            self._watch._seen[row["agent_id"]].since = now - row["age"]\n'
            "        if self._is_outage(now):\n",
        ),
    ),
    "loss without compare-and-set": (
        Replacement(
            file="styx_server/loops/reap.py",
            old="await self._reports.end_many(agent_id, dead, lease_seq=lease_seq, disowned=True)",
            new="await self._reports.end_many(agent_id, dead, disowned=True)",
        ),
    ),
    "reaper inherits an old view": (
        Replacement(
            file="styx_server/core/lease.py",
            old="        self._looked_at = now\n",
            new="        first, self._looked_at = self._looked_at is None, now\n",
        ),
        Replacement(
            file="styx_server/core/lease.py",
            old="                self._seen[agent_id] = _Seen(lease_seq, now)\n",
            new="                self._seen[agent_id] = _Seen(lease_seq, now - 1e6 if first else now)\n",
        ),
    ),
    "supervisor does not enforce": (
        Replacement(
            file="styx_agent/supervisor/rules.py",
            old="    span = order.disconnect_micros if recorded else lease.window_micros\n",
            new="    span = None\n",
        ),
    ),
}


def copy_of(product: Path, folder: Path, replacements: Iterable[Replacement]) -> Path:
    """Copies the product's packages into a folder, and replaces words there."""
    copy = folder / "product"
    for package in PACKAGES:
        shutil.copytree(product / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for each in replacements:
        path = copy / each.file
        text = path.read_text("utf-8")
        assert text.count(each.old) == 1, f"{each.file} does not hold these words exactly once:\n{each.old}"
        path.write_text(text.replace(each.old, each.new), "utf-8")
    return copy

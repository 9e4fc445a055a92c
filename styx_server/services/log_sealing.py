"""Compares output that is complete with the digest of what was written, and records the verdict.

Nobody waits for it: verdicts of many streams are stored together, and what a crash leaves over is found by a loop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import structlog

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Unavailable
from styx_server.services.group_commit import GroupCommit
from styx_server.services.log_codec import MAX_CHUNK_BYTES, Codec, unpack
from styx_server.services.log_streams import LogStreams, StreamState, state_from_row
from styx_server.store.database import Database

_log = structlog.get_logger()

_READ_AHEAD = 32
_LEFTOVERS = 16


class LogSealing:
    """Judges streams; a log that agrees with its digest is sealed, another one is corrupt."""

    def __init__(self, database: Database, streams: LogStreams, clock: Clock) -> None:
        self._database = database
        self._streams = streams
        self.commits: GroupCommit[StreamState, None] = GroupCommit(
            "seals", self._flush, clock=clock, patience=lambda _: 3.0
        )

    def complete(self, state: StreamState) -> None:
        """All of a stream is stored."""
        if not state.sealed and not state.corrupt and state.sha256:
            # Without a digest there is nothing to compare with: complete, never sealed.
            self.commits.put(state)

    async def seal_leftovers(self) -> float | None:
        """Judges streams that were completed while nobody looked; one pass of a loop."""
        rows = await self._database.fetch("unsealed_streams", count=_LEFTOVERS)
        if rows:
            await self._flush([state_from_row(row) for row in rows])
        return 0.0 if len(rows) == _LEFTOVERS else None

    async def _flush(self, states: Sequence[StreamState]) -> list[None]:
        # In order, so that two statements never wait for one another.
        states = sorted(states, key=lambda state: state.key)
        good = [await self._is_good(state) for state in states]
        await failpoints.reach("server.seal.decided", Unavailable)
        await self._database.execute(
            "seal_streams",
            task_ids=[state.key.task_id for state in states],
            attempts=[state.key.attempt for state in states],
            streams=[state.key.stream for state in states],
            sealed=good,
        )
        await failpoints.reach("server.seal.committed")
        for state, sealed in zip(states, good, strict=True):
            state.sealed, state.corrupt = sealed, not sealed
            if not sealed:
                key = state.key
                _log.error("log_corrupt", task=key.task_id, attempt=key.attempt, stream=key.stream.name)
            self._streams.notify(state.key.task_id)
        return [None] * len(states)

    async def _is_good(self, state: StreamState) -> bool:
        hasher = state.hasher or await self._digest_of_stored(state)
        return hasher.digest() == state.sha256

    async def _digest_of_stored(self, state: StreamState) -> hashlib._Hash:
        hasher = hashlib.sha256()
        position = 0
        while True:
            rows = await self._database.fetch(
                "read_chunks",
                **state.key._asdict(),
                position=position,
                longest=MAX_CHUNK_BYTES,
                count=_READ_AHEAD,
            )
            if not rows:
                return hasher
            await asyncio.to_thread(
                _digest, hasher, [(Codec(row["codec"]), row["data"], row["length"]) for row in rows]
            )
            position = rows[-1]["start_offset"] + rows[-1]["length"]


def _digest(hasher: hashlib._Hash, packed: Sequence[tuple[Codec, bytes, int]]) -> None:
    for codec, data, length in packed:
        hasher.update(unpack(codec, data, length))

"""Floor of the logs of one task: the same bytes through a pipe, and their compressed chunks into a table, side by side.

`cat` writes into `wc`; meanwhile a connection copies chunks that were compressed before anybody looked at the clock,
into a table with the columns of Styx's own and no index.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import asyncpg
import zstandard

from benchmarks.floors.answering import Answer, answer_all, timed

_CHUNK_BYTES = 256 * 1024
_CHUNKS_PER_COPY = 16
_TABLE = """
drop table if exists chunks;
create table chunks (
    task_id bigint not null,
    start_offset bigint not null,
    time timestamptz not null,
    attempt integer not null,
    length integer not null,
    stream smallint not null,
    codec smallint not null,
    times bytea not null default '',
    data bytea not null
);
alter table chunks alter column data set storage external;
"""
_COLUMNS = ["task_id", "attempt", "stream", "start_offset", "length", "codec", "data", "time"]


async def main(url: str, path: str) -> None:
    """Answers questions: the file `times` times."""
    connection = await asyncpg.connect(url)
    content = await asyncio.to_thread(Path(path).read_bytes)
    packer = zstandard.ZstdCompressor(level=1)
    raws = [content[begin : begin + _CHUNK_BYTES] for begin in range(0, len(content), _CHUNK_BYTES)]
    chunks = [(len(raw), packer.compress(raw)) for raw in raws]

    async def work(question: dict[str, Any]) -> Answer:
        await connection.execute(_TABLE)
        return await timed(_both(connection, path, chunks, question["times"]))

    await answer_all(work, packed_bytes=sum(len(packed) for _, packed in chunks))
    await connection.close()


async def _both(connection: asyncpg.Connection, path: str, chunks: list[tuple[int, bytes]], times: int) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_pipe(path, times))
        group.create_task(_insert(connection, chunks, times))


async def _pipe(path: str, times: int) -> None:
    line = f"cat {' '.join([path] * times)} | wc -c"
    process = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.DEVNULL)
    await process.wait()


async def _insert(connection: asyncpg.Connection, chunks: list[tuple[int, bytes]], times: int) -> None:
    supply = islice(cycle(chunks), len(chunks) * times)
    position = 0
    while batch := list(islice(supply, _CHUNKS_PER_COPY)):
        rows = []
        for length, packed in batch:
            rows.append((1, 1, 1, position, length, 2, packed, datetime.now(UTC)))
            position += length
        await connection.copy_records_to_table("chunks", columns=_COLUMNS, records=rows)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

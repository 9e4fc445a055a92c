"""A process that owns an embedded PostgreSQL, for tests that kill owners.

`python -m tests.support.postgres_owner DIR` prints `ready PID`, waits for the end of its input, stops and prints
`stopped`. When it cannot start it prints the error's class and message and exits with 3.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from styx_server.embedded import EmbeddedPostgres, EmbeddedPostgresError


async def own(data_dir: Path) -> int:
    postgres = EmbeddedPostgres(data_dir, fsync=False)
    try:
        await postgres.start()
    except EmbeddedPostgresError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 3
    print(f"ready {postgres.pid}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await postgres.stop()
    print("stopped", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(own(Path(sys.argv[1]))))

"""One crash: a server and an agent of one's own, a small load, a kill at a failpoint, and what must be true then.

`Crash.run` does it all; `crash_verdict.py` judges, by what the tasks themselves wrote down (`crash_witness.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from styx.client import AsyncClient
from styx.locate import read_endpoint
from styx_server.embedded import PostgresAddress
from tests.faults.crash_verdict import JOBS, PATIENCE_SECONDS, Job, Line, check_database, check_logs, check_task, record
from tests.support.postgres import connected
from tests.support.supervisor_driver import processes
from tests.support.until import soon

_WITNESS = str(Path(__file__).with_name("crash_witness.py"))
# Places of the supervisor at which the end of one attempt at least is durable.
_AFTER_AN_END = {
    "supervisor.exit.journaled",
    "supervisor.exit.told",
    "supervisor.forget.received",
    "supervisor.forget.done",
}


@dataclass(kw_only=True)
class Program:
    """A program that is started again when it ends.

    Attributes:
        may_return: what has to be true before it is started again.
        deaths: how it has ended, each time.
    """

    module: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    may_return: Callable[[], bool] = lambda: True
    deaths: list[int] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._spawn()
        self.keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self.keeper is not None:
            self.keeper.cancel()
            await asyncio.gather(self.keeper, return_exceptions=True)
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await self.process.wait()

    async def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", self.module, *self.arguments),
                env=self.environment,
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _keep(self) -> None:
        while True:
            assert self.process is not None
            self.deaths.append(await self.process.wait())
            await soon(self.may_return, f"{self.module} may return", seconds=PATIENCE_SECONDS)
            await self._spawn()


class Crash:
    """Failpoints, each of which happens once, whichever process it is in.

    Args:
        armed: failpoints and their actions.
        silent: whether a link that is killed stays away until everything has happened.
    """

    def __init__(
        self, armed: Mapping[str, str], folder: Path, database: PostgresAddress, *, silent: bool = False
    ) -> None:
        self._armed = armed
        self._silent = silent
        self._folder = folder
        self._marks = folder / "marks"
        self._witnesses = folder / "witnesses"
        self._database = database
        for path in (self._marks, self._witnesses):
            path.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            # The database of the tests may forget.
            "STYX_UNSAFE_DATABASE": "true",
            "STYX_ENABLE_FAILPOINTS": "1",
            "STYX_FAILPOINTS": ";".join(f"{name}:{action}" for name, action in armed.items()),
            "STYX_FAILPOINTS_ONCE_DIR": str(self._marks),
        }
        self._server = Program(
            module="styx_server",
            arguments=["--data-dir", str(folder / "server"), "--database-url", database.url],
            environment=environment,
            log=folder / "server.log",
        )
        self._agent = Program(
            module="styx_agent",
            arguments=["--data-dir", str(folder / "agent"), "--cpus", "16", "--on-exit", "stop"],
            environment=environment,
            log=folder / "agent.log",
            may_return=lambda: not silent or self._happened(),
        )

    async def run(self) -> None:
        """From an empty database to the verdict; afterwards nothing is left."""
        try:
            await self._start_server()
            async with AsyncClient(data_dir=self._folder / "server") as client:
                await self._start_agent(client)
                ids = await self._load(client)
                await soon(self._happened, "every failpoint is reached", seconds=PATIENCE_SECONDS)
                await self._check(client, ids)
            await soon(self._agent_is_empty, "the agent forgets what the server has", seconds=PATIENCE_SECONDS)
            self._check_deaths()
            async with connected(self._database) as connection:
                await check_database(connection, ids)
        except BaseException as error:
            error.add_note(self._story())
            raise
        finally:
            await self._agent.stop()
            await self._server.stop()
            left = _kill(processes(str(self._folder)))
        assert not left

    async def _start_server(self) -> None:
        program, folder = self._server, self._folder / "server"
        program.arguments += ["--grpc-port", "0", "--http-port", "0"]
        await program.start()
        await soon(lambda: read_endpoint(folder) is not None, "the server is up", seconds=PATIENCE_SECONDS)
        endpoint = read_endpoint(folder)
        assert endpoint is not None
        # It comes back where its clients and agents know it.
        http_port = endpoint.http.rstrip("/").rpartition(":")[2]
        program.arguments[-4:] = ["--grpc-port", endpoint.grpc.rpartition(":")[2], "--http-port", http_port]
        self._agent.arguments += ["--server-url", endpoint.http]

    async def _start_agent(self, client: AsyncClient) -> None:
        token = (await client.create_join_token()).token
        self._agent.environment = self._agent.environment | {"STYX_JOIN_TOKEN": token}
        await self._agent.start()

    async def _load(self, client: AsyncClient) -> dict[str, Job]:
        """Submits each task twice with one request id, and cancels the one that never ends."""
        numbers = range(len(JOBS))
        ids = await asyncio.gather(*(self._submit(client, number) for number in numbers))
        again = await asyncio.gather(*(self._submit(client, number) for number in numbers))
        assert ids == again
        jobs = dict(zip(ids, JOBS, strict=True))
        endless = ids[[job.cancelled for job in JOBS].index(True)]
        await soon(lambda: bool(self._record(endless)), f"{endless} runs", seconds=PATIENCE_SECONDS)
        await client.cancel(endless, request_id="cancel")
        return jobs

    async def _submit(self, client: AsyncClient, number: int) -> str:
        job = JOBS[number]
        command = [sys.executable, "-I", "-S", _WITNESS, str(self._witnesses), *job.words]
        return await client.submit_task(
            command, request_id=f"submit-{number}", at_most_once=job.at_most_once, stop_grace=0.3
        )

    async def _check(self, client: AsyncClient, ids: dict[str, Job]) -> None:
        # A task that died with its supervisor runs again; one whose start nobody recorded may have run.
        may_run_again = self._silent or any(name.startswith("supervisor.") for name in self._armed)
        await client.wait_all(list(ids), timeout=PATIENCE_SECONDS)
        assert processes(str(self._witnesses)) == [], "tasks have ended, and something of them lives"
        untouched = 0
        for task_id, job in ids.items():
            task = await client.get_task(task_id)
            check_task(job, task, self._record(task_id), may_run_again=may_run_again)
            await check_logs(client, task, self._witnesses)
            untouched += task.attempt_count == 1 and task.exit_code is not None
        if self._armed.keys() & _AFTER_AN_END:
            assert untouched, "an end that was on disk was forgotten"

    def _check_deaths(self) -> None:
        """Who was to die did, at that place, as often as was said and by that signal; nobody else died."""
        victims = [name.partition(".")[0] for name, action in self._armed.items() if action == "kill"]
        for name, action in self._armed.items():
            pid, happened = (self._marks / name).read_text().split()
            assert happened == action
            assert action != "kill" or not Path(f"/proc/{pid}").exists(), f"{name}: {pid} is alive"
        assert self._server.deaths == [-signal.SIGKILL] * victims.count("server")
        assert self._agent.deaths == [-signal.SIGKILL] * victims.count("link")

    def _happened(self) -> bool:
        return set(os.listdir(self._marks)) == set(self._armed)

    def _record(self, task_id: str) -> list[Line]:
        return record(self._witnesses, task_id)

    def _agent_is_empty(self) -> bool:
        return os.listdir(self._folder / "agent" / "attempts") == []

    def _story(self) -> str:
        """The ends of the programs' logs."""
        parts = []
        for path in (self._server.log, self._agent.log, self._folder / "agent" / "supervisor.log"):
            with suppress(OSError):
                parts.append(f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-25:]))
        return "\n".join(parts)


def _kill(pids: Iterable[int]) -> list[str]:
    """The command lines of what should not be there, which is not there afterwards."""
    lines = []
    for pid in pids:
        with suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            os.kill(pid, signal.SIGKILL)
    return lines

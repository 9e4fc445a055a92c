"""A server without its ports, on a real database, and agents that are values: what tests of services stand on.

`running` builds the server as `app.py` does and runs its loops; when the block ends it holds the database against the
invariants and fails on any event that the server logged as a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
from structlog.testing import capture_logs

from styx_server.app import App
from styx_server.clock import now
from styx_server.core.errors import StyxError
from styx_server.core.placement.capacity import Capacity
from styx_server.core.session import (
    Assignment,
    AttemptReport,
    HeldAttempt,
    Hello,
    LogEnd,
    LogStream,
    StopOrder,
    Verdict,
)
from styx_server.core.states import AttemptState, TaskState
from styx_server.core.task import AgentId, Fence, NewTask, Outcome, TaskId
from styx_server.embedded import PostgresAddress
from styx_server.ids import new_secret, new_uuid
from styx_server.machinery import NOTHING_RENTED, Rental
from styx_server.services.access import digest
from styx_server.services.agents import NewJoinToken
from styx_server.services.identity import Identity
from styx_server.services.leadership import replica_number
from styx_server.services.log_codec import Codec
from styx_server.services.log_intake import Append, Stored
from styx_server.services.log_streams import Chunk, StreamKey
from styx_server.services.reports import Answer, Reported
from styx_server.services.sessions import Session
from styx_server.services.submission import Submit
from styx_server.services.tasks import Mutation
from styx_server.store.database import Database, connect
from styx_server.store.partitions import make_partitions
from tests.support.builders import a_capacity, a_new_task
from tests.support.gates import GatedDatabase
from tests.support.invariants import check_memory, check_store
from tests.support.until import soon, soon_true

ONCE = Mutation(token_id=1, method="Test", request_id="", digest=b"")
BUGS = ("loop_failed", "flush_failed", "item_failed", "rpc_failed", "log_chunk_bad", "log_corrupt")


@dataclass(eq=False)
class FakeAgent:
    """An agent as a server sees it: an outlet that remembers what it was told, and reports on demand."""

    server: Server
    agent_id: AgentId
    capacity: Capacity = field(default_factory=a_capacity)
    boot_id: str = "boot-1"
    last_epoch: int = 0
    welcomes: list[tuple[int, tuple[Verdict, ...]]] = field(default_factory=list)
    assigned: list[Assignment] = field(default_factory=list)
    stops: list[StopOrder] = field(default_factory=list)
    interests: list[list[Fence]] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    session: Session | None = None
    says: Mapping[str, str] = field(default_factory=dict)

    def welcome(self, epoch: int, verdicts: tuple[Verdict, ...]) -> None:
        self.welcomes.append((epoch, verdicts))

    def assign(self, assignments: list[Assignment]) -> None:
        self.assigned.extend(assignments)

    def stop(self, orders: list[StopOrder]) -> None:
        self.stops.extend(orders)

    def interest(self, fences: list[Fence]) -> None:
        self.interests.append(fences)

    def end(self, reason: str) -> None:
        self.endings.append(reason)

    def end_with(self, error: StyxError) -> None:
        self.endings.append(error.reason)

    def hello(self, *held: HeldAttempt, draining: bool = False) -> Hello:
        return Hello(
            agent_id=self.agent_id,
            boot_id=self.boot_id,
            supervisor_id="supervisor-1",
            last_epoch=self.last_epoch,
            version="0.1.0",
            capacity=self.capacity,
            labels=self.says,
            facts={},
            isolation="cgroup",
            held=held,
            draining=draining,
        )

    async def connect(self, *held: HeldAttempt, draining: bool = False) -> Session:
        """Opens a session with this complete list of attempts."""
        self.session = await self.server.app.sessions.open(self.hello(*held, draining=draining), self)
        # The first beat follows Welcome: until then nothing is concluded from what Hello did not name.
        await self.server.app.sessions.beat(self.session, [], draining)
        return self.session

    async def disconnect(self, *, goodbye: bool = False) -> None:
        """The stream ends."""
        assert self.session is not None
        await self.server.app.sessions.close(self.session, goodbye=goodbye)

    async def takes(self, count: int) -> list[Assignment]:
        """Waits until so many assignments have come altogether."""
        await soon(lambda: len(self.assigned) >= count, f"{count} assignments for a{self.agent_id}")
        return self.assigned

    async def report(self, order: Assignment, state: AttemptState, *, epoch: int | None = None, **more: Any) -> bool:
        """Reports on an attempt; returns whether that was accepted."""
        report = AttemptReport(fence=order.fence, task_id=order.task_id, state=state, **more)
        return await self.server.app.reports.add(self.reported(report, epoch)) is Answer.STORED

    def reported(self, report: AttemptReport, epoch: int | None = None) -> Reported:
        """A report of this agent."""
        assert self.session is not None
        known = self.session.known.get(report.fence)
        return Reported(
            agent_id=self.agent_id,
            epoch=self.session.epoch if epoch is None else epoch,
            report=report,
            attempt=known.attempt if known else 0,
        )

    async def starts(self, order: Assignment) -> None:
        """The command runs."""
        assert await self.report(order, AttemptState.RUNNING, start_time=now())

    async def ends(self, order: Assignment, outcome: Outcome, logs: Iterable[LogEnd] = ()) -> bool:
        """The attempt is over."""
        ended = {"start_time": now(), "end_time": now(), "outcome": outcome, "logs": tuple(logs)}
        return await self.report(order, AttemptState.ENDED, **ended)

    async def runs(self, order: Assignment, outcome: Outcome) -> None:
        """Start and end."""
        await self.starts(order)
        assert await self.ends(order, outcome)

    async def writes(self, order: Assignment, *chunks: Chunk, stream: LogStream = LogStream.STDOUT) -> Stored:
        """Sends output."""
        key = StreamKey(order.task_id, order.attempt, stream)
        return await self.server.app.intake.append(Append(key=key, fence=order.fence, chunks=chunks))

    def holds(self, order: Assignment, state: AttemptState, report: AttemptReport | None = None) -> HeldAttempt:
        """An entry for a Hello."""
        return HeldAttempt(fence=order.fence, task_id=order.task_id, attempt=order.attempt, state=state, report=report)


@dataclass
class Server:
    """The server under test.

    Attributes:
        expected: names of events that look like bugs and are what the test wants.
    """

    app: App
    address: PostgresAddress
    lines: list[Any]
    expected: set[str] = field(default_factory=set)

    @property
    def database(self) -> GatedDatabase:
        """Named queries, and gates in front of them."""
        assert isinstance(self.app.database, GatedDatabase)
        return self.app.database

    async def join(
        self, *, pool: str = "default", labels: Mapping[str, str] | None = None, **changes: Any
    ) -> FakeAgent:
        """A new agent, not yet connected; `labels` are those of its join token."""
        token = f"styx_join_{new_secret()}"
        wanted = NewJoinToken(token=token, max_uses=1, ttl=timedelta(minutes=1), pool=pool, labels=labels or {})
        await self.app.agents.make_join_token(wanted, ONCE)
        agent_id = await self.app.agents.join(token, "test", digest(new_secret()), "0.1.0")
        return FakeAgent(self, agent_id, **changes)

    async def agent(self, **changes: Any) -> FakeAgent:
        """A new agent with an open session."""
        agent = await self.join(**changes)
        await agent.connect()
        return agent

    async def submit(self, *tasks: NewTask, request_id: str = "", body: bytes = b"", **changes: Any) -> list[TaskId]:
        """Stores tasks; one plain task when none is given."""
        call = Submit(
            token_id=1,
            method="SubmitTasks",
            request_id=request_id,
            digest=digest(repr(body)),
            namespace=changes.pop("namespace", "default"),
            tasks=tasks or (a_new_task(**changes),),
        )
        return (await self.app.submission.submit(call)).task_ids

    async def cancel(self, *task_ids: TaskId, grace: float | None = None) -> list[TaskState]:
        """Asks tasks to stop; returns their states after it."""
        return [view.state for view in await self.app.tasks.cancel(task_ids, ONCE, grace)]

    async def state(self, task_id: TaskId) -> tuple[TaskState, str]:
        """State and reason."""
        row = await self.app.tasks.status(task_id)
        return TaskState(row["state"]), row["reason"]

    async def becomes(self, task_id: TaskId, state: TaskState, reason: str | None = None) -> None:
        """Waits until a task is in a state."""

        async def is_there() -> bool:
            found = await self.state(task_id)
            return found[0] is state and reason in (None, found[1])

        await soon_true(is_there, f"t{task_id} is {state.name} {reason or ''}")

    async def settled(self) -> None:
        """Waits until no placement is in flight and nothing waits to be ended."""
        await self.app.scheduling.round(now().timestamp())
        await soon(lambda: not self.app.reports.commits.depth, "nothing to be ended")

    async def age_roster(self, seconds: float) -> None:
        """Lets the leader believe that it has watched every lease for so much longer."""
        self.app.scheduling.agents_changed(None)
        await self.settled()
        roster = self.app.scheduling._roster
        for seen in roster._watch._seen.values():
            seen.since -= seconds
        self.app.scheduling.agents_changed(None)

    async def rows(self, statement: str, *values: object) -> list[Any]:
        """The answer to some SQL."""
        async with self.database.connection() as connection:
            return await connection.fetch(statement, *values)

    async def one_running(self, **changes: Any) -> tuple[FakeAgent, Assignment]:
        """An agent with one task that runs."""
        agent = await self.agent()
        await self.submit(**changes)
        (order,) = await agent.takes(1)
        await agent.starts(order)
        return agent, order


def chunk(start: int, data: bytes, **changes: Any) -> Chunk:
    """Output as it was written, unpacked."""
    return Chunk(start=start, length=len(data), codec=Codec.IDENTITY, data=data, **changes)


def log_end(data: bytes, stream: LogStream = LogStream.STDOUT, **changes: Any) -> LogEnd:
    """The end of a stream in which `data` was written."""
    end = LogEnd(stream=stream, total_bytes=len(data), sha256=hashlib.sha256(data).digest())
    return replace(end, **changes)


@asynccontextmanager
async def running(
    address: PostgresAddress, *, checked: bool = True, rental: Rental = NOTHING_RENTED
) -> AsyncIterator[Server]:
    """A server process in all but its ports."""
    with capture_logs() as lines:
        replica_id = new_uuid()
        database = await connect(replica=replica_number(replica_id), **address.arguments())
        try:
            server = Server(await built(GatedDatabase(database), address, replica_id, rental), address, lines)
            async with working(server.app):
                yield server
                if checked:
                    check_memory(server.app)
        finally:
            await database.close()
    bugs = [line for line in lines if line["event"] in BUGS and line["event"] not in server.expected]
    assert bugs == [], bugs
    if checked:
        connection = await asyncpg.connect(**address.arguments())
        await check_store(connection)
        await connection.close()


async def built(
    database: Database, address: PostgresAddress, replica_id: UUID | None = None, rental: Rental = NOTHING_RENTED
) -> App:
    """The server as the composition root makes it, ready to work."""
    row = await database.fetch_row("get_deployment")
    assert row is not None
    identity = Identity(deployment_id=row["id"], replica_id=replica_id or new_uuid(), address=address.arguments())
    app = App(database, identity, rental=rental)
    await make_partitions(database, app.clock.now())
    await app.enter()
    return app


@asynccontextmanager
async def working(app: App) -> AsyncIterator[None]:
    """Runs the loops of a server for the length of a block."""
    began, stop = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = app.start_work(group)
            began.set()
            await stop.wait()
            for task in tasks:
                task.cancel()

    runner = asyncio.get_running_loop().create_task(work())
    try:
        await began.wait()
        yield
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await runner


async def gathered(calls: Sequence[Any]) -> list[Any]:
    """Makes calls at once; what they raise is among the answers."""
    return await asyncio.gather(*calls, return_exceptions=True)


def started(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A call that runs beside the test."""
    return asyncio.get_running_loop().create_task(call)

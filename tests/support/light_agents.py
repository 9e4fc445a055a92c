"""Thousands of agents in one process: they speak the real protocol, hold attempts, and run nothing.

`python -m tests.support.light_agents --server URL[,URL...] --agents 2000 --join-token TOKEN` keeps them connected until
Ctrl-C and says every few seconds how they do. They join, dial, wait and come back as `styx_agent/link.py` does: each
finds its server anew and has a connection of its own. Next: `light_session.py` for one conversation; what is held is
in `light_attempts.py`, under the rules of real agents, or in `light_answers.py`, as quickly as can be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import resource
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from styx.discovery import discover
from styx.errors import StyxError
from styx.rotation import Rotation
from styx.v1 import agents_pb2
from styx_agent import clock, ids, link
from styx_agent.calls import SessionOver
from styx_agent.session import ReconnectAsked
from tests.support.light_attempts import Holdings, Sheet
from tests.support.light_session import Held, LightSession, Step

_DISCOVERIES_AT_ONCE = 32
_SAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewPlan:
    """How many, and what they are.

    Attributes:
        urls: the servers, as an agent is told of them.
        cpus: what each agent offers; a task needs one unless it says otherwise.
        hold_seconds: how long each attempt lasts; None: until `Crew.release`.
        joins_per_second: how quickly the first dials follow one another.
        joins_at_once: how many of them are under way at a time: as quick as the server is, and no storm. None: all.
    """

    urls: tuple[str, ...]
    agents: int
    join_token: str
    cpus: float = 1.0
    hold_seconds: float | None = None
    joins_per_second: float = 100.0
    joins_at_once: int | None = None

    @property
    def hold_micros(self) -> int | None:
        """The same in microseconds."""
        return None if self.hold_seconds is None else round(self.hold_seconds * 1e6)


class Holder(Held, Protocol):
    """What one agent holds, as its crew sees it."""

    @property
    def is_settled(self) -> bool:
        """Whether the server knows everything."""
        ...

    def __len__(self) -> int:
        """How many attempts are held."""
        ...

    def for_hello(self, now: int) -> list[wire.HeldAttempt]:
        """All that is held."""
        ...

    def release(self, now: int) -> None:
        """Ends all that lives, in success; what comes later ends at once."""
        ...


class Crew:
    """All agents of one process.

    Args:
        holder: makes what one agent holds; None: attempts under the rules of real agents, on the `sheet`.
    """

    def __init__(self, plan: CrewPlan, holder: Callable[[], Holder] | None = None) -> None:
        self.plan = plan
        self.sheet = Sheet()
        self.make_holder: Callable[[], Holder] = holder or (lambda: Holdings(self.sheet, plan.hold_micros))
        self.agents = [LightAgent(number, self) for number in range(1, plan.agents + 1)]
        self.doors = asyncio.Semaphore(plan.joins_at_once or plan.agents)
        self.finders = ThreadPoolExecutor(_DISCOVERIES_AT_ONCE, thread_name_prefix="find")

    async def run(self) -> None:
        """Keeps all agents connected until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for agent in self.agents:
                    group.create_task(agent.run())
        finally:
            self.finders.shutdown(wait=False, cancel_futures=True)

    @property
    def connected(self) -> int:
        """How many have an open session."""
        return sum(agent.is_connected for agent in self.agents)

    @property
    def leased(self) -> int:
        """How many have had a beat stored in the session that is open."""
        return sum(agent.is_leased for agent in self.agents)

    @property
    def held(self) -> int:
        """How many attempts are held."""
        return sum(len(agent.holdings) for agent in self.agents)

    @property
    def is_settled(self) -> bool:
        """Whether the servers know every start and every end."""
        return all(agent.holdings.is_settled for agent in self.agents)

    def release(self) -> None:
        """Ends every attempt, in success; what comes later ends at once."""
        now = clock.boottime_micros()
        for agent in self.agents:
            agent.holdings.release(now)
        self.wake()

    def wake(self) -> None:
        """Each may have something to say."""
        for agent in self.agents:
            agent.wake()


class LightAgent:
    """One agent: an identity, what it holds, and one session after the other.

    Attributes:
        dials: how many sessions were tried.
        opened_micros: when the last Welcome was acted on; CLOCK_BOOTTIME.
        leased_micros: when the first beat of that session was acked.
    """

    def __init__(self, number: int, crew: Crew) -> None:
        self.holdings = crew.make_holder()
        self.number = number
        self.dials = 0
        self.opened_micros = 0
        self.leased_micros = 0
        self._crew = crew
        self._rotation = Rotation(crew.plan.urls)
        self._secret = ids.new_secret()
        self._agent_id = 0
        self._epoch = 0
        self._is_in = False
        self._session: LightSession | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a session is open."""
        return self._session is not None and self._session.is_open

    @property
    def is_leased(self) -> bool:
        """Whether the open session has had a beat stored."""
        return self.is_connected and self.leased_micros > 0

    def wake(self) -> None:
        """It has something to say."""
        if self._session is not None:
            self._session.wake()

    async def run(self) -> None:
        """Holds sessions until it is cancelled. The waits are those of `Link.run`."""
        failures = 0
        await clock.sleep(ids.within(self._crew.plan.agents / self._crew.plan.joins_per_second))
        await self._crew.doors.acquire()
        while True:
            url = self._rotation.order()[0]
            pause = ids.within(link._wait_bound(failures // len(self._rotation.places)))
            opened = False
            try:
                await self._once(url)
            except ReconnectAsked as asked:
                opened, pause = True, ids.within(asked.within_seconds)
            except (StyxError, SessionOver, grpc.aio.AioRpcError):
                opened = self.is_connected
            self._session = None
            self._rotation.failed(url)
            failures = 0 if opened else failures + 1
            await clock.sleep(pause)

    async def _once(self, url: str) -> None:
        self.dials += 1
        self.leased_micros = 0
        endpoint = await asyncio.get_running_loop().run_in_executor(self._crew.finders, discover, url)
        async with link._channel(endpoint) as channel:
            stub: Any = AgentServiceStub(channel)
            if not self._agent_id:
                await self._join(stub)
            token = f"styx_agent_{self._agent_id}_{self._secret}"
            session = LightSession(self.holdings, self._note, may_move=len(self._rotation.places) > 1)
            self._session = session
            try:
                await session.run(stub.Session(metadata=(("authorization", f"Bearer {token}"),)), self._hello)
            finally:
                self._epoch = max(self._epoch, session.epoch)

    def _note(self, step: Step) -> None:
        now = clock.boottime_micros()
        match step:
            case Step.OPENED:
                self.opened_micros = now
            case Step.LEASED:
                self.leased_micros = self.leased_micros or now
                if not self._is_in:
                    self._is_in = True
                    self._crew.doors.release()

    async def _join(self, stub: Any) -> None:
        digest = hashlib.sha256(self._secret.encode()).digest()
        request = wire.JoinRequest(
            join_token=self._crew.plan.join_token, name=f"light-{self.number}", key_digest=digest, version="light"
        )
        self._agent_id = (await stub.Join(request, timeout=link._JOIN_SECONDS)).agent_id

    def _hello(self, now: int) -> wire.Hello:
        return wire.Hello(
            agent_id=self._agent_id,
            boot_id=f"boot-of-{self.number}",
            supervisor_id=f"supervisor-of-{self.number}",
            last_epoch=self._epoch,
            version="light",
            protocol=link.PROTOCOL,
            capacity=agents_pb2.Capacity(cpus=self._crew.plan.cpus, memory_bytes=1 << 36, disk_bytes=1 << 40),
            facts={"os": "none", "note": "holds attempts and runs nothing"},
            isolation="nothing is run",
            attempts=self.holdings.for_hello(now),
        )


def raise_file_limit() -> None:
    """As many open files as this user may have: each agent is a connection, on both sides."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.light_agents", description=__doc__)
    parser.add_argument("--server", required=True, metavar="URL[,URL...]", help="as --server-url of styx-agent")
    parser.add_argument("--join-token", required=True, metavar="TOKEN", help="from `styx agent join --uses N`")
    parser.add_argument("--agents", type=int, default=100, metavar="N")
    parser.add_argument("--cpus", type=float, default=1.0, metavar="N", help="what each offers (default 1)")
    parser.add_argument("--hold", type=float, default=0.0, metavar="SECONDS", help="how long attempts last (default 0)")
    told = parser.parse_args()
    raise_file_limit()
    plan = CrewPlan(
        urls=tuple(told.server.split(",")),
        agents=told.agents,
        join_token=told.join_token,
        cpus=told.cpus,
        hold_seconds=told.hold,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_keep(Crew(plan)))


async def _keep(crew: Crew) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(crew.run())
        while not await clock.wait_for_event(stop, _SAY_SECONDS):
            counts = " ".join(f"{name}={count}" for name, count in sorted(crew.sheet.counts.items()))
            print(f"connected={crew.connected} leased={crew.leased} held={crew.held} {counts}", flush=True)
        running.cancel()


if __name__ == "__main__":
    main()

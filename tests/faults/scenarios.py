"""Faults by design, one story for each planted bug: on the right code nothing is wrong, on the other the checker tells.

Times of leases are a tenth of the usual: an agent beats every second, starts nothing after 2 s of silence, stops its
tasks after 6 s; the server gives them up after 7.3 s.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from styx.models import AgentState
from tests.faults.cluster import Agent, Cluster
from tests.faults.harm import KINDS
from tests.faults.history import RUNS, Recorder, read
from tests.faults.load import Customer
from tests.faults.planted import HELD, HOLD, SLOW_DELIVERY, SLOW_REAPER, SPOKE, TELLING_LINK, Replacement
from tests.support.until import soon, soon_true

SCALE = 0.1
DISCONNECT_SECONDS = 60.0 * SCALE
MARGIN_SECONDS = 0.05 * DISCONNECT_SECONDS + 10.0 * SCALE
LONG = {"seconds": 40, "stdout": 40_000}
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a story needs at hand."""

    cluster: Cluster
    customer: Customer
    journal: Recorder

    async def running(self, key: str, **plan: Any) -> tuple[str, Agent]:
        """A task whose start is recorded, and the agent that runs it."""
        task_id = await self.customer.submit(key, LONG | plan)

        async def recorded() -> bool:
            return (await self.customer.client.get_status(task_id)).state == "RUNNING"

        await soon_true(recorded, f"{key} runs", seconds=PATIENCE_SECONDS)
        agent_id = (await self.customer.client.get_status(task_id)).agent_id
        name = (await self.customer.client.agent(agent_id)).name
        return task_id, next(agent for agent in self.cluster.agents if agent.name == name)

    def runs(self, key: str) -> int:
        """How often it was started."""
        return len(list((self.cluster.folder / RUNS / key).glob("*.run")))

    async def runs_again(self, key: str) -> None:
        """Waits for a second run."""
        await soon(lambda: self.runs(key) > 1, f"{key} runs again", seconds=PATIENCE_SECONDS)

    async def beats(self, agent: Agent) -> None:
        """Waits until one more beat of an agent is stored."""
        before = await self._lease_seq(agent)

        async def moved() -> bool:
            return await self._lease_seq(agent) > before

        await soon_true(moved, "a beat is stored", seconds=PATIENCE_SECONDS)

    async def is_known_to_be_gone(self, agent: Agent) -> None:
        """Waits until an agent gets no more work."""

        async def gone() -> bool:
            found = [each async for each in self.customer.client.agents()]
            return all(each.state is not AgentState.READY for each in found if each.name == agent.name)

        await soon_true(gone, f"{agent.name} is gone", seconds=PATIENCE_SECONDS)

    async def is_given_up(self, key: str, task_id: str) -> None:
        """Waits until the first attempt is stored as lost."""

        async def lost() -> bool:
            attempts = (await self.customer.client.get_task(task_id)).attempts
            return bool(attempts) and attempts[0].outcome is not None

        await soon_true(lost, f"the first attempt of {key} is given up", seconds=PATIENCE_SECONDS)

    async def _lease_seq(self, agent: Agent) -> int:
        async with self.cluster.postgres.connected() as connection:
            statement = "select lease_seq from agent_leases join agents on agents.id = agent_id where name = $1"
            return int(await connection.fetchval(statement, agent.name))

    async def finish(self, key: str, task_id: str) -> None:
        """Heals everything, and ends the task."""
        await self.cluster.heal()
        await self.customer.cancel(key, task_id)
        await self.customer.wait(key, task_id)


async def the_end_is_reported_while_the_table_is_locked(stage: Stage) -> None:
    """The server dies before it can store an end; the agent must still have it."""
    task_id, agent = await stage.running("end", seconds=1.5, at_most_once=True, stdout=1000)
    (replica,) = stage.cluster.replicas
    # The table that ends are decided from.
    async with KINDS["tables locked"].inflict(stage.cluster, 0):
        await soon(lambda: _has_ended(stage, "end"), "the run ends", seconds=PATIENCE_SECONDS)
        await stage.beats(agent)
        await stage.beats(agent)
        replica.kill()
    await stage.cluster.heal()
    await stage.customer.wait("end", task_id)


def _has_ended(stage: Stage, key: str) -> bool:
    paths = (stage.cluster.folder / RUNS / key).glob("*.run")
    return any(event["what"] == "end" for path in paths for event in read(path))


async def an_ack_comes_late(stage: Stage) -> None:
    """Beats arrive, their acks are held up; then nothing arrives any more, and only then the acks come."""
    # Long enough for a slow machine; and the acks are late by less than a connection may be silent, which is 10 s.
    task_id, agent = await stage.running("late", deaf=True, seconds=60, disconnect=14.0)
    await stage.beats(agent)
    agent.wire.hold("down")
    await stage.beats(agent)
    agent.wire.hold("up")
    # Longer than the margin, and before the last ack that came in time makes the supervisor ask for an end.
    await asyncio.sleep(6)
    agent.wire.release("down")
    await stage.runs_again("late")
    await asyncio.sleep(MARGIN_SECONDS)
    await stage.finish("late", task_id)


async def the_link_is_killed_again_and_again_while_it_is_cut_off(stage: Stage) -> None:
    """Nobody who starts may believe that he was heard of just now."""
    task_id, agent = await stage.running("restarts")
    agent.wire.cut()
    spoke = stage.cluster.shape.product / SPOKE
    while stage.runs("restarts") < 2:
        spoke.unlink(missing_ok=True)
        agent.kill()
        agent.start()
        await soon(spoke.exists, "the link speaks with the supervisor", seconds=PATIENCE_SECONDS)
    await asyncio.sleep(MARGIN_SECONDS)
    await stage.finish("restarts", task_id)


async def an_old_order_meets_a_late_beat(stage: Stage) -> None:
    """One replica holds an order for a session that another has ended, and then a beat of that session arrives.

    If the beat counted, the agent would believe that it may start, and obey the order.
    """
    hold = stage.cluster.shape.product / HOLD
    key, task_id, quick, slow = await _an_order_is_held(stage)
    slow.wire.hold("up")
    await stage.is_given_up(key, task_id)
    quick.start()
    await soon(lambda: stage.runs(key) == 1, "it runs elsewhere", seconds=PATIENCE_SECONDS)
    slow.wire.release("up")
    # Two, so that the first is surely answered.
    await stage.beats(slow)
    await stage.beats(slow)
    hold.unlink()
    await asyncio.sleep(2 * MARGIN_SECONDS)
    await stage.finish(key, task_id)


async def _an_order_is_held(stage: Stage) -> tuple[str, str, Agent, Agent]:
    """A task whose order is held on its way; an agent that is down, and the one that the order is for."""
    hold, held = (stage.cluster.shape.product / name for name in (HOLD, HELD))

    async def leads() -> bool:
        return await stage.cluster.leader() is not None

    for turn in itertools.count():
        await soon_true(leads, "somebody leads", seconds=PATIENCE_SECONDS)
        # Each agent knows one replica; what the leader orders goes to its own agent without delay.
        leader = await stage.cluster.leader() or 0
        quick, slow = stage.cluster.agents[leader], stage.cluster.agents[1 - leader]
        quick.kill()
        await stage.is_known_to_be_gone(quick)
        hold.touch()
        key = f"order{turn}"
        task_id = await stage.customer.submit(key, LONG)
        await soon(
            lambda key=key: held.exists() or stage.runs(key) > 0,  # type: ignore[misc]
            "the order is on its way",
            seconds=PATIENCE_SECONDS,
        )
        if held.exists():
            return key, task_id, quick, slow
        # The lead has moved meanwhile.
        hold.unlink()
        await stage.finish(key, task_id)
    raise AssertionError


async def the_agent_is_cut_off(stage: Stage) -> None:
    """Its task must be dead before the next attempt begins."""
    task_id, agent = await stage.running("cut")
    agent.wire.cut()
    await stage.runs_again("cut")
    await asyncio.sleep(MARGIN_SECONDS)
    await stage.finish("cut", task_id)


async def the_wall_clock_jumps(stage: Stage) -> None:
    """By an hour, again and again: to whoever compares with the clock all stored times are an hour old."""
    task_id, _ = await stage.running("clock")
    async with stage.cluster.postgres.connected() as connection:
        for _ in range(100):
            await connection.execute("update agent_leases set beat_time = now() - interval '1 hour'")
            await asyncio.sleep(SCALE / 2)
    await asyncio.sleep(2 * MARGIN_SECONDS)
    await stage.finish("clock", task_id)


async def an_agent_returns_between_look_and_act(stage: Stage) -> None:
    """The reaper saw silence and was slow; meanwhile the agent is back and has new work."""
    hold, held = (stage.cluster.shape.product / name for name in (HOLD, HELD))
    never, agent = await stage.running("never", disconnect="never")
    agent.kill()
    await asyncio.sleep(DISCONNECT_SECONDS + MARGIN_SECONDS + 1)
    hold.touch()
    await soon(held.exists, "the reaper is held", seconds=PATIENCE_SECONDS)
    agent.start()
    fresh, _ = await stage.running("fresh")
    await stage.beats(agent)
    # Else it might hear at once that its attempt was given up, and stop it before anybody sees that it lives.
    agent.wire.cut()
    hold.unlink()
    await asyncio.sleep(3 * MARGIN_SECONDS)
    await stage.finish("fresh", fresh)
    await stage.finish("never", never)


async def the_server_is_killed(stage: Stage) -> None:
    """Who starts has seen nothing yet."""
    # The agent must not give it up by itself, however long this machine takes to start a server, nor hear of it.
    task_id, agent = await stage.running("restarted", disconnect=60.0)
    agent.wire.cut()
    (replica,) = stage.cluster.replicas
    replica.kill()
    replica.start()

    async def leads() -> bool:
        return await stage.cluster.leader() is not None

    await soon_true(leads, "it leads again", seconds=PATIENCE_SECONDS)
    for other in stage.cluster.agents:
        if other is not agent:
            await stage.beats(other)
    await asyncio.sleep(3 * MARGIN_SECONDS)
    await stage.finish("restarted", task_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A story, and what it is told with.

    Attributes:
        bug: the planted bug that it brings to light.
        checks: at least one of these must find it.
        always: replacements that are no bugs, for the right code too.
    """

    bug: str
    act: Callable[[Stage], Awaitable[None]]
    checks: frozenset[str] = frozenset({"an_end_is_an_end", "no_two_runs_overlap"})
    agents: int = 2
    replicas: int = 1
    always: tuple[Replacement, ...] = field(default=())


SCENARIOS = (
    Scenario(
        bug="ack before commit",
        act=the_end_is_reported_while_the_table_is_locked,
        checks=frozenset({"deaths_have_a_cause"}),
    ),
    Scenario(bug="deadline from receipt", act=an_ack_comes_late),
    Scenario(
        bug="deadline reset at restart",
        act=the_link_is_killed_again_and_again_while_it_is_cut_off,
        always=(TELLING_LINK,),
    ),
    Scenario(bug="no epoch check", act=an_old_order_meets_a_late_beat, replicas=2, always=(SLOW_DELIVERY,)),
    Scenario(bug="expiry from the wall clock", act=the_wall_clock_jumps),
    Scenario(
        bug="loss without compare-and-set",
        act=an_agent_returns_between_look_and_act,
        agents=1,
        always=(SLOW_REAPER,),
    ),
    Scenario(bug="reaper inherits an old view", act=the_server_is_killed),
    Scenario(bug="supervisor does not enforce", act=the_agent_is_cut_off),
)

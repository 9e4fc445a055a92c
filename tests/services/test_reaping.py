"""Who is declared dead, and by which clock: by none that people set, and never because we were away."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from styx_server import clock
from styx_server.core.errors import Unavailable
from styx_server.core.lease import START_WINDOW_SECONDS, margin_seconds
from styx_server.core.states import AttemptState, TaskState
from styx_server.loops.reap import Reaper
from tests.services.test_outage import no_database
from tests.support.postgres import connected
from tests.support.server import FakeAgent, Server, started
from tests.support.until import soon, soon_true

HOUR = timedelta(hours=1)
LOST_AFTER = START_WINDOW_SECONDS + margin_seconds(START_WINDOW_SECONDS)


class SetClock:
    """A clock whose hands the test moves: `wall` is what people see, `seconds` what only goes on."""

    def __init__(self) -> None:
        self.wall = timedelta()
        self.seconds = 0.0

    def now(self) -> datetime:
        return clock.now() + self.wall

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        await clock.sleep(seconds)


def reaper_of(server: Server, hands: SetClock) -> Reaper:
    return Reaper(server.database, server.app.reports, hands, on_change=lambda _agents: None)


async def one_assigned(server: Server) -> FakeAgent:
    """An agent with an attempt whose start is not recorded: it is the first to be lost."""
    agent = await server.agent()
    await server.submit()
    await agent.takes(1)
    return agent


async def watched(reaper: Reaper, hands: SetClock, seconds: float) -> None:
    """The reaper looks every five seconds for so long."""
    for _ in range(round(seconds / 5)):
        hands.seconds += 5.0
        await reaper.once()


async def shift_database(server: Server, by: timedelta) -> None:
    """What the database's clock wrote lies in the past or in the future, as after that clock jumped."""
    await server.rows("update agent_leases set beat_time = beat_time - $1::interval", by)
    await server.rows("update tasks set assign_time = assign_time - $1::interval", by)


async def looks(reaper: Reaper) -> bool:
    """Whether a pass succeeds."""
    try:
        await reaper.once()
    except Unavailable:
        return False
    return True


async def attempt_state(server: Server) -> AttemptState:
    """Of the only task, past the server's own connections: some of them may not have noticed yet that they are cut."""
    async with connected(server.address) as own:
        return AttemptState(await own.fetchval("select attempt_state from tasks"))


@pytest.mark.parametrize("by", [HOUR, -HOUR])
async def test_no_lease_expires_or_lives_on_when_wall_clocks_jump(server: Server, by: timedelta) -> None:
    agent = await one_assigned(server)
    task_id = agent.assigned[0].task_id
    hands = SetClock()
    reaper = reaper_of(server, hands)
    await reaper.once()
    await watched(reaper, hands, 15)
    hands.wall += by
    await shift_database(server, by)
    await watched(reaper, hands, LOST_AFTER - 21)
    assert (await server.state(task_id))[0] is TaskState.PENDING
    assert (await server.app.tasks.get(task_id)).timeline[-1].kind == "assigned"
    await watched(reaper, hands, 15)
    details = await server.app.tasks.get(task_id)
    assert details.attempts[0].state is AttemptState.ENDED


async def test_beats_that_could_not_be_stored_are_no_silence(server: Server) -> None:
    agent = await one_assigned(server)
    assert agent.session is not None
    hands = SetClock()
    reaper = reaper_of(server, hands)
    await reaper.once()
    await watched(reaper, hands, 30)
    async with no_database(server):
        beat = started(server.app.sessions.beat(agent.session, [], False))
        await soon(lambda: server.database.failures["renew_leases"] > 0, "a beat that could not be stored")
        beat.cancel()
    await soon_true(lambda: looks(reaper), "the reaper sees the database again")
    await watched(reaper, hands, 25)
    assert await attempt_state(server) is AttemptState.ASSIGNED


async def test_what_the_reaper_found_does_not_wait_for_the_database(server: Server) -> None:
    await one_assigned(server)
    hands = SetClock()
    reaper = reaper_of(server, hands)
    await reaper.once()
    await watched(reaper, hands, 25)
    hands.seconds += 15.0
    with server.database.held("lock_leases") as gate:
        passed = started(reaper.once())
        await gate.reached.wait()
        async with no_database(server):
            gate.open.set()
            with pytest.raises(Exception, match="try again"):
                await passed
    assert await attempt_state(server) is AttemptState.ASSIGNED

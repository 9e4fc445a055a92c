"""Who pays for an attempt that ended: the user's retries, the machines' budget, or nobody."""

from __future__ import annotations

import pytest

from styx_server.core.outcome import INFRA_BUDGET
from styx_server.core.states import OutcomeKind, TaskState
from styx_server.core.task import RetryPolicy
from styx_server.services.tasks import Mutation
from tests.support.builders import an_outcome, exited
from tests.support.server import Server

# Kind of end, what it counts on (failures, infra_failures, preemptions), and why the next attempt exists.
COUNTS = {
    OutcomeKind.EXITED: ((1, 0, 0), "retry"),
    OutcomeKind.SIGNALED: ((1, 0, 0), "retry"),
    OutcomeKind.OOM_KILLED: ((1, 0, 0), "retry"),
    OutcomeKind.START_FAILED: ((1, 0, 0), "retry"),
    OutcomeKind.REJECTED: ((0, 1, 0), "rejected"),
    OutcomeKind.HOST_REBOOTED: ((0, 1, 0), "lost"),
    OutcomeKind.SUPERVISOR_LOST: ((0, 1, 0), "lost"),
    OutcomeKind.LOST: ((0, 1, 0), "lost"),
    OutcomeKind.PREEMPTED: ((0, 0, 1), "preempted"),
    OutcomeKind.CANCELLED: ((0, 0, 1), "preempted"),
    OutcomeKind.RETURNED: ((0, 0, 0), "returned"),
}
MACHINES = [kind for kind, (counts, _) in COUNTS.items() if counts[1]]
NEVER_RAN = (OutcomeKind.REJECTED, OutcomeKind.RETURNED)
STARTED = [kind for kind in COUNTS if kind not in NEVER_RAN]


async def counts(server: Server) -> tuple[int, int, int]:
    (row,) = await server.rows("select failures, infra_failures, preemptions from tasks")
    return tuple(row)


async def test_each_end_counts_on_its_own_budget_and_the_next_attempt_says_why_it_exists(server: Server) -> None:
    agent = await server.agent()
    await server.submit(retry=RetryPolicy(max_retries=100, backoff_seconds=0.01, max_backoff_seconds=0.01))
    # Nobody waits for the machines' backoff in this test: the count that it grows with is put back.
    for number, (kind, (expected, cause)) in enumerate(COUNTS.items()):
        await server.rows("update tasks set failures = 0, infra_failures = 0, preemptions = 0")
        order = (await agent.takes(number + 1))[number]
        if kind not in NEVER_RAN:
            await agent.starts(order)
        assert await agent.ends(order, an_outcome(kind))
        assert await counts(server) == expected, kind
        following = (await agent.takes(number + 2))[number + 1]
        (row,) = await server.rows("select attempt_cause from tasks")
        assert (row["attempt_cause"], following.attempt) == (cause, number + 2), kind


@pytest.mark.parametrize("kind", MACHINES)
async def test_whatever_a_machine_did_the_task_is_held_in_the_end_and_a_retry_releases_it(
    server: Server, kind: OutcomeKind
) -> None:
    (task_id,) = await server.submit()
    await server.rows("update tasks set infra_failures = $1", INFRA_BUDGET)
    agent = await server.agent()
    (order,) = await agent.takes(1)
    assert await agent.ends(order, an_outcome(kind))
    assert await server.state(task_id) == (TaskState.PENDING, "held")
    await server.settled()
    assert len(agent.assigned) == 1
    once = Mutation(token_id=1, method="RetryTask", request_id="r1", digest=b"d" * 32)
    await server.app.tasks.retry(task_id, once)
    assert await counts(server) == (0, 0, 0)
    await agent.runs((await agent.takes(2))[1], exited(0))
    assert await server.state(task_id) == (TaskState.SUCCEEDED, "")


@pytest.mark.parametrize("kind", STARTED)
async def test_at_most_once_never_runs_again_whatever_ended_it(server: Server, kind: OutcomeKind) -> None:
    agent, order = await server.one_running(at_most_once=True)
    assert await agent.ends(order, an_outcome(kind))
    state, _ = await server.state(order.task_id)
    assert state is (TaskState.FAILED if COUNTS[kind][0][0] else TaskState.LOST)
    await server.settled()
    assert len(agent.assigned) == 1

"""Agents that answer at once say the right things, and know when everything is stored."""

from __future__ import annotations

import asyncio

import pytest

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from tests.support.light_answers import Answers, Tally

SECOND = 1_000_000


def orders(*fences: int) -> list[wire.Assignment]:
    return [wire.Assignment(fence=fence, task_id=fence + 100, attempt=1) for fence in fences]


def told(report: wire.Report) -> list[tuple[int, int, str]]:
    return [(each.fence, each.task_id, tasks_pb2.Attempt.State.Name(each.state)) for each in report.attempts]


def test_start_and_end_are_one_report() -> None:
    answers = Answers(Tally())
    answers.assign(orders(1, 2), SECOND)
    assert answers.live_fences() == [1, 2]
    report = answers.take_news(10, SECOND)
    assert told(report) == [(1, 101, "ENDED"), (2, 102, "ENDED")]
    assert {(each.outcome.kind, each.outcome.exit_code) for each in report.attempts} == {(tasks_pb2.Outcome.EXITED, 0)}
    assert all(each.HasField("started_ago") and each.HasField("ended_ago") for each in report.attempts)
    assert not answers.live_fences()
    assert not answers.is_settled
    answers.stored(report)
    assert (len(answers), answers.is_settled) == (0, True)


def test_what_lasts_is_told_of_twice() -> None:
    answers = Answers(Tally(), 2 * SECOND)
    answers.assign(orders(1), SECOND)
    started = answers.take_news(10, SECOND)
    assert told(started) == [(1, 101, "RUNNING")]
    answers.stored(started)
    due = answers.next_due()
    assert due is not None
    assert 2 * SECOND <= due < 4 * SECOND
    answers.pass_time(due - 1)
    assert not answers.has_news
    answers.pass_time(due)
    assert told(answers.take_news(10, due)) == [(1, 101, "ENDED")]


def test_what_started_together_does_not_end_together() -> None:
    answers = Answers(Tally(), 2 * SECOND)
    answers.assign(orders(*range(1, 101)), 0)
    answers.take_news(1000, 0)
    ended = []
    for now in range(SECOND, 3 * SECOND + 1, SECOND // 10):
        answers.pass_time(now)
        ended.append(len(answers.take_news(1000, now).attempts))
    assert (sum(ended), max(ended)) == (100, pytest.approx(5, abs=3))


def test_behind_a_closed_gate_attempts_are_held_and_named_in_beats() -> None:
    tally = Tally(is_open=False)
    answers = Answers(tally)
    answers.assign(orders(1), SECOND)
    assert (answers.has_news, answers.live_fences()) == (False, [1])
    tally.is_open = True
    assert answers.has_news


def test_a_report_is_no_longer_than_it_may_be() -> None:
    answers = Answers(Tally())
    answers.assign(orders(1, 2, 3), SECOND)
    assert [each.fence for each in answers.take_news(2, SECOND).attempts] == [1, 2]
    assert [each.fence for each in answers.take_news(2, SECOND).attempts] == [3]


def test_what_was_told_and_not_acked_is_told_again_in_the_next_session() -> None:
    answers = Answers(Tally())
    answers.assign(orders(1), SECOND)
    answers.take_news(10, SECOND)
    (held,) = answers.for_hello(SECOND)
    assert (held.fence, held.HasField("unacked_report")) == (1, True)
    answers.new_session()
    assert [each.fence for each in answers.take_news(10, SECOND).attempts] == [1]


def test_what_the_server_has_by_another_way_is_not_told_again() -> None:
    answers = Answers(Tally())
    answers.assign(orders(1), SECOND)
    answers.obey(wire.Verdict(fence=1, end_acked=True), SECOND)
    assert answers.is_settled


async def test_the_tally_says_when_so_many_ends_are_stored() -> None:
    tally = Tally(keeps_times=True)
    answers = Answers(tally)
    async with asyncio.TaskGroup() as group:
        ended = group.create_task(tally.until_ended(2))
        received = group.create_task(tally.until_received([101, 102]))
        await asyncio.sleep(0)
        answers.assign(orders(1), SECOND)
        answers.stored(answers.take_news(10, SECOND))
        await asyncio.sleep(0)
        assert not ended.done()
        answers.assign(orders(2), 2 * SECOND)
        answers.stored(answers.take_news(10, SECOND))
    assert received.done()
    assert tally.received == {101: SECOND, 102: 2 * SECOND}

"""The sheet of light attempts sees what it is there to see; and what they hold keeps to the rules of real agents."""

from __future__ import annotations

from typing import Any

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from tests.support.light_attempts import Holdings, Sheet

SECOND = 1_000_000
WINDOW = 20 * SECOND


def an_order(fence: int, task_id: int = 1, **spec: Any) -> wire.Assignment:
    body = tasks_pb2.TaskSpec(argv=["hold"], **spec).SerializeToString()
    return wire.Assignment(fence=fence, task_id=task_id, attempt=1, spec=body)


def some_holdings(sheet: Sheet, hold_micros: int | None = None) -> Holdings:
    """Those of an agent with a beat acked at 0."""
    holdings = Holdings(sheet, hold_micros)
    holdings.extend(0, WINDOW)
    return holdings


def outcomes(holdings: Holdings) -> list[str]:
    return [tasks_pb2.Outcome.Kind.Name(each.outcome.kind) for each in holdings.take_news(10, 0).attempts]


def test_two_attempts_of_a_task_at_once_are_seen() -> None:
    sheet = Sheet()
    some_holdings(sheet).assign([an_order(1)], SECOND)
    some_holdings(sheet).assign([an_order(2)], 2 * SECOND)
    assert sheet.counts["overlapped"] == 1


def test_an_attempt_that_no_lease_covers_any_more_overlaps_with_nothing() -> None:
    sheet = Sheet()
    first, second = some_holdings(sheet), some_holdings(sheet)
    first.assign([an_order(1)], SECOND)
    second.extend(WINDOW, WINDOW)
    second.assign([an_order(2)], WINDOW + SECOND)
    assert (sheet.counts["overlapped"], sheet.counts["LOST"]) == (0, 1)


def test_an_attempt_whose_start_is_recorded_outlives_the_start_window() -> None:
    holdings = some_holdings(Sheet())
    holdings.assign([an_order(1)], SECOND)
    holdings.start_recorded([1])
    holdings.pass_time(WINDOW)
    assert holdings.live_fences() == [1]
    holdings.pass_time(900 * SECOND)
    assert holdings.live_fences() == []


def test_an_attempt_that_shall_never_be_stopped_for_silence_is_not() -> None:
    holdings = some_holdings(Sheet())
    holdings.assign([an_order(1, disconnect_timeout=tasks_pb2.DisconnectTimeout(never=True))], SECOND)
    holdings.start_recorded([1])
    holdings.pass_time(10**6 * SECOND)
    assert holdings.live_fences() == [1]


def test_an_order_that_comes_after_the_start_window_is_rejected() -> None:
    holdings = some_holdings(Sheet())
    holdings.assign([an_order(1)], WINDOW)
    assert outcomes(holdings) == ["REJECTED"]


def test_an_order_that_comes_twice_is_left_alone() -> None:
    sheet = Sheet()
    holdings = some_holdings(sheet, 0)
    for _ in range(2):
        holdings.assign([an_order(1)], SECOND)
    assert (sheet.counts["started"], sheet.counts["repeated"], outcomes(holdings)) == (1, 1, ["EXITED"])


def test_a_live_attempt_that_is_to_be_forgotten_is_on_the_sheet() -> None:
    sheet = Sheet()
    holdings = some_holdings(sheet)
    holdings.assign([an_order(1)], SECOND)
    assert sheet.unwanted(1) == 0
    holdings.obey(wire.Verdict(fence=1, action=wire.Verdict.FORGET), SECOND)
    assert (sheet.unwanted(1), len(holdings)) == (1, 0)


def test_what_was_told_and_not_acked_is_told_again_in_the_next_session() -> None:
    holdings = some_holdings(Sheet())
    holdings.assign([an_order(1)], SECOND)
    assert [each.fence for each in holdings.take_news(10, SECOND).attempts] == [1]
    holdings.new_session()
    assert [each.fence for each in holdings.take_news(10, SECOND).attempts] == [1]
    holdings.start_recorded([1])
    holdings.new_session()
    assert holdings.is_settled

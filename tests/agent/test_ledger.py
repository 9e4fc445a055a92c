"""What the link knows of attempts, and when it lets go of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from styx_agent.chunks import ChunkMaker
from styx_agent.hearing import Hearing
from styx_agent.ledger import Ledger
from styx_agent.logs import LogPusher
from styx_agent.orders import ServerOrders


class Scene:
    """A ledger and everything that it tells the supervisor."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.ledger = Ledger(self.said.append)
        self.hearing = Hearing(self.ledger)
        self.server = ServerOrders(self.ledger)
        self.welcome()

    def welcome(self, *attempts: dict[str, Any]) -> None:
        self.tell("welcome", supervisor_id="s", boot_id="b", isolation="cgroup", cgroup=True, attempts=list(attempts))

    def tell(self, op: str, **message: Any) -> None:
        self.hearing.take({"op": op, **message})

    def changed(self, fence: int, state: str, **fields: Any) -> dict[str, Any]:
        attempt = {"fence": fence, "task_id": fence, "attempt": 1, "state": state, "recorded": False, "outcome": None}
        attempt |= {"started_micros": 1, "ended_micros": 2 if state == "ENDED" else None, "logs": [], **fields}
        self.tell("changed", attempt=attempt)
        return attempt

    def assign(self, fence: int, *, may_start: bool = True) -> None:
        order = {"op": "start", "fence": fence, "task_id": fence, "attempt": 1}
        self.server.assign(order, may_start=may_start)

    def ended(self, fence: int, total: int = 0) -> None:
        outcome = {"kind": "EXITED", "exit_code": 0}
        logs = [{"stream": "stdout", "total": total, "sha256": "", "gaps": []}] if total else []
        streams = [{"stream": "stdout", "end": total, "freed": 0, "gaps": [], "marks": []}] if total else []
        self.changed(fence, "ENDED", outcome=outcome, logs=logs, streams=streams)

    def ops(self, op: str) -> list[Any]:
        return [message.get("fence", message.get("fences")) for message in self.said if message["op"] == op]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_attempt_is_forgotten_when_end_and_output_are_stored(scene: Scene) -> None:
    scene.assign(5)
    scene.ended(5, total=10)
    scene.server.end_stored(5)
    scene.server.stored(5, "stdout", 9)
    assert scene.ops("forget") == []
    scene.server.stored(5, "stdout", 10)
    assert scene.ops("forget") == [5]
    assert len(scene.ledger) == 0


def test_output_may_be_complete_before_the_end_is_stored(scene: Scene) -> None:
    scene.assign(5)
    scene.ended(5, total=10)
    scene.server.stored(5, "stdout", 10)
    assert scene.ledger.owes
    scene.server.end_stored(5)
    assert scene.ops("forget") == [5]
    assert not scene.ledger.owes


def test_what_starts_and_ends_between_two_looks_is_one_piece_of_news(scene: Scene) -> None:
    scene.assign(5)
    scene.changed(5, "RUNNING")
    scene.ended(5)
    assert [held.state for held in scene.ledger.take_news(10)] == ["ENDED"]
    assert scene.ledger.take_news(10) == []


def test_a_start_can_be_left_for_later_while_its_end_cannot(scene: Scene) -> None:
    for fence in (5, 6):
        scene.assign(fence)
        scene.changed(fence, "RUNNING")
        held = scene.ledger.get(fence)
        assert held is not None
        held.started_micros = 1000 * fence
    assert [held.fence for held in scene.ledger.take_news(10, started_before=5500)] == [5]
    assert scene.ledger.has_news
    scene.ended(6)
    assert [held.fence for held in scene.ledger.take_news(10, started_before=5500)] == [6]
    assert not scene.ledger.has_news


def test_news_is_told_again_in_a_new_session_until_it_is_stored(scene: Scene) -> None:
    scene.assign(5)
    scene.changed(5, "RUNNING")
    assert len(scene.ledger.take_news(10)) == 1
    scene.ledger.new_session()
    assert len(scene.ledger.take_news(10)) == 1
    scene.server.start_recorded([5])
    scene.ledger.new_session()
    assert scene.ledger.take_news(10) == []


def test_an_end_that_welcome_calls_stored_is_not_told_again(scene: Scene) -> None:
    scene.assign(5)
    scene.ended(5, total=10)
    scene.ledger.new_session()
    scene.server.end_stored(5)
    assert scene.ledger.take_news(10) == []
    assert len(scene.ledger) == 1


def test_output_that_nobody_wants_any_more_is_not_called_missing(scene: Scene, tmp_path: Path) -> None:
    scene.assign(5)
    scene.ended(5, total=10)
    pusher = LogPusher(scene.ledger, ChunkMaker(tmp_path, compress=False), lambda: None, epoch=1)
    (stream,) = scene.ledger.streams()
    pusher.on_growth(stream)
    scene.server.disown([5])
    assert pusher._gather(10**15) == []


def test_an_attempt_that_only_exists_as_an_order_is_no_news(scene: Scene) -> None:
    scene.assign(5)
    assert scene.ledger.take_news(10) == []
    assert scene.ledger.live_fences() == [5]


def test_orders_that_a_dead_supervisor_did_not_take_are_given_again(scene: Scene) -> None:
    scene.assign(5)
    scene.welcome()
    assert scene.ops("start") == [5, 5]


def test_an_attempt_without_a_trace_has_ended(scene: Scene) -> None:
    scene.assign(5)
    scene.changed(5, "RUNNING")
    scene.ledger.take_news(10)
    scene.welcome()
    (held,) = scene.ledger.take_news(10)
    assert held.outcome is not None
    assert held.outcome["kind"] == "SUPERVISOR_LOST"


def test_recorded_starts_are_said_again_to_a_new_supervisor(scene: Scene) -> None:
    scene.assign(5)
    attempt = scene.changed(5, "RUNNING")
    scene.server.start_recorded([5])
    scene.server.start_recorded([5])
    assert scene.ops("recorded") == [[5]]
    scene.welcome(attempt)
    assert scene.ops("recorded") == [[5], [5]]


def test_a_rejected_assignment_is_owed_until_it_is_stored(scene: Scene) -> None:
    scene.assign(5, may_start=False)
    assert scene.ops("start") == []
    (held,) = scene.ledger.take_news(10)
    assert held.outcome is not None
    assert held.outcome["kind"] == "REJECTED"
    scene.server.end_stored(5)
    assert len(scene.ledger) == 0


def test_a_fence_is_never_run_twice(scene: Scene) -> None:
    scene.assign(5)
    scene.assign(5)
    scene.ended(5)
    scene.server.end_stored(5)
    scene.assign(5)
    assert scene.ops("start") == [5]


def test_the_condemned_are_listed_until_they_are_dead(scene: Scene) -> None:
    scene.assign(5)
    scene.changed(5, "RUNNING")
    scene.server.condemn(5)
    assert scene.ops("forget") == [5]
    assert scene.ledger.live_fences() == [5]
    assert [held.fence for held in scene.ledger.all()] == [5]
    assert scene.ledger.take_news(10) == []
    scene.ended(5)
    assert scene.ledger.live_fences() == []


def test_time_marks_of_stored_output_are_dropped_but_for_the_last(scene: Scene) -> None:
    scene.assign(5)
    scene.changed(5, "RUNNING")
    scene.tell("grown", fence=5, stream="stdout", end=30, gaps=[], marks=[[0, 1], [10, 2], [20, 3]])
    scene.tell("grown", fence=5, stream="stdout", end=40, gaps=[], marks=[[30, 4]])
    scene.server.stored(5, "stdout", 25)
    (stream,) = scene.ledger.streams()
    assert stream.marks == [(20, 3), (30, 4)]
    assert (stream.sent, stream.durable, stream.unsent) == (25, 25, 15)


def test_output_goes_on_from_what_is_stored_in_a_new_session(scene: Scene) -> None:
    scene.assign(5)
    scene.changed(5, "RUNNING")
    scene.tell("grown", fence=5, stream="stdout", end=40, gaps=[], marks=[])
    (stream,) = scene.ledger.streams()
    stream.sent = 40
    scene.server.stored(5, "stdout", 25)
    scene.ledger.new_session()
    assert stream.sent == 25

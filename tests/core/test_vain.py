"""What was rented in vain is not rented again and again."""

from __future__ import annotations

from styx_server.core.machines.instance import InstanceId
from styx_server.core.machines.vain import FIRST_SECONDS, MOST_SECONDS, Vain
from styx_server.core.task import Resources, Shape

HUGE = Shape(pool="default", resources=Resources(cpus_milli=1000, disk_bytes=1 << 50))
ONE, TWO = InstanceId(1), InstanceId(2)
LACKS: dict[Shape, str | None] = {HUGE: "of 1 agent 1 lacks disk"}


def struck(*, at: float = 0.0) -> Vain:
    vain = Vain()
    vain.rented(ONE, HUGE)
    assert vain.look(LACKS, [ONE], [ONE], at) == [ONE]
    return vain


def test_a_machine_that_cannot_run_what_it_was_rented_for_is_not_rented_again_for_a_while() -> None:
    vain = struck()
    assert vain.why_not(HUGE, 0.0) == (
        "i1 was rented for it in vain: of 1 agent 1 lacks disk; nothing more is rented for it for 10 min"
    )
    assert not vain.why_not(HUGE, FIRST_SECONDS)


def test_what_has_not_settled_or_was_rented_for_something_else_says_nothing() -> None:
    vain = Vain()
    vain.rented(ONE, HUGE)
    vain.rented(TWO, None)
    assert vain.look(LACKS, [ONE, TWO], [TWO], 0.0) == []
    assert vain.look({}, [ONE, TWO], [ONE, TWO], 0.0) == []
    assert not vain.why_not(HUGE, 0.0)


def test_each_time_doubles_up_to_a_limit_and_machines_rented_together_count_once() -> None:
    vain, now, waited = Vain(), 0.0, []
    for _ in range(12):
        vain.rented(ONE, HUGE)
        vain.rented(TWO, HUGE)
        vain.look(LACKS, [ONE, TWO], [ONE, TWO], now)
        begun = now
        while vain.why_not(HUGE, now):
            now += 60.0
        waited.append(now - begun)
    assert waited[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert max(waited) == MOST_SECONDS


def test_once_an_agent_could_run_it_all_is_forgotten() -> None:
    vain = struck()
    vain.look({HUGE: None}, [], [], 1.0)
    assert not vain.why_not(HUGE, 1.0)


def test_what_has_not_waited_for_long_is_forgotten() -> None:
    vain = struck()
    vain.look({}, [], [], FIRST_SECONDS + MOST_SECONDS)
    vain.rented(TWO, HUGE)
    vain.look(LACKS, [TWO], [TWO], FIRST_SECONDS + MOST_SECONDS)
    assert "10 min" in vain.why_not(HUGE, FIRST_SECONDS + MOST_SECONDS)

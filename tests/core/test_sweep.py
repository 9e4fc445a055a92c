"""What a provider's list means for what is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from styx_server.core.machines.instance import CloudMachine, InstanceId, InstanceState, MachineState
from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.core.machines.sweep import Comparison, Gone, KnownMachine, compare
from styx_server.core.machines.terms import MachineTerms

TERMS = MachineTerms()
ONE = InstanceId(1)
S, M = InstanceState, MachineState


def known(state: InstanceState, *, cloud_id: str = "c1", missed: int = 0, seconds: float = 0.0) -> KnownMachine:
    return KnownMachine(
        instance_id=ONE, state=state, key="k1", cloud_id=cloud_id, missed=missed, missed_seconds=seconds
    )


def machine(cloud_id: str = "c1", state: MachineState = M.RUNNING, key: str = "k1", reason: str = "") -> CloudMachine:
    return CloudMachine(place=Place(provider="p", region="r"), cloud_id=cloud_id, state=state, key=key, reason=reason)


@pytest.mark.parametrize("state", [S.CREATING, S.TERMINATING])
def test_a_machine_whose_name_was_lost_is_found_by_its_key(state: InstanceState) -> None:
    result = compare([known(state, cloud_id="")], [machine()], TERMS)
    assert result == Comparison(found=[(ONE, machine())], there={ONE: True})


@pytest.mark.parametrize("state", [S.LAUNCHED, S.READY, S.DRAINING, S.TERMINATING])
def test_a_machine_that_the_provider_calls_ended_is_gone(state: InstanceState) -> None:
    ended = machine(state=M.ENDED, reason="preempted")
    assert compare([known(state)], [ended], TERMS).gone == [Gone(ONE, "preempted")]


@pytest.mark.parametrize("state", [S.INTENT, S.CREATING])
def test_what_is_being_asked_for_is_not_missed(state: InstanceState) -> None:
    result = compare([known(state, cloud_id="", missed=99, seconds=9e9)], [], TERMS)
    assert result == Comparison(there={ONE: False})


@pytest.mark.parametrize(
    ("missed", "seconds", "gone"), [(0, 0, False), (1, 9e9, False), (9, 599, False), (2, 600, True)]
)
def test_not_listed_is_gone_only_after_several_lists_over_a_long_time(
    missed: int, seconds: float, *, gone: bool
) -> None:
    result = compare([known(S.READY, missed=missed, seconds=seconds)], [], TERMS)
    assert bool(result.gone) == gone
    assert result.there == {ONE: False}


def test_one_that_was_listed_and_released_is_gone_sooner() -> None:
    released = KnownMachine(
        instance_id=ONE, state=S.TERMINATING, key="k1", cloud_id="c1", missed=1, missed_seconds=30, was_listed=True
    )
    assert compare([released], [], TERMS).gone == [Gone(ONE, "vanished")]


@pytest.mark.parametrize("state", [S.TERMINATED, S.FAILED])
def test_a_machine_whose_row_has_ended_is_ended_again(state: InstanceState) -> None:
    assert compare([known(state)], [machine()], TERMS).back == [machine()]
    assert compare([known(state)], [machine(state=M.ENDING)], TERMS).back == []


def test_of_two_machines_for_one_order_one_is_ended() -> None:
    result = compare([known(S.READY)], [machine("c1"), machine("c2")], TERMS)
    assert result.back == [machine("c2")]
    assert compare([known(S.CREATING, cloud_id="")], [machine("c1"), machine("c2")], TERMS).back == [machine("c2")]


def test_the_end_of_the_second_machine_of_an_order_says_nothing_of_the_first() -> None:
    result = compare([known(S.READY)], [machine("c2", state=M.ENDED)], TERMS)
    assert (result.gone, result.there) == ([], {ONE: False})
    assert compare([known(S.READY)], [machine("c2")], TERMS).back == [machine("c2")]


def test_a_machine_that_does_not_come_up_counts_as_refused_until_its_agent_has_joined() -> None:
    stuck = replace(machine(), refusal=RefusalKind.CAPACITY)
    assert compare([known(S.LAUNCHED)], [stuck], TERMS).refused == [(ONE, stuck)]
    assert compare([known(S.READY)], [stuck], TERMS).refused == []


def test_a_machine_without_a_row_is_a_stranger() -> None:
    stranger = machine("c9", key="k9")
    result = compare([known(S.READY)], [machine(), stranger, machine("c8", state=M.ENDED, key="k8")], TERMS)
    assert result.strangers == [stranger]
    assert not result.alarm


def test_so_many_strangers_are_left_to_a_person() -> None:
    many = [machine(f"c{number}", key=f"k{number}") for number in range(100, 111)]
    assert "more than 10" in compare([], many, TERMS).alarm
    assert "fifth" in compare([known(S.READY)], [machine(), *many[:2]], TERMS).alarm
    assert not compare([], many[:1], TERMS).alarm

"""What a provider's list of machines means for what Styx believes: found, gone, missing, back from the dead, unknown.

Nothing is believed gone on one word: "not on the list" is no proof, since lists of clouds lag behind. Next:
`services/machines/sweeping.py`, which asks and acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from styx_server.core.machines.instance import CloudMachine, InstanceId, InstanceState, MachineState
from styx_server.core.machines.terms import MachineTerms

_ABSENT_LOOKS: Final = 3
_VANISHED_LOOKS: Final = 2
_MOST_STRANGERS: Final = 10
_STRANGERS_SHARE: Final = 0.2
"""Beyond either of them it is more likely that we lost our memory than that so many machines are nobody's."""

_COMING: Final = frozenset({InstanceState.CREATING, InstanceState.LAUNCHED})


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMachine:
    """What is stored about one instance.

    Attributes:
        calls: how often the provider was asked since its last definite answer.
        missed: how many lists in a row did not have it.
        missed_seconds: since the first of those.
        was_listed: whether a list ever had it.
        heard: its agent is heard of, so it is there whatever a list says.
    """

    instance_id: InstanceId
    state: InstanceState
    key: str
    cloud_id: str
    calls: int = 0
    missed: int = 0
    missed_seconds: float = 0.0
    was_listed: bool = False
    heard: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """The machine of an instance is no more. `reason` is `preempted`, `ended`, or `vanished`."""

    instance_id: InstanceId
    reason: str


@dataclass(slots=True)
class Comparison:
    """What a list means.

    Attributes:
        found: instances whose machine was not known by name, and its name.
        refused: instances whose order was accepted, and then turned out not to come up, with why.
        gone: instances that have no machine any more.
        there: for each live instance whether the list had it.
        back: machines that should be gone, and must be ended (again).
        strangers: machines with our tag that no row knows.
        alarm: why strangers must not be touched without a person; empty: they may.
    """

    found: list[tuple[InstanceId, CloudMachine]] = field(default_factory=list)
    refused: list[tuple[InstanceId, CloudMachine]] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    there: dict[InstanceId, bool] = field(default_factory=dict)
    back: list[CloudMachine] = field(default_factory=list)
    strangers: list[CloudMachine] = field(default_factory=list)
    alarm: str = ""


def compare(known: Iterable[KnownMachine], listed: Sequence[CloudMachine], terms: MachineTerms) -> Comparison:
    """Holds what is stored against a list that was asked for before it was read.

    Args:
        known: the instances of the region that have not ended, and all others whose key is on the list.
        listed: everything with our tag.
        terms: how long a machine must be missing.
    """
    result = Comparison()
    machines: dict[str, list[CloudMachine]] = {}
    for machine in listed:
        machines.setdefault(machine.key, []).append(machine)
    for instance in known:
        _judge(instance, machines.pop(instance.key, []), terms, result)
    result.strangers = [
        machine for group in machines.values() for machine in group if machine.state is not MachineState.ENDED
    ]
    result.alarm = _alarm(len(result.strangers), len(listed))
    return result


def _judge(instance: KnownMachine, machines: list[CloudMachine], terms: MachineTerms, result: Comparison) -> None:
    running = [machine for machine in machines if machine.state is not MachineState.ENDED]
    if instance.state.ended:
        result.back.extend(machine for machine in running if machine.state is not MachineState.ENDING)
        return
    mine = [machine for machine in machines if instance.cloud_id in {"", machine.cloud_id}]
    if not instance.cloud_id and running:
        result.found.append((instance.instance_id, running[0]))
        mine = [running[0]]
    # One order gave two machines: only one of them is ours to use, and the end of the other says nothing of it.
    ours = mine[0].cloud_id if mine else instance.cloud_id
    result.back.extend(machine for machine in running if machine.cloud_id != ours)
    result.there[instance.instance_id] = bool(mine)
    if mine and mine[0].refusal is not None and instance.state in _COMING:
        result.refused.append((instance.instance_id, mine[0]))
    if mine and mine[0].state is MachineState.ENDED:
        if instance.state is not InstanceState.CREATING or instance.cloud_id:
            result.gone.append(Gone(instance.instance_id, mine[0].reason or "ended"))
    elif not mine and _is_missing(instance, terms):
        result.gone.append(Gone(instance.instance_id, "vanished"))


def _is_missing(instance: KnownMachine, terms: MachineTerms) -> bool:
    """Whether an instance that this list does not have is gone."""
    if instance.heard or instance.state in {InstanceState.INTENT, InstanceState.CREATING}:
        return False  # of one that is being asked for: only when it is given back its absence means anything
    looks = instance.missed + 1
    if instance.state is InstanceState.TERMINATING and instance.was_listed:
        return looks >= _VANISHED_LOOKS and instance.missed_seconds >= terms.vanished
    return looks >= _ABSENT_LOOKS and instance.missed_seconds >= terms.absent


def _alarm(strangers: int, listed: int) -> str:
    if strangers > _MOST_STRANGERS:
        return f"{strangers} machines are unknown, more than {_MOST_STRANGERS}"
    if strangers > 1 and strangers > listed * _STRANGERS_SHARE:
        return f"{strangers} of {listed} machines are unknown, more than a fifth"
    return ""

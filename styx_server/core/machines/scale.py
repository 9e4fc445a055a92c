"""How many machines a pool should have: what waits and what there is in, wishes to rent and to give back out.

Looks at shapes, not at tasks: ten thousand of them are a handful of shapes. What is on its way counts as if it were
there, so that a machine is not wished for twice. Which offer is best is left to the market (`choose.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from styx_server.core.machines.choose import dollars
from styx_server.core.machines.instance import InstanceId, InstanceState
from styx_server.core.machines.offer import MachineSize, Offer
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.task import Resources, Shape

_BUSY_SECONDS: Final = 15.0
"""What machines that are there could run is waited for, before another is rented for it."""
_ARRIVING_SECONDS: Final = 10.0
"""From its join until a machine has got its first work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Tasks of one shape that wait because no agent has room.

    Attributes:
        possible: an agent that is there could run them when it is idle.
        waited_seconds: for how long this shape has waited without a break.
        vain: why nothing more is to be rented for it now; empty: nothing speaks against it.
    """

    shape: Shape
    count: int
    possible: bool = False
    waited_seconds: float = 0.0
    vain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One instance as scaling sees it.

    Attributes:
        joined_seconds: since its agent joined; None: it has not.
        idle_seconds: since when nothing runs there; None: something does, or it has not joined.
        expired: it has lived for as long as it may.
    """

    instance_id: InstanceId
    pool: str
    offer: Offer
    state: InstanceState
    joined_seconds: float | None = None
    idle_seconds: float | None = None
    expired: bool = False

    @property
    def arriving(self) -> bool:
        """Whether it is going to take work that waits now."""
        if self.state <= InstanceState.LAUNCHED:
            return True
        just_joined = self.joined_seconds is not None and self.joined_seconds < _ARRIVING_SECONDS
        return self.state is InstanceState.READY and just_joined


@dataclass(frozen=True, slots=True)
class Rent:
    """A wish for a machine.

    Attributes:
        disk_bytes: what tasks want to be free there, if that is more than the pool says.
        shape: of the tasks that it is for; None: it is kept without work.
    """

    pool: str
    offer: Offer
    disk_bytes: int = 0
    shape: Shape | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Leave:
    """A wish to be rid of one."""

    instance_id: InstanceId
    reason: str
    message: str


@dataclass(slots=True)
class ScalePlan:
    """What is wished for.

    Attributes:
        words: why tasks of a shape wait, for people, where machines have to do with it.
        hopeless: shapes for which nothing is on its way and nothing can be rented now.
    """

    rents: list[Rent] = field(default_factory=list)
    leaves: list[Leave] = field(default_factory=list)
    words: dict[Shape, str] = field(default_factory=dict)
    hopeless: set[Shape] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a market has for some tasks of a shape: machines, cheapest first; and words for people, also for none."""

    offers: Sequence[Offer]
    words: str


class Market(Protocol):
    """What can be rented now."""

    def cover(self, shape: Shape, pool: PoolSpec, count: int, room: Room) -> Choice:
        """The cheapest machines that run `count` tasks of a shape, within what the pool may still have."""
        ...

    def suits(self, offer: Offer, shape: Shape, pool: PoolSpec) -> bool:
        """Whether a machine of this offer may run tasks of this shape; its size apart."""
        ...

    def any_of(self, pool: PoolSpec) -> Choice:
        """The cheapest machine that the pool may have, whatever it is for."""
        ...

    def tried(self, shape: Shape, pool: PoolSpec) -> str:
        """What was refused lately where tasks of this shape could have run, for people; empty: nothing."""
        ...


@dataclass(slots=True)
class Room:
    """What a pool may still have. `price_micros`: for an hour; None: no limit."""

    machines: int
    price_micros: int | None

    def take(self, offer: Offer) -> bool:
        """Takes one machine's share; False: there is no room for it."""
        if self.machines < 1 or (self.price_micros is not None and offer.price_micros > self.price_micros):
            return False
        self.machines -= 1
        if self.price_micros is not None:
            self.price_micros -= offer.price_micros
        return True


def plan_machines(
    pools: Mapping[str, PoolSpec], demands: Iterable[Demand], standing: Sequence[Standing], market: Market
) -> ScalePlan:
    """Wishes for machines, and to be rid of machines.

    Args:
        pools: by name; demands for others are passed over.
        demands: what waits, most urgent first.
        standing: all instances that have not ended.
        market: what can be rented.
    """
    plan = ScalePlan()
    waits: set[str] = set()
    rooms = {name: _room(name, spec, standing) for name, spec in pools.items()}
    coming = {name: [_Bin.of(each) for each in standing if each.pool == name and each.arriving] for name in pools}
    for demand in demands:
        if (spec := pools.get(demand.shape.pool)) is not None:
            waits.add(demand.shape.pool)
            _meet(demand, spec, coming[demand.shape.pool], rooms[demand.shape.pool], market, plan)
    for name, spec in pools.items():
        _keep_minimum(name, spec, standing, rooms[name], market, plan)
        _leave(spec, [each for each in standing if each.pool == name], plan, waits=name in waits)
    return plan


def _room(name: str, spec: PoolSpec, standing: Iterable[Standing]) -> Room:
    mine = [each for each in standing if each.pool == name]
    paid = sum(each.offer.price_micros for each in mine)
    limit = spec.max_price_micros
    return Room(max(0, spec.max_machines - len(mine)), None if limit is None else max(0, limit - paid))


def _meet(demand: Demand, spec: PoolSpec, coming: list[_Bin], room: Room, market: Market, plan: ScalePlan) -> None:
    shape = demand.shape
    left = demand.count
    on_the_way: list[_Bin] = []
    for machine in coming:
        if left and (taken := _put(machine, demand, left, spec, market)):
            on_the_way.append(machine)
            left -= taken
    if on_the_way:
        plan.words[shape] = _coming(on_the_way)
    if not left or (demand.possible and demand.waited_seconds < _BUSY_SECONDS):
        if on_the_way and (tried := market.tried(shape, spec)):
            _say(plan, shape, tried, len(on_the_way))
        return
    if demand.vain:
        _say(plan, shape, demand.vain, len(on_the_way))
        return
    if not room.machines:
        words = f"pool {shape.pool} has all {spec.max_machines} machines that it may have"
        _say(plan, shape, words, len(on_the_way))
        return
    choice = market.cover(shape, spec, left, room)
    rented = [offer for offer in choice.offers if room.take(offer)]
    for offer in rented:
        plan.rents.append(Rent(shape.pool, offer, max(each.resources.disk_bytes for each in shape.choices), shape))
        machine = _Bin(offer)
        left -= _put(machine, demand, left, spec, market)
        coming.append(machine)
    _say(plan, shape, choice.words, len(on_the_way) + len(rented))


def _put(machine: _Bin, demand: Demand, most: int, spec: PoolSpec, market: Market) -> int:
    """Puts tasks there, as the first of their alternatives for which it is good and has room; how many."""
    for choice in demand.shape.choices:
        if market.suits(machine.offer, choice, spec) and (taken := machine.take(choice.resources, most)):
            return taken
    return 0


def _say(plan: ScalePlan, shape: Shape, words: str, machines: int) -> None:
    before = plan.words.get(shape)
    plan.words[shape] = f"{before}; {words}" if before else words
    if not machines:
        plan.hopeless.add(shape)


def _keep_minimum(
    name: str, spec: PoolSpec, standing: Sequence[Standing], room: Room, market: Market, plan: ScalePlan
) -> None:
    have = sum(each.pool == name and each.state <= InstanceState.READY and not each.expired for each in standing)
    have += sum(rent.pool == name for rent in plan.rents)
    for _ in range(spec.min_machines - have):
        offers = market.any_of(spec).offers
        if not offers or not room.take(offers[0]):
            return
        plan.rents.append(Rent(name, offers[0]))


def _leave(spec: PoolSpec, standing: Sequence[Standing], plan: ScalePlan, *, waits: bool) -> None:
    ready = [each for each in standing if each.state is InstanceState.READY]
    spare = len(ready) - spec.min_machines
    # The dearest first: what stays is what costs least.
    for each in sorted(ready, key=lambda item: -item.offer.price_micros):
        if each.expired:
            plan.leaves.append(Leave(each.instance_id, "expired", "it has lived for as long as it may"))
            spare -= 1
        elif waits and each.arriving:
            continue  # what waits is going to be given to it
        elif spare > 0 and each.idle_seconds is not None and each.idle_seconds >= spec.idle_seconds:
            words = f"nothing has run there for {each.idle_seconds:.0f} s"
            plan.leaves.append(Leave(each.instance_id, "idle", words))
            spare -= 1


class _Bin:
    """What is left of a machine that is on its way. `words`: which it is."""

    def __init__(self, offer: Offer, words: str = "") -> None:
        self.offer = offer
        self.words = words
        size = offer.size
        self._cpus_milli, self._memory_bytes, self._gpus = size.cpus_milli, size.memory_bytes, size.gpu_count

    @classmethod
    def of(cls, standing: Standing) -> _Bin:
        """An instance that is there already."""
        price = dollars(standing.offer.price_micros)
        return cls(standing.offer, f"i{standing.instance_id}, {standing.offer} for {price}")

    def take(self, need: Resources, most: int) -> int:
        """Puts as many as fit there, up to `most`; how many that is."""
        count = min(most, fitting(need, self._cpus_milli, self._memory_bytes, self._gpus))
        self._cpus_milli -= count * need.cpus_milli
        self._memory_bytes -= count * need.memory_bytes
        self._gpus -= count * need.gpu_count
        return count


def fits_at_once(need: Resources, size: MachineSize) -> int:
    """How many tasks that need this run on an empty machine of that size at the same time."""
    return fitting(need, size.cpus_milli, size.memory_bytes, size.gpu_count)


def fitting(need: Resources, cpus_milli: int, memory_bytes: int, gpus: int) -> int:
    """How many tasks that need this fit into so much; one that needs nothing is taken to need a thousandth core."""
    counts = [cpus_milli // max(1, need.cpus_milli)]
    if need.memory_bytes:
        counts.append(memory_bytes // need.memory_bytes)
    if need.gpu_count:
        counts.append(gpus // need.gpu_count)
    return min(counts)


def _coming(machines: Sequence[_Bin]) -> str:
    """Which machines are on their way, for people; of many the first."""
    known = [machine.words for machine in machines if machine.words]
    if not known:
        return f"{len(machines)} machines are on the way"
    more = f" and {len(machines) - 1} more are" if len(machines) > 1 else " is"
    return f"{known[0]}{more} on the way"

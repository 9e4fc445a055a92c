"""The cheapest machines for many tasks of one shape. Next: `choose.py`, which says what one machine would be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from styx_server.core.machines.book import Model, OfferBook, order_of
from styx_server.core.machines.choose import Blocked, Choice, Look, fits_at_once, is_fallback
from styx_server.core.machines.needs import MachineNeeds

EXACT_TASKS: Final = 256
"""Up to so many tasks the answer is the cheapest there is; beyond, tasks go in groups, and it is nearly that."""

_NEVER: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """So many machines of one offer."""

    choice: Choice
    machines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """Machines for tasks.

    Attributes:
        picks: the dearest machine first.
        covered: how many of the tasks they take at once; less than was asked for when more machines would be needed
            than are allowed.
    """

    picks: tuple[Pick, ...] = ()
    covered: int = 0

    @property
    def machines(self) -> int:
        """All of them."""
        return sum(pick.machines for pick in self.picks)

    @property
    def price_micros(self) -> int:
        """What all of them cost for an hour."""
        return sum(pick.machines * pick.choice.offer.price_micros for pick in self.picks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Tasks that are alike.

    Attributes:
        needs: alternatives, at least one.
        ordered: the first for which there is any offer is taken.
        tasks: how many.
        most_machines: no more than these are rented for them.
        most_micros: nor do they cost more than this together for an hour; None: no limit.
    """

    needs: tuple[MachineNeeds, ...]
    ordered: bool = False
    tasks: int = 1
    most_machines: int = 1
    most_micros: int | None = None


def cover(wanted: Wanted, offers: OfferBook, blocked: Blocked) -> Cover:
    """The machines that take all tasks at once at the least price; at one price, the fewest machines.

    When what is allowed cannot take all, as many as it can, again at the least price.
    """
    if wanted.tasks <= 0 or wanted.most_machines <= 0:
        return Cover()
    choices = _frontier(wanted, offers, blocked)
    whole = _cheapest(choices, wanted.tasks, wanted.most_machines)
    limit = wanted.most_micros
    if limit is None or whole.price_micros <= limit:
        return whole
    # Fewer tasks never cost more: look for the most that can be paid.
    best, least, most = Cover(), 1, whole.covered - 1
    while least <= most:
        tasks = (least + most) // 2
        found = _cheapest(choices, tasks, wanted.most_machines)
        if found.price_micros <= limit:
            best, least = found, tasks + 1
        else:
            most = tasks - 1
    return best


def _cheapest(choices: Sequence[Choice], tasks: int, most_machines: int) -> Cover:
    if not choices:
        return Cover()
    largest = choices[-1]
    if largest.fits * most_machines <= tasks:
        return _as_cover(Counter({largest: most_machines}), tasks)
    group = -(-tasks // EXACT_TASKS)
    items = [(choice.fits // group, choice) for choice in choices if choice.fits >= group]
    mix = _best_mix(items, -(-tasks // group), most_machines)
    return _as_cover(min([mix, _alike(choices, tasks, most_machines)], key=_cost), tasks)


def _frontier(wanted: Wanted, offers: OfferBook, blocked: Blocked) -> list[Choice]:
    """The cheapest offer for each number of tasks on a machine, fewest first, without those that a larger one beats."""
    found: list[Choice] = []
    for index, need in enumerate(wanted.needs):
        found += _cheapest_of_each_size(Look(need, offers, blocked, alternative=index), need, wanted.tasks)
        if wanted.ordered and found:
            break
    found = [choice for choice in found if not choice.avoided] or found
    found.sort(key=lambda choice: (-choice.fits, order_of(choice.offer)))
    kept: list[Choice] = []
    for choice in found:
        if not kept or choice.offer.price_micros < kept[-1].offer.price_micros:
            kept.append(choice)
    return kept[::-1]


def _cheapest_of_each_size(look: Look, need: MachineNeeds, tasks: int) -> list[Choice]:
    sizes: dict[int, list[Model]] = {}
    for model in look.models:
        sizes.setdefault(min(fits_at_once(need, model.size), tasks), []).append(model)
    best = [replace(choice, fits=fits) for fits, models in sizes.items() for choice in look.take(1, models)]
    good = [choice for choice in best if not choice.avoided]
    return [choice for choice in good if not is_fallback(choice, need)] or good or best


def _best_mix(items: Sequence[tuple[int, Choice]], tasks: int, most_machines: int) -> Counter[Choice] | None:
    """The cheapest choices that take `tasks`, each as many as its number says; None: not with so few machines."""
    if not items:
        return None
    # First without the limit, which is quick and mostly good.
    cost = [(0, 0)]
    picked = [0]
    for left in range(1, tasks + 1):
        best, index = min(
            ((cost[max(0, left - fits)][0] + choice.offer.price_micros, cost[max(0, left - fits)][1] + 1), index)
            for index, (fits, choice) in enumerate(items)
        )
        cost.append(best)
        picked.append(index)
    if cost[tasks][1] > most_machines:
        return _best_mix_of_few(items, tasks, most_machines)
    mix: Counter[Choice] = Counter()
    left = tasks
    while left > 0:
        fits, choice = items[picked[left]]
        mix[choice] += 1
        left -= fits
    return mix


def _best_mix_of_few(items: Sequence[tuple[int, Choice]], tasks: int, most_machines: int) -> Counter[Choice] | None:
    cost = [0] + [_NEVER] * tasks
    layers: list[list[int | None]] = []
    for _ in range(most_machines):
        before, cost = cost, list(cost)
        picked: list[int | None] = [None] * (tasks + 1)
        for left, (index, (fits, choice)) in product(range(1, tasks + 1), enumerate(items)):
            with_it = before[max(0, left - fits)] + choice.offer.price_micros
            if with_it < cost[left]:
                cost[left], picked[left] = with_it, index
        if cost == before:
            break
        layers.append(picked)
    if cost[tasks] >= _NEVER:
        return None
    mix: Counter[Choice] = Counter()
    left = tasks
    for picked in reversed(layers):
        last = picked[left] if left > 0 else None
        if last is not None:
            fits, choice = items[last]
            mix[choice] += 1
            left -= fits
    return mix


def _alike(choices: Sequence[Choice], tasks: int, most_machines: int) -> Counter[Choice] | None:
    """The best that machines of one offer can do; None: none of them is enough."""
    counts = [Counter({choice: -(-tasks // choice.fits)}) for choice in choices]
    return min((each for each in counts if each.total() <= most_machines), key=_cost, default=None)


def _cost(mix: Counter[Choice] | None) -> tuple[int, int]:
    if mix is None:
        return _NEVER, 0
    return sum(choice.offer.price_micros * machines for choice, machines in mix.items()), mix.total()


def _as_cover(mix: Counter[Choice] | None, tasks: int) -> Cover:
    if mix is None:
        return Cover()
    picks = [Pick(choice=choice, machines=machines) for choice, machines in mix.items()]
    picks.sort(key=lambda pick: order_of(pick.choice.offer), reverse=True)
    return Cover(picks=tuple(picks), covered=min(tasks, sum(pick.machines * pick.choice.fits for pick in picks)))

"""Which offer is best for what is wanted, and why each other one is not.

Needs may have alternatives: the cheapest over all of them wins, or, when they are ordered, the first that can be had.
What is blocked is left out; what is only to be avoided comes last. Next: `book.py`, the offers; `failover.py`, the
blocks; `cover.py`, machines for many tasks at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Final, Protocol

from styx_server.core.gpu_names import is_meant
from styx_server.core.machines.book import Model, OfferBook, order_of
from styx_server.core.machines.needs import MachineNeeds, SpotUse
from styx_server.core.machines.offer import MICROS, MachineSize, Offer, Place

MOST_AT_ONCE: Final = 1000
"""Tasks that need next to nothing still share a machine with no more than these."""
_GIB: Final = 2**30
_NO_LIMIT: Final = 2**62


class Obstacle(Protocol):
    """Why an offer is not to be tried now. `soft`: unless there is nothing else."""

    @property
    def soft(self) -> bool:
        """Whether it may be tried all the same."""
        ...

    @property
    def words(self) -> str:
        """For people: why, and until when."""
        ...


Blocked = Callable[[Offer], Obstacle | None]


def nothing_blocked(_offer: Offer) -> None:
    """For who asks what there is, whatever was refused lately."""
    return


class DropReason(StrEnum):
    """What an offer fails on, in the order in which it is looked at: each counts under the first that it fails."""

    GPU = "gpu"
    GPU_COUNT = "gpu_count"
    GPU_MEMORY = "gpu_memory"
    CPUS = "cpus"
    MEMORY = "memory"
    ARCH = "arch"
    TYPE = "machine_type"
    PLACE = "place"
    SPOT = "spot"
    PRICE = "price"
    BLOCKED = "blocked"


_ORDER: Final = {reason: index for index, reason in enumerate(DropReason)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An offer that will do.

    Attributes:
        alternative: the position in the needs of what it is for.
        fits: how many such tasks it takes at once.
        avoided: it is to be tried only when there is nothing else.
    """

    offer: Offer
    alternative: int = 0
    fits: int = 1
    avoided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Offers that were left out for one reason.

    Attributes:
        words: what they are, for people: `have no A100`, `cost more than $2.00/h`.
        example: the cheapest of them.
    """

    reason: DropReason
    words: str
    count: int
    example: Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What can be had, best first, and what was left out.

    Attributes:
        seen: how many offers there are.
        drops: for each alternative that was looked at, most first. They count all offers only when `choices` has all,
            which it has when no limit was given or none was met.
    """

    choices: tuple[Choice, ...]
    seen: int
    drops: tuple[tuple[Drop, ...], ...]

    @property
    def best(self) -> Choice | None:
        """The one to rent."""
        return self.choices[0] if self.choices else None

    def nearest(self, alternative: int = 0) -> Drop | None:
        """The drop that came furthest: its example lacks the least of what was asked for."""
        drops = self.drops[alternative] if alternative < len(self.drops) else ()
        return max(drops, key=lambda drop: _ORDER[drop.reason], default=None)

    def sentence(self) -> str:
        """Why nothing fits, for people; empty when something does."""
        if self.choices:
            return ""
        if not self.seen:
            return "nothing can be rented: no provider has offers; see `styx check`"
        parts = [self._sentence_of(index) for index in range(len(self.drops))]
        if len(parts) == 1:
            return f"nothing fits: {parts[0]}"
        return "nothing fits: " + "; ".join(f"alternative {index}: {part}" for index, part in enumerate(parts, start=1))

    def _sentence_of(self, alternative: int) -> str:
        drops = self.drops[alternative]
        text = f"of {self.seen:,} offers " + ", ".join(f"{drop.count:,} {drop.words}" for drop in drops)
        near = self.nearest(alternative)
        if near is None or len(drops) == 1:
            return text
        return f"{text}; the nearest is {near.example} at {dollars(near.example.price_micros)}"


def rank(
    needs: Sequence[MachineNeeds],
    offers: OfferBook,
    blocked: Blocked,
    *,
    ordered: bool = False,
    most: int | None = None,
) -> Ranking:
    """The offers that will do, best first: the cheapest, and last what is to be avoided.

    Args:
        needs: alternatives, at least one.
        offers: all there are.
        blocked: why an offer is not to be tried now.
        ordered: the first alternative for which there is any offer wins, whatever it costs.
        most: no more choices than these are needed; fewer are quicker.
    """
    found: list[Choice] = []
    drops = []
    for index, need in enumerate(needs):
        look = Look(need, offers, blocked, alternative=index)
        found += look.take(most)
        drops.append(look.drops())
        if ordered and found:
            break
    if len(needs) > 1:
        found.sort(key=lambda choice: (choice.avoided, order_of(choice.offer), choice.alternative))
        # What is good for several alternatives is offered once, for the first of them.
        found = list({choice.offer: choice for choice in reversed(found)}.values())[::-1]
    return Ranking(choices=tuple(found[:most]), seen=len(offers), drops=tuple(drops))


class Look:
    """One look through the book for one alternative; counts what it passes over."""

    def __init__(self, need: MachineNeeds, offers: OfferBook, blocked: Blocked, *, alternative: int = 0) -> None:
        self._need = need
        self._offers = offers
        self._blocked = blocked
        self._alternative = alternative
        # For each reason in words: how many, and the first of them in the book.
        self._dropped: dict[tuple[DropReason, str], list[int]] = {}
        self._place_good = [_is_among(place, need.places) for place in offers.places]
        self.models: list[Model] = []
        """The types whose size will do."""
        for model in offers.models:
            misfit = _misfit(need, model)
            if misfit is None:
                self.models.append(model)
            else:
                self._drop(misfit, model.positions[0], len(model.positions))

    def take(self, most: int | None = None, models: Iterable[Model] | None = None) -> list[Choice]:
        """The best choices among `models`, in the order in which they are to be tried."""
        good: list[Choice] = []
        fallback: list[tuple[int, Choice]] = []
        avoided: list[Choice] = []
        for position, choice in self._choices(self.models if models is None else models):
            if choice.avoided:
                avoided.append(choice)
            elif is_fallback(choice, self._need):
                fallback.append((position, choice))
            else:
                good.append(choice)
            if len(good) == most:
                break
        if good:
            for position, _ in fallback:
                self._drop((DropReason.SPOT, "are on demand, and spot is to be had"), position)
            fallback = []
        return [*good, *(choice for _, choice in fallback), *avoided][:most]

    def drops(self) -> tuple[Drop, ...]:
        """What was passed over so far, most first."""
        found = [
            Drop(reason=reason, words=words, count=count, example=self._offers.offers[first])
            for (reason, words), (count, first) in self._dropped.items()
        ]
        return tuple(sorted(found, key=lambda drop: (-drop.count, _ORDER[drop.reason], drop.words)))

    def choices(self, start: int = 0) -> Iterator[Choice]:
        """What will do from position `start` of the book on, in the order of price, whatever is to be avoided."""
        return (choice for _, choice in self._choices(self.models, start))

    def _choices(self, models: Iterable[Model], start: int = 0) -> Iterator[tuple[int, Choice]]:
        """What passes, in the order of price, with its position in the book."""
        # The one loop that may see every offer there is: what it asks of each is little, and made ready before.
        need, book, place_good = self._need, self._offers, self._place_good
        offers, place_of = book.offers, book.place_of
        unwanted_use = {SpotUse.NEVER: True, SpotUse.ONLY: False}.get(need.spot)
        most_micros = _NO_LIMIT if need.max_price_micros is None else need.max_price_micros
        elsewhere = (DropReason.PLACE, f"are not in {_any_of(need.places)}")
        wrong_use = (DropReason.SPOT, "are spot" if unwanted_use else "are not spot")
        too_dear = (DropReason.PRICE, f"cost more than {dollars(most_micros)}")
        positions = sorted(chain.from_iterable([model.positions for model in models]))
        for position in positions[bisect_left(positions, start) :] if start else positions:
            offer = offers[position]
            if not place_good[place_of[position]]:
                self._drop(elsewhere, position)
            elif offer.spot is unwanted_use:
                self._drop(wrong_use, position)
            elif offer.price_micros > most_micros:
                self._drop(too_dear, position)
            else:
                choice = self._judge(position, offer)
                if choice is not None:
                    yield position, choice

    def _judge(self, position: int, offer: Offer) -> Choice | None:
        obstacle = self._blocked(offer)
        if obstacle is not None and not obstacle.soft:
            self._drop((DropReason.BLOCKED, f"are {obstacle.words}"), position)
            return None
        return Choice(
            offer=offer,
            alternative=self._alternative,
            fits=fits_at_once(self._need, offer.size),
            avoided=obstacle is not None,
        )

    def _drop(self, key: tuple[DropReason, str], position: int, count: int = 1) -> None:
        seen = self._dropped.get(key)
        if seen is None:
            self._dropped[key] = [count, position]
        else:
            seen[0] += count
            seen[1] = min(seen[1], position)


def is_fallback(choice: Choice, need: MachineNeeds) -> bool:
    """Whether `choice` is only for when there is no spot machine."""
    return need.spot is SpotUse.PREFER and not choice.offer.spot


def fits_at_once(need: MachineNeeds, size: MachineSize) -> int:
    """How many tasks with this need a machine of this size, which fits one, takes at once."""
    most = MOST_AT_ONCE
    for wanted, there in (
        (need.cpus_milli, size.cpus_milli),
        (need.memory_bytes, size.memory_bytes),
        (need.gpu_count, size.gpu_count),
    ):
        if wanted:
            most = min(most, there // wanted)
    return most


def dollars(micros: int) -> str:
    """A price for people. Small ones keep the digits that tell them apart."""
    amount = micros / MICROS
    return f"${amount:.2f}/h" if amount >= 1 or not micros else f"${amount:.4f}/h"


def _misfit(need: MachineNeeds, model: Model) -> tuple[DropReason, str] | None:
    """What a type lacks, whatever its place and price; None: nothing."""
    size = model.size
    if need.gpu_count:
        lack = _gpu_lack(need, size)
        if lack is not None:
            return lack
    if need.cpus_exact and size.cpus_milli != need.cpus_milli:
        return DropReason.CPUS, f"do not have just {need.cpus_milli / 1000:g} cpus"
    if size.cpus_milli < need.cpus_milli:
        return DropReason.CPUS, f"have fewer than {need.cpus_milli / 1000:g} cpus"
    if need.memory_exact and size.memory_bytes != need.memory_bytes:
        return DropReason.MEMORY, f"do not have just {need.memory_bytes / _GIB:.4g} GiB of memory"
    if size.memory_bytes < need.memory_bytes:
        return DropReason.MEMORY, f"have less than {need.memory_bytes / _GIB:.4g} GiB of memory"
    if need.arch and size.arch != need.arch:
        return DropReason.ARCH, f"are not {need.arch}"
    if need.machine_types and model.machine_type not in need.machine_types:
        return DropReason.TYPE, f"are not {_any_of(need.machine_types)}"
    return None


def _gpu_lack(need: MachineNeeds, size: MachineSize) -> tuple[DropReason, str] | None:
    name = need.gpu_name or "gpu"
    if not size.gpu_count or not is_meant(size.gpu_name, need.gpu_name):
        return DropReason.GPU, f"have no {name}"
    if size.gpu_count < need.gpu_count:
        return DropReason.GPU_COUNT, f"have fewer than {need.gpu_count} {name}"
    if size.gpu_memory_bytes < need.gpu_memory_bytes:
        return DropReason.GPU_MEMORY, f"have {name} with less than {need.gpu_memory_bytes / _GIB:.4g} GiB each"
    return None


def _is_among(place: Place, wanted: Sequence[Place]) -> bool:
    return not wanted or any(each.covers(place) for each in wanted)


def _any_of(things: Sequence[object]) -> str:
    shown = [str(thing) for thing in things[:3]]
    return " or ".join(shown) + (f" or {len(things) - 3} others" if len(things) > 3 else "")

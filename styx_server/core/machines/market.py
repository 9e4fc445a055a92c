"""What can be rented now, as scaling asks for it: offers, what is blocked, and words about both for who waits."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from styx_server.core.machines.book import OfferBook
from styx_server.core.machines.choose import dollars, nothing_blocked, rank
from styx_server.core.machines.cover import Wanted, cover
from styx_server.core.machines.failover import Block, Blocks
from styx_server.core.machines.infra import USUAL_ARCH, Contradiction, alternatives_of, needs_of
from styx_server.core.machines.needs import ANY_MACHINE, MachineNeeds
from styx_server.core.machines.offer import Offer
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.machines.scale import Choice, Room
from styx_server.core.task import Resources, Shape

_TOLD: Final = 3
"""So many refusals are told to who waits."""
_NOTHING: Final = Resources(cpus_milli=0)


class OfferMarket:
    """Offers of this moment; to be made anew in each round."""

    def __init__(self, book: OfferBook, blocks: Blocks, now: datetime) -> None:
        self._book = book
        self._blocks = blocks
        self._now = now
        # Programs that say nothing are taken to be for the usual one, unless there is only another.
        self._arch = USUAL_ARCH if any(model.size.arch == USUAL_ARCH for model in book.models) else ""
        self._suits: dict[tuple[Offer, tuple[MachineNeeds, ...]], bool] = {}

    def cover(self, shape: Shape, pool: PoolSpec, count: int, room: Room) -> Choice:
        """The cheapest machines that run `count` tasks of a shape, within what the pool may still have."""
        try:
            needs = alternatives_of(shape, pool, arch=self._arch)
        except Contradiction as error:
            return Choice(offers=(), words=str(error))
        wanted = Wanted(
            needs=needs,
            ordered=shape.ordered,
            tasks=count,
            most_machines=room.machines,
            most_micros=room.price_micros,
        )
        found = cover(wanted, self._book, self._why)
        offers = [pick.choice.offer for pick in found.picks for _ in range(pick.machines)]
        tried = self._tried(needs)
        if not offers:
            words = rank(needs, self._book, self._why, ordered=shape.ordered, most=1).sentence()
            return Choice(offers=(), words="; ".join(part for part in (words, tried) if part))
        parts = [
            f"{pick.machines} x {pick.choice.offer} for {dollars(pick.choice.offer.price_micros)} each"
            for pick in found.picks
        ]
        return Choice(offers=offers, words=f"renting {', '.join(parts)}" + (f"; {tried}" if tried else ""))

    def suits(self, offer: Offer, shape: Shape, pool: PoolSpec) -> bool:
        """Whether a machine of this offer may run tasks of this shape."""
        try:
            needs = alternatives_of(shape, pool, arch=self._arch)
        except Contradiction:
            return False
        known = self._suits.get((offer, needs))
        if known is None:
            known = rank(needs, OfferBook([offer]), nothing_blocked, most=1).best is not None
            self._suits[offer, needs] = known
        return known

    def any_of(self, pool: PoolSpec) -> Choice:
        """The cheapest machine that the pool may have, whatever it is for."""
        needs = needs_of(_NOTHING, ANY_MACHINE, pool, arch=self._arch)
        found = rank([needs], self._book, self._why, most=1)
        return Choice(offers=[choice.offer for choice in found.choices], words=found.sentence())

    def tried(self, shape: Shape, pool: PoolSpec) -> str:
        """What was refused lately where tasks of this shape could have run, in words."""
        try:
            return self._tried(alternatives_of(shape, pool, arch=self._arch))
        except Contradiction:
            return ""

    def _why(self, offer: Offer) -> Block | None:
        return self._blocks.why(offer, self._now)

    def _tried(self, needs: Iterable[MachineNeeds]) -> str:
        """What was refused lately where these needs could have been met, in words."""
        providers = {place.provider for need in needs for place in need.places}
        blocks = [
            block
            for block in self._blocks
            if block.until > self._now and (not providers or providers & {block.key.provider, ""})
        ]
        if not blocks:
            return ""
        blocks.sort(key=lambda block: block.time, reverse=True)
        told = [_told(block) for block in blocks[:_TOLD]]
        more = f" and {len(blocks) - _TOLD} more" if len(blocks) > _TOLD else ""
        return f"tried before: {'; '.join(told)}{more}"


def _told(block: Block) -> str:
    key = block.key
    where = "/".join(part for part in (key.provider, key.region, key.zone) if part)
    what = f"{key.machine_type} in {where}" if key.machine_type else where
    return f"{what} ({block.message or block.kind})"

"""All offers in the order of their price, so that finding the best of 60,000 for many shapes is quick.

Offers of one type and size differ only in place, price and kind of use: what is asked of the size is asked once for all
of them. Next: `choose.py`, which asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Final

from styx_server.core.machines.offer import MachineSize, Offer, Place

_PART: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One type of machine of one provider. `positions`: its offers in the book, the cheapest first."""

    provider: str
    machine_type: str
    size: MachineSize
    positions: tuple[int, ...]


class OfferBook:
    """Offers that do not change. The order is total, so that every replica finds the same best offer.

    Attributes:
        offers: the cheapest first; at one price on demand before spot, then the smaller, then by name.
        models: the types among them.
        places: where they are, each once.
        place_of: for each offer, the position of its place in `places`.
    """

    def __init__(self, offers: Iterable[Offer] = ()) -> None:
        left = iter(offers)
        # One sort of all would hold whoever waits in another thread for a tenth of a second.
        parts = iter(lambda: sorted(islice(left, _PART), key=order_of), [])
        self.offers = tuple(merge(*parts, key=order_of))
        grouped: dict[tuple[str, str, MachineSize], list[int]] = {}
        places: dict[Place, int] = {}
        self.place_of = [places.setdefault(offer.place, len(places)) for offer in self.offers]
        for position, offer in enumerate(self.offers):
            grouped.setdefault((offer.place.provider, offer.machine_type, offer.size), []).append(position)
        self.places = tuple(places)
        self.models = tuple(
            Model(provider=provider, machine_type=machine_type, size=size, positions=tuple(positions))
            for (provider, machine_type, size), positions in grouped.items()
        )

    def __len__(self) -> int:
        return len(self.offers)


def order_of(offer: Offer) -> tuple[int, bool, int, int, int, Place, str, str]:
    """The key by which offers are sorted."""
    size = offer.size
    return (
        offer.price_micros,
        # At one price, the machine that nobody takes away.
        offer.spot,
        size.gpu_count,
        size.cpus_milli,
        size.memory_bytes,
        offer.place,
        offer.machine_type,
        size.gpu_name,
    )

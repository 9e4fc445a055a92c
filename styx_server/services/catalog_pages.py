"""Pages of offers: where one goes on that ended at an offer, also when the list was made anew in between.

Next: `catalog.py`, which has the offers.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import astuple
from itertools import islice

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.book import OfferBook, order_of
from styx_server.core.machines.choose import Look, nothing_blocked
from styx_server.core.machines.needs import MachineNeeds
from styx_server.core.machines.offer import Offer, Place


def offers_from(wanted: MachineNeeds, book: OfferBook, start: int, count: int) -> list[Offer]:
    """The first `count` offers from position `start` on that meet `wanted`, by price, whatever is blocked."""
    look = Look(wanted, book, nothing_blocked)
    return [choice.offer for choice in islice(look.choices(start), count)]


def cursor_of(offer: Offer) -> str:
    """Where an offer is in the order of all, also in a book that was built anew meanwhile."""
    return json.dumps([astuple(part) if isinstance(part, Place) else part for part in order_of(offer)])


def position_of(after: str, book: OfferBook) -> int:
    """The position in `book` behind the offer of a cursor.

    Raises:
        InvalidRequest: it is no cursor; reason PAGE_TOKEN_INVALID.
    """
    try:
        price, spot, gpus, cpus, memory, place, machine_type, gpu_name = json.loads(after)
        provider, region, zone = place
        there = Place(provider=provider, region=region, zone=zone)
        return bisect_right(book.offers, (price, spot, gpus, cpus, memory, there, machine_type, gpu_name), key=order_of)
    except (ValueError, TypeError) as error:
        text = "does not belong to this list; start over without one"
        raise InvalidRequest([Violation(field="page_token", description=text)], reason="PAGE_TOKEN_INVALID") from error

"""What a caller says about the machine of his task, as it was sent; which of it is good; and what it comes to.

Judges words, not what can be rented today: a type that no provider has is found out when somebody looks for it.
Next: `needs.py`, the same as values that can be compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from styx_server.core.machines.infra import BadInfra, parse_infra
from styx_server.core.machines.needs import ANY_MACHINE, NOTHING_ASKED, AskedMachine, MachineWish
from styx_server.core.machines.offer import MICROS, Place

ARCHITECTURES: Final = ("x86_64", "arm64")
MAX_CHOICES: Final = 64
"""As many places, and as many types: more than anybody types, and little enough to look through for each agent."""
MAX_HOURLY_COST: Final = 100_000.0
"""Dollars: more than the dearest machine on any list, so more is a mistake of units."""

_TYPE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_OTHER_NAMES: Final = {"aarch64": "arm64", "amd64": "x86_64", "x64": "x86_64", "x86-64": "x86_64"}


def machine_faults(asked: AskedMachine, memory_bytes: int) -> Iterator[tuple[str, str]]:
    """What is wrong: the field below `machine`, and a sentence with the remedy. `memory_bytes`: what is reserved."""
    if asked is NOTHING_ASKED:
        return
    for field, words in (("infra", asked.infra), ("machine_types", asked.machine_types)):
        if len(words) > MAX_CHOICES:
            yield field, f"has {len(words)} entries, at most {MAX_CHOICES} are taken; use `*`, or several alternatives"
    for index, text in enumerate(asked.infra[:MAX_CHOICES]):
        yield from _place_faults(f"infra[{index}]", text)
    for index, text in enumerate(asked.machine_types[:MAX_CHOICES]):
        if not _TYPE.fullmatch(text):
            yield f"machine_types[{index}]", "is no type of machine; write it as its provider does, like g6.xlarge"
    cost = asked.max_hourly_cost
    if cost is not None and not (math.isfinite(cost) and 1 / MICROS <= cost <= MAX_HOURLY_COST):
        limits = f"from 0.000001 to {MAX_HOURLY_COST:,.0f}"
        yield "max_hourly_cost", f"is {cost:g}, must be {limits} US dollars; leave it out for no limit"
    if asked.memory_exact and not memory_bytes:
        yield "memory_exact", "needs memory_bytes beside it, which says how much"
    if asked.arch and asked.arch not in ARCHITECTURES:
        hint = _OTHER_NAMES.get(asked.arch.casefold())
        yield "arch", f"is no architecture of machines; take {hint or ' or '.join(ARCHITECTURES)}"


def wish_of(asked: AskedMachine) -> MachineWish:
    """What was asked for, so that equal wishes are equal: sorted, without repeats. To be judged before."""
    if asked is NOTHING_ASKED:
        return ANY_MACHINE
    places = {parse_infra(text) for text in asked.infra}
    return MachineWish(
        cpus_exact=asked.cpus_exact,
        memory_exact=asked.memory_exact,
        gpu_memory_bytes=asked.gpu_memory_bytes,
        # Anywhere, or else somewhere, is anywhere.
        places=() if Place() in places else tuple(sorted(places)),
        machine_types=tuple(sorted(set(asked.machine_types))),
        arch=asked.arch,
        spot=asked.spot,
        max_price_micros=None if asked.max_hourly_cost is None else round(asked.max_hourly_cost * MICROS),
    )


def _place_faults(field: str, text: str) -> Iterator[tuple[str, str]]:
    try:
        place = parse_infra(text)
    except BadInfra as error:
        yield field, str(error)
        return
    if place.provider == "static" and (place.region or place.zone):
        yield field, "names a region of machines that joined by themselves, which have none; take static alone"

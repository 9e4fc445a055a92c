"""What kind of machine an agent is on, and which wishes it meets. Next: `capacity.py`, what it has and what is free.

Exact sizes and prices are no matter here: they say what to rent, and a machine that is there may serve any task that
has room on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from styx_server.core.machines import reserved
from styx_server.core.machines.infra import USUAL_ARCH
from styx_server.core.machines.needs import MachineWish, SpotUse
from styx_server.core.machines.offer import Place

STATIC: Final = "static"
"""The provider of machines that joined by themselves."""

_NOWHERE: Final = Place(provider=STATIC)
_ARCHITECTURES: Final = {"aarch64": "arm64", "amd64": "x86_64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSays:
    """What counts for tasks that say nothing themselves.

    Attributes:
        spot: of spot machines.
        types: whether it names the types of its machines, and with them their architectures.
    """

    spot: SpotUse = SpotUse.NEVER
    types: bool = False


_NOTHING_SAID: Final = PoolSays()


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineKind:
    """What does not change about a machine while its agent is on it.

    Attributes:
        arch: empty: not known, which meets no wish for one.
        gpu_memory_bytes: of each accelerator, as it was sold; 0: what the agent says counts.
        pool: what its pool says.
        judges: even a task that says nothing may be wrong here.
    """

    place: Place = _NOWHERE
    machine_type: str = ""
    spot: bool = False
    arch: str = ""
    gpu_memory_bytes: int = 0
    pool: PoolSays = _NOTHING_SAID
    judges: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "judges", self.spot or self._unusual)

    @property
    def _unusual(self) -> bool:
        """Whether nobody would have rented it for a task that says nothing of architectures and types."""
        rented = self.place.provider != STATIC
        return rented and self.arch not in {"", USUAL_ARCH} and not self.pool.types

    def lacks(self, wish: MachineWish) -> str:
        """What of `wish` it does not meet, in words; empty when it meets all."""
        if self.spot and (wish.spot or self.pool.spot) is SpotUse.NEVER:
            return "a machine that is not spot"
        if wish.spot is SpotUse.ONLY and not self.spot:
            return "a spot machine"
        # Only a place that is known can be one that was asked for, down to its zone.
        if wish.places and not any(place.covers(self.place) for place in wish.places):
            return f"place {_listed(map(str, wish.places))}"
        if wish.machine_types and self.machine_type not in wish.machine_types:
            return f"machine type {_listed(wish.machine_types)}"
        if wish.arch and self.arch != wish.arch:
            return f"architecture {wish.arch}"
        if self._unusual and not wish.arch and not wish.machine_types:
            return f"architecture {USUAL_ARCH}"
        return ""


def machine_kind(given: Mapping[str, str], facts: Mapping[str, str], pool: PoolSays) -> MachineKind:
    """The kind of machine that an agent is on.

    Args:
        given: labels that the server gave it, from its join token. What an agent says of itself does not count.
        facts: what it says of its machine; only its architecture is believed, which it cannot gain by.
        pool: what its pool says.
    """
    arch = given.get(reserved.ARCH) or facts.get("arch", "")
    return MachineKind(
        place=Place(
            provider=given.get(reserved.PROVIDER) or STATIC,
            region=given.get(reserved.REGION, ""),
            zone=given.get(reserved.ZONE, ""),
        ),
        machine_type=given.get(reserved.MACHINE_TYPE, ""),
        spot=given.get(reserved.SPOT) == "true",
        arch=_ARCHITECTURES.get(arch.casefold(), arch.casefold()),
        gpu_memory_bytes=int(given.get(reserved.GPU_MEMORY) or 0),
        pool=pool,
    )


def _listed(words: Iterable[str]) -> str:
    first, *more = words
    return f"{first} or {len(more)} more" if more else first

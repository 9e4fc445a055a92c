"""Places in the words of users, and what a task and its pool want of a machine taken together.

An infra string is `provider/region/zone`, each part may be `*` or left out at the end: `aws`, `aws/us-east-1`,
`gcp/*/us-central1-a`, `kubernetes/my-context`. Next: `needs.py`, the values; `choose.py`, which looks for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Final

from styx_server.core.machines.needs import MachineNeeds, MachineWish
from styx_server.core.machines.offer import Place
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.task import Resources, Shape

PROVIDERS: Final = ("aws", "fake", "gcp", "kubernetes", "local", "static")
MAX_INFRA_CHARS: Final = 300
USUAL_ARCH: Final = "x86_64"
"""What most programs are built for, and many for nothing else."""

_OTHER_NAMES: Final = {"google": "gcp", "amazon": "aws", "ec2": "aws", "gce": "gcp"}
_PART: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:@/-]*[A-Za-z0-9])?")
_AWS_ZONE: Final = re.compile(r"([a-z]{2}(-[a-z]+)+-\d+)(-[a-z]+-\d+)?[a-z]")
_GCP_ZONE: Final = re.compile(r"([a-z]+(-[a-z]+)+\d+)-[a-z]")
_ZONES: Final = {"aws": _AWS_ZONE, "gcp": _GCP_ZONE}


class BadInfra(ValueError):
    """An infra string names no place. The text says which part, and what to write instead; it stands after a field."""


class Contradiction(ValueError):
    """A task and its pool cannot be served by one machine. The text says why, and what to change."""


def parse_infra(text: str, known: Collection[Place] = ()) -> Place:
    """The place that an infra string means.

    Args:
        text: as the user wrote it.
        known: places that exist; when there are any of the provider, a region or zone must be one of theirs.

    Raises:
        BadInfra: it means none.
    """
    text = text.strip()
    if not text or len(text) > MAX_INFRA_CHARS:
        raise BadInfra(f"must be provider/region/zone of 1 to {MAX_INFRA_CHARS} characters, such as aws/us-east-1 or *")
    first, _, rest = text.partition("/")
    provider = _provider_of(first)
    if provider == "kubernetes":
        # The names of contexts may have slashes, and clusters have no zones to choose from.
        place = Place(provider=provider, region=_part(rest, text))
    else:
        parts = rest.split("/") if rest else []
        if len(parts) > 2:
            raise BadInfra(f"{text!r} has {len(parts) + 1} parts, at most provider/region/zone are meant")
        region, zone = (_part(part, text) for part in (*parts, "", "")[:2])
        place = Place(provider=provider, region=region, zone=zone)
        _check_zone(place)
    _check_known(place, known)
    return place


def needs_of(resources: Resources, wish: MachineWish, pool: PoolSpec, *, arch: str = USUAL_ARCH) -> MachineNeeds:
    """What a machine must be that is rented for a task in a pool.

    Args:
        resources: what the task reserves there.
        wish: what it says of the machine; where it says nothing, the pool does.
        pool: what its machines may be.
        arch: for tasks that name neither an architecture nor a type; empty: whichever is cheapest.

    Raises:
        Contradiction: no machine can be both what the task and what the pool want.
    """
    for key, value in resources.labels:
        if pool.labels.get(key) != value:
            raise Contradiction(
                f"the task wants the label {key}={value}, which machines rented for its pool do not have;"
                " put it into the labels of the pool, or leave it out"
            )
    limits = [micros for micros in (wish.max_price_micros, pool.max_price_micros) if micros is not None]
    types = _types_of(wish.machine_types, pool.machine_types)
    return MachineNeeds(
        cpus_milli=resources.cpus_milli,
        memory_bytes=resources.memory_bytes,
        disk_bytes=max(resources.disk_bytes, pool.disk_bytes),
        gpu_name=resources.gpu_name,
        gpu_count=resources.gpu_count,
        gpu_memory_bytes=wish.gpu_memory_bytes,
        cpus_exact=wish.cpus_exact,
        memory_exact=wish.memory_exact,
        places=_places_of(wish.places, pool.places),
        machine_types=types,
        # Who names a type has chosen what it is.
        arch=wish.arch or ("" if types else arch),
        spot=wish.spot or pool.spot,
        # One machine may not cost more than all of the pool's together.
        max_price_micros=min(limits, default=None),
    )


def alternatives_of(shape: Shape, pool: PoolSpec, *, arch: str = USUAL_ARCH) -> tuple[MachineNeeds, ...]:
    """What a machine must be, for each alternative of a task that its pool allows; see `needs_of`.

    Raises:
        Contradiction: the pool allows none of them; the message is that of the first.
    """
    needs: list[MachineNeeds] = []
    faults: list[Contradiction] = []
    for choice in shape.choices:
        try:
            needs.append(needs_of(choice.resources, choice.machine, pool, arch=arch))
        except Contradiction as error:
            faults.append(error)
    if not needs:
        raise faults[0]
    return tuple(needs)


def _provider_of(text: str) -> str:
    name = text.strip().casefold()
    if name in {"", "*"}:
        return ""
    if name in PROVIDERS:
        return name
    if name == "k8s":
        return "kubernetes"
    near = _OTHER_NAMES.get(name) or next(iter(get_close_matches(name, PROVIDERS, n=1)), "")
    hint = f"; did you mean {near}?" if near else f"; there are {', '.join(PROVIDERS)}"
    raise BadInfra(f"there is no provider {text!r}{hint}")


def _part(text: str, whole: str) -> str:
    text = text.strip()
    if text in {"", "*"}:
        return ""
    if not _PART.fullmatch(text):
        raise BadInfra(f"{text!r} in {whole!r} is no name of a region or zone; write * for any")
    return text


def _check_zone(place: Place) -> None:
    """Catches a zone in the place of a region, and a zone of another region, without knowing which there are."""
    pattern = _ZONES.get(place.provider)
    if pattern is None:
        return
    if pattern.fullmatch(place.region):
        raise BadInfra(f"{place.region!r} is a zone; did you mean {place.provider}/*/{place.region}?")
    zone = pattern.fullmatch(place.zone)
    if zone and place.region and zone[1] != place.region:
        raise BadInfra(f"zone {place.zone!r} is in {zone[1]}, not in {place.region}; leave one of the two out")


def _check_known(place: Place, known: Collection[Place]) -> None:
    theirs = [each for each in known if place.provider in {"", each.provider}]
    if not theirs or any(place.covers(each) for each in theirs):
        return
    regions = {each.region for each in theirs}
    if place.region and place.region not in regions:
        raise BadInfra(
            f"there is no region {place.region!r} of {place.provider or 'any provider'}{_hint(place.region, regions)}"
        )
    zones = {each.zone for each in theirs if place.region in {"", each.region} and each.zone}
    # Offers that leave the zone to the provider do not say which zones there are.
    if zones:
        raise BadInfra(f"there is no zone {place.zone!r} in {place}{_hint(place.zone, zones)}")


def _hint(text: str, there: Collection[str]) -> str:
    near = get_close_matches(text, sorted(there), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    shown = sorted(there)[:6]
    return f"; there are {', '.join(shown)}" + (f" and {len(there) - 6} more" if len(there) > 6 else "")


def _places_of(wanted: Sequence[Place], allowed: Sequence[Place]) -> tuple[Place, ...]:
    if not wanted or not allowed:
        return tuple(wanted or allowed)
    both = [place for want in wanted for allow in allowed if (place := _meet(want, allow)) is not None]
    if not both:
        raise Contradiction(
            f"the task wants {_listed(wanted)}, its pool allows only {_listed(allowed)};"
            " change one of the two, or take another pool"
        )
    return tuple(dict.fromkeys(both))


def _meet(one: Place, other: Place) -> Place | None:
    """What both mean; None: nothing."""
    pairs = ((one.provider, other.provider), (one.region, other.region), (one.zone, other.zone))
    if any(left and right and left != right for left, right in pairs):
        return None
    provider, region, zone = (left or right for left, right in pairs)
    return Place(provider=provider, region=region, zone=zone)


def _types_of(wanted: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    if not wanted or not allowed:
        return tuple(wanted or allowed)
    both = tuple(name for name in wanted if name in allowed)
    if not both:
        raise Contradiction(
            f"the task wants the type {_listed(wanted)}, its pool allows only {_listed(allowed)};"
            " change one of the two, or take another pool"
        )
    return both


def _listed(things: Sequence[object]) -> str:
    return " or ".join(str(thing) for thing in things)

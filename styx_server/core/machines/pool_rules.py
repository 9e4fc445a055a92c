"""Which pools are good: every bound with its reason, every contradiction with what to do instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.limits import MAX_BYTES, check_labels, check_slug, check_text
from styx_server.core.machines.offer import MICROS
from styx_server.core.machines.pool import PoolSpec

MAX_MACHINES: Final = 10_000
MAX_CHOICES: Final = 100
MAX_TEXT_CHARS: Final = 512
MAX_IDLE_SECONDS: Final = 30 * 86_400.0
MIN_LIFE_SECONDS: Final = 600.0
"""Shorter than a machine may take to start, to join and to do anything at all."""
MAX_LIFE_SECONDS: Final = 365 * 86_400.0
MAX_PRICE_MICROS: Final = 1_000_000 * MICROS


def check_pool(name: str, spec: PoolSpec) -> None:
    """Judges a pool.

    Raises:
        InvalidRequest: something is wrong; names every wrong field.
    """
    check_slug("name", name)
    violations = [Violation(field=f"spec.{at}", description=text) for at, text in _faults(spec)]
    checks: list[Callable[[], None]] = [
        lambda: check_text("spec.image", spec.image, MAX_TEXT_CHARS),
        lambda: check_labels("spec.labels", spec.labels),
        lambda: check_text("spec.machine_types", "".join(spec.machine_types), MAX_CHOICES * MAX_TEXT_CHARS),
    ]
    for check in checks:
        try:
            check()
        except InvalidRequest as refusal:
            violations.extend(refusal.violations)
    if violations:
        raise InvalidRequest(violations)


def _faults(spec: PoolSpec) -> Iterator[tuple[str, str]]:
    yield from _size_faults(spec)
    yield from _time_faults(spec)
    yield from _choice_faults(spec)


def _size_faults(spec: PoolSpec) -> Iterator[tuple[str, str]]:
    if not 0 <= spec.max_machines <= MAX_MACHINES:
        yield "max_machines", f"is {spec.max_machines:,}, must be 0 to {MAX_MACHINES:,}"
    if spec.min_machines < 0:
        yield "min_machines", f"is {spec.min_machines:,}, must not be negative"
    elif spec.min_machines > spec.max_machines:
        yield "min_machines", f"is {spec.min_machines:,}, more than max_machines, which is {spec.max_machines:,}"
    if spec.max_price_micros is not None and not 0 <= spec.max_price_micros <= MAX_PRICE_MICROS:
        yield "max_hourly_cost", f"must be 0 to {MAX_PRICE_MICROS // MICROS:,} US dollars; leave it out for no limit"
    if spec.max_price_micros == 0 and spec.min_machines:
        yield "max_hourly_cost", f"is 0, and min_machines asks for {spec.min_machines:,} machines that cost"
    if not 0 <= spec.disk_bytes <= MAX_BYTES:
        yield "disk_bytes", f"is {spec.disk_bytes:,}, more than any machine has; the unit is bytes"


def _time_faults(spec: PoolSpec) -> Iterator[tuple[str, str]]:
    if not 0 <= spec.idle_seconds <= MAX_IDLE_SECONDS:
        yield "idle_timeout", f"is {spec.idle_seconds:g} s, must be from 0 to 30 days"
    if not MIN_LIFE_SECONDS <= spec.life_seconds <= MAX_LIFE_SECONDS:
        yield "max_life", f"is {spec.life_seconds:g} s, must be from 10 minutes to 365 days"


def _choice_faults(spec: PoolSpec) -> Iterator[tuple[str, str]]:
    for field_, count in (("infra", len(spec.places)), ("machine_types", len(spec.machine_types))):
        if count > MAX_CHOICES:
            yield field_, f"has {count:,} entries, at most {MAX_CHOICES} are taken"
    for index, machine_type in enumerate(spec.machine_types[:MAX_CHOICES]):
        if not machine_type.strip():
            yield f"machine_types[{index}]", "is empty; leave it out"

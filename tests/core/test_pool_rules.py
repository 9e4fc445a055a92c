"""Which pools are good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from styx_server.core.errors import InvalidRequest
from styx_server.core.machines.offer import Place
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.machines.pool_rules import check_pool

DAY = 86_400.0


@pytest.mark.parametrize(
    "spec",
    [
        PoolSpec(),
        PoolSpec(max_machines=0),
        PoolSpec(min_machines=3, max_machines=3, idle_seconds=0, life_seconds=600),
        PoolSpec(max_price_micros=0),
        PoolSpec(labels={"team": "x"}, image="projects/x/global/images/y", disk_bytes=2**40),
        PoolSpec(places=(Place(provider="aws"),) * 100),
    ],
)
def test_a_good_pool_is_taken(spec: PoolSpec) -> None:
    check_pool("gpu-1", spec)


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (PoolSpec(min_machines=2, max_machines=1), ["min_machines"]),
        (PoolSpec(min_machines=-1), ["min_machines"]),
        (PoolSpec(max_machines=10_001), ["max_machines"]),
        (PoolSpec(max_price_micros=-1), ["max_hourly_cost"]),
        (PoolSpec(min_machines=1, max_price_micros=0), ["max_hourly_cost"]),
        (PoolSpec(idle_seconds=31 * DAY), ["idle_timeout"]),
        (PoolSpec(idle_seconds=-1), ["idle_timeout"]),
        (PoolSpec(life_seconds=599), ["max_life"]),
        (PoolSpec(life_seconds=366 * DAY), ["max_life"]),
        (PoolSpec(disk_bytes=2**61), ["disk_bytes"]),
        (PoolSpec(image="a\nb"), ["image"]),
        (PoolSpec(machine_types=("",)), ["machine_types[0]"]),
        (PoolSpec(machine_types=("x",) * 101), ["machine_types"]),
        (PoolSpec(places=(Place(provider="aws"),) * 101), ["infra"]),
        (PoolSpec(labels={"styx/spot": "true"}), ["labels['styx/spot']"]),
        (PoolSpec(labels={"bad key": "x"}), ["labels['bad key']"]),
        (PoolSpec(min_machines=5, max_machines=1, life_seconds=1), ["min_machines", "max_life"]),
    ],
)
def test_each_wrong_field_is_named(spec: PoolSpec, fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_pool("gpu", spec)
    assert [violation.field for violation in caught.value.violations] == [f"spec.{field}" for field in fields]


def test_a_bad_name_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="name"):
        check_pool("Not-A-Slug", replace(PoolSpec()))

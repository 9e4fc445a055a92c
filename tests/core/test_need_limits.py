"""Which words about machines and alternatives are good, and what the others are told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from styx_server.core import limits
from styx_server.core.errors import InvalidRequest
from styx_server.core.machines.needs import AskedMachine, MachineWish, SpotUse
from styx_server.core.machines.offer import Place
from styx_server.core.task import Alternative, Resources, Shape
from tests.support.builders import GIB, a_new_task, a_spec


def faults(**changes: Any) -> dict[str, str]:
    """Every violation of a spec."""
    with pytest.raises(InvalidRequest) as caught:
        limits.admit(a_spec(**changes), b"")
    return {violation.field: violation.description for violation in caught.value.violations}


def shape_of(**asked: Any) -> Shape:
    return a_new_task(machine=AskedMachine(**asked)).shape


def test_who_says_nothing_of_machines_has_the_shape_that_he_always_had() -> None:
    shape = a_new_task().shape
    assert shape == Shape(pool="default", resources=Resources())
    assert (shape.picky, shape.alternatives) == (False, ())


def test_words_become_values_and_equal_wishes_are_equal() -> None:
    shape = shape_of(
        infra=("gcp/*/us-central1-a", "aws", "aws"),
        machine_types=("g6.xlarge", "g5.xlarge", "g6.xlarge"),
        spot=SpotUse.PREFER,
        max_hourly_cost=1.25,
        arch="x86_64",
    )
    assert shape.picky
    assert shape.machine == MachineWish(
        places=(Place(provider="aws"), Place(provider="gcp", zone="us-central1-a")),
        machine_types=("g5.xlarge", "g6.xlarge"),
        spot=SpotUse.PREFER,
        max_price_micros=1_250_000,
        arch="x86_64",
    )
    assert shape_of(infra=("gcp", "aws")) == shape_of(infra=("aws", "gcp"))


def test_anywhere_or_somewhere_is_anywhere() -> None:
    assert shape_of(infra=("*", "aws")) == a_new_task().shape


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({"infra": ("awz/us-east-1",)}, "infra[0]", "did you mean aws?"),
        ({"infra": ("aws", "aws/us-east-1a")}, "infra[1]", "did you mean aws/*/us-east-1a?"),
        ({"infra": ("",)}, "infra[0]", "aws/us-east-1"),
        ({"infra": ("static/eu",)}, "infra[0]", "take static alone"),
        ({"infra": ("aws",) * 65}, "infra", "at most 64"),
        ({"machine_types": ("g6 xlarge",)}, "machine_types[0]", "like g6.xlarge"),
        ({"machine_types": ("x" * 129,)}, "machine_types[0]", "no type"),
        ({"machine_types": ("a",) * 65}, "machine_types", "at most 64"),
        ({"max_hourly_cost": 0.0}, "max_hourly_cost", "leave it out for no limit"),
        ({"max_hourly_cost": -1.0}, "max_hourly_cost", "is -1"),
        ({"max_hourly_cost": 1e9}, "max_hourly_cost", "100,000 US dollars"),
        ({"max_hourly_cost": math.nan}, "max_hourly_cost", "is nan"),
        ({"memory_exact": True}, "memory_exact", "memory_bytes"),
        ({"arch": "aarch64"}, "arch", "take arm64"),
        ({"arch": "sparc"}, "arch", "x86_64 or arm64"),
    ],
)
def test_a_word_that_means_nothing_is_refused_with_what_to_write(asked: Any, field: str, words: str) -> None:
    found = faults(machine=AskedMachine(**asked))
    assert set(found) == {f"spec.resources.machine.{field}"}
    assert words in found[f"spec.resources.machine.{field}"]


def test_memory_of_accelerators_needs_accelerators() -> None:
    asked = AskedMachine(gpu_memory_bytes=40 * GIB)
    assert set(faults(machine=asked)) == {"spec.resources.gpus.count"}
    assert set(faults(machine=AskedMachine(gpu_memory_bytes=2**61), resources=Resources(gpu_count=1))) == {
        "spec.resources.gpus.memory_bytes"
    }
    assert a_new_task(machine=asked, resources=Resources(gpu_count=1)).shape.machine.gpu_memory_bytes == 40 * GIB


def test_alternatives_become_one_shape_in_their_order() -> None:
    each = (
        Alternative(resources=Resources(gpu_count=1, gpu_name="A100")),
        Alternative(resources=Resources(cpus_milli=64_000), machine=AskedMachine(infra=("static",))),
    )
    shape = a_new_task(alternatives=each, ordered=True, pool="p").shape
    assert [choice.resources.cpus_milli for choice in shape.choices] == [1000, 64_000]
    assert [choice.machine.places for choice in shape.choices] == [(), (Place(provider="static"),)]
    assert {choice.pool for choice in shape.choices} == {"p"}
    assert shape.ordered
    assert (shape.resources, shape.machine) == (shape.choices[0].resources, shape.choices[0].machine)
    assert shape != a_new_task(alternatives=each, pool="p").shape


def test_each_wrong_alternative_is_named() -> None:
    wrong = Alternative(cpus=-1.0, machine=AskedMachine(infra=("awz",)))
    assert set(faults(alternatives=(Alternative(), wrong, Alternative(nested=True)))) == {
        "spec.resources.any_of[1].cpus",
        "spec.resources.any_of[1].machine.infra[0]",
        "spec.resources.any_of[2]",
    }
    assert set(faults(alternatives=(wrong,), ordered=True)) == {
        "spec.resources.ordered[0].cpus",
        "spec.resources.ordered[0].machine.infra[0]",
    }


def test_what_is_wrong_beside_the_alternatives_is_said_once() -> None:
    wrong = AskedMachine(arch="sparc")
    assert set(faults(machine=wrong, alternatives=(Alternative(machine=wrong),) * 3)) == {"spec.resources.machine.arch"}


def test_alternatives_have_bounds() -> None:
    assert set(faults(alternatives=(Alternative(),) * 17)) == {"spec.resources.any_of"}
    assert set(faults(alternatives=(Alternative(),), both_alternatives=True)) == {"spec.resources.ordered"}


def test_labels_that_only_the_server_sets_are_nobody_elses() -> None:
    found = faults(resources=Resources(labels=(("styx/spot", "true"),)))
    assert "`machine`" in found["spec.resources.labels['styx/spot']"]
    with pytest.raises(InvalidRequest, match=r"labels\['styx/zone'\]: starts with styx/, .* take another prefix"):
        limits.check_labels("labels", {"styx/zone": "a"})
    limits.check_labels("labels", {"styx": "a", "team/styx": "b"})

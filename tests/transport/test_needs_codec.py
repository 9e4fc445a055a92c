"""What a task needs comes over the wire whole, and its agent gets the alternative that was placed."""

from __future__ import annotations

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from styx.v1 import tasks_pb2
from styx_server.core.errors import InvalidRequest
from styx_server.core.machines.needs import AskedMachine, SpotUse
from styx_server.core.task import Alternative, Resources
from styx_server.transport import codec
from styx_server.transport.needs_codec import asked_needs, with_alternative

GIB = 2**30
PATH = "spec.resources"


def resources(text: dict[str, object]) -> tasks_pb2.Resources:
    return json_format.ParseDict(text, tasks_pb2.Resources())


def test_every_word_about_a_machine_arrives() -> None:
    message = resources(
        {
            "cpus": 4,
            "memoryBytes": str(GIB),
            "gpus": {"name": "L4", "count": 1, "memoryBytes": str(20 * GIB)},
            "machine": {
                "infra": ["aws", "gcp/us-central1"],
                "machineTypes": ["g6.xlarge"],
                "spot": "SPOT_WITH_FALLBACK",
                "maxHourlyCost": 1.5,
                "cpusExact": True,
                "memoryExact": True,
                "arch": "x86_64",
            },
        }
    )
    needs = asked_needs(message, PATH)
    assert needs.own == Alternative(
        cpus=4.0,
        resources=Resources(cpus_milli=4000, memory_bytes=GIB, gpu_name="L4", gpu_count=1),
        machine=AskedMachine(
            infra=("aws", "gcp/us-central1"),
            machine_types=("g6.xlarge",),
            spot=SpotUse.PREFER,
            max_hourly_cost=1.5,
            cpus_exact=True,
            memory_exact=True,
            gpu_memory_bytes=20 * GIB,
            arch="x86_64",
        ),
    )
    assert (needs.alternatives, needs.ordered, needs.both) == ((), False, False)


def test_an_alternative_takes_what_it_leaves_unset_from_beside_it() -> None:
    message = resources(
        {
            "cpus": 8,
            "memoryBytes": str(GIB),
            "gpus": {"name": "A100", "count": 8},
            "labels": {"team": "blue", "rack": "1"},
            "machine": {"infra": ["aws"], "arch": "x86_64", "spot": "SPOT"},
            "ordered": [
                {},
                {"cpus": 0, "gpus": {"count": 2}, "labels": {"rack": "2"}},
                {"machine": {"infra": ["gcp", "static"], "spot": "ON_DEMAND"}},
            ],
        }
    )
    needs = asked_needs(message, PATH)
    assert needs.ordered
    same, fewer, elsewhere = needs.alternatives
    assert same == needs.own
    assert fewer.cpus == 0.0
    assert (fewer.resources.gpu_name, fewer.resources.gpu_count) == ("", 2)
    assert fewer.resources.memory_bytes == GIB
    assert dict(fewer.resources.labels) == {"team": "blue", "rack": "2"}
    assert (elsewhere.machine.infra, elsewhere.machine.arch) == (("gcp", "static"), "x86_64")
    assert elsewhere.machine.spot is SpotUse.NEVER


def test_a_word_of_a_later_version_is_refused_and_not_passed_over() -> None:
    message = tasks_pb2.Resources(any_of=[tasks_pb2.Resources()])
    message.any_of[0].machine.spot = 99  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match=r"spec\.resources\.any_of\[0\]\.machine\.spot"):
        asked_needs(message, PATH)


def test_a_spec_with_both_kinds_of_alternatives_is_refused() -> None:
    spec = tasks_pb2.TaskSpec(command="true", resources=resources({"anyOf": [{}], "ordered": [{}]}))
    with pytest.raises(InvalidRequest, match=r"spec\.resources\.ordered: is set and so is any_of"):
        codec.new_task(spec, "spec")


NEEDS = st.fixed_dictionaries(
    {},
    optional={
        "cpus": st.integers(0, 9),
        "memoryBytes": st.integers(0, 9),
        "diskBytes": st.integers(0, 9),
        "gpus": st.fixed_dictionaries({"count": st.integers(1, 4)}, optional={"name": st.sampled_from(["A", "B"])}),
        "labels": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
        "machine": st.fixed_dictionaries(
            {},
            optional={
                "infra": st.lists(st.sampled_from(["aws", "gcp"]), min_size=1),
                "arch": st.sampled_from(["x86_64", "arm64"]),
                "spot": st.sampled_from(["SPOT", "ANY"]),
            },
        ),
    },
)


@given(beside=NEEDS, each=st.lists(NEEDS, min_size=1, max_size=4), word=st.sampled_from(["anyOf", "ordered"]))
def test_the_agent_reserves_what_the_server_reserved(
    beside: dict[str, object], each: list[dict[str, object]], word: str
) -> None:
    spec = tasks_pb2.TaskSpec(name="n", command="true", resources=resources({**beside, word: each}))
    task = codec.new_task(spec, "spec")
    for number, choice in enumerate(task.shape.choices):
        given_to_agent = tasks_pb2.TaskSpec.FromString(with_alternative(task.body, number))
        assert not given_to_agent.resources.any_of
        assert not given_to_agent.resources.ordered
        alone = codec.new_task(given_to_agent, "spec")
        assert alone.shape == choice
        assert (alone.name, given_to_agent.command) == ("n", "true")

"""Places as users write them, and what a task and its pool want together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.machines.infra import BadInfra, Contradiction, needs_of, parse_infra
from styx_server.core.machines.needs import MachineNeeds, MachineWish, SpotUse
from styx_server.core.machines.offer import Place
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.task import Resources

KNOWN = [
    Place(provider="aws", region="us-east-1"),
    Place(provider="aws", region="us-west-2"),
    Place(provider="gcp", region="us-central1", zone="us-central1-a"),
    Place(provider="gcp", region="us-central1", zone="us-central1-b"),
]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("*", Place()),
        ("*/*/*", Place()),
        ("aws", Place(provider="aws")),
        (" AWS ", Place(provider="aws")),
        ("aws/*", Place(provider="aws")),
        ("aws/us-east-1", Place(provider="aws", region="us-east-1")),
        ("aws/us-east-1/", Place(provider="aws", region="us-east-1")),
        ("aws/us-east-1/us-east-1a", Place(provider="aws", region="us-east-1", zone="us-east-1a")),
        ("aws/us-east-1/use1-az2", Place(provider="aws", region="us-east-1", zone="use1-az2")),
        ("aws/us-west-2/us-west-2-lax-1a", Place(provider="aws", region="us-west-2", zone="us-west-2-lax-1a")),
        ("aws/*/us-east-1a", Place(provider="aws", zone="us-east-1a")),
        ("gcp/*/us-central1-a", Place(provider="gcp", zone="us-central1-a")),
        ("*/us-east-1", Place(region="us-east-1")),
        ("local", Place(provider="local")),
        ("k8s", Place(provider="kubernetes")),
        ("k8s/context", Place(provider="kubernetes", region="context")),
        ("kubernetes/*", Place(provider="kubernetes")),
        (
            "k8s/arn:aws:eks:us-east-1:123456789012:cluster/training",
            Place(provider="kubernetes", region="arn:aws:eks:us-east-1:123456789012:cluster/training"),
        ),
    ],
)
def test_a_place_is_what_its_words_say(text: str, place: Place) -> None:
    assert parse_infra(text) == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be provider/region/zone"),
        ("x" * 301, "must be provider/region/zone"),
        ("asw", "there is no provider 'asw'; did you mean aws?"),
        ("google/us-central1", "did you mean gcp?"),
        ("heroku", "there are aws, fake, gcp, kubernetes, local, static"),
        ("aws/us-east-1/us-east-1a/rack", "has 4 parts"),
        ("aws/us east", "'us east' in 'aws/us east' is no name"),
        ("aws/us-east-1a", "is a zone; did you mean aws/*/us-east-1a?"),
        ("gcp/us-central1-a", "is a zone; did you mean gcp/*/us-central1-a?"),
        ("aws/us-east-1/us-west-2a", "is in us-west-2, not in us-east-1"),
        ("gcp/us-west1/us-central1-a", "is in us-central1, not in us-west1"),
    ],
)
def test_words_that_name_no_place_say_what_to_write(text: str, words: str) -> None:
    with pytest.raises(BadInfra) as caught:
        parse_infra(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aws/us-est-1", "there is no region 'us-est-1' of aws; did you mean us-east-1?"),
        ("aws/mars", "there are us-east-1, us-west-2"),
        ("gcp/us-central1/us-central1-z", "there is no zone 'us-central1-z'"),
        ("gcp/*/us-central9-a", "did you mean us-central1-a?"),
    ],
)
def test_a_place_that_is_not_among_those_that_exist_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInfra) as caught:
        parse_infra(text, KNOWN)
    assert words in str(caught.value)


def test_places_of_a_provider_of_which_nothing_is_known_are_believed() -> None:
    assert parse_infra("k8s/somewhere", KNOWN).region == "somewhere"
    # The offers of AWS here leave the zone to AWS.
    assert parse_infra("aws/us-east-1/us-east-1a", KNOWN).zone == "us-east-1a"


@given(
    st.builds(
        Place,
        provider=st.sampled_from(["", "aws", "gcp", "local"]),
        region=st.sampled_from(["", "us-east1"]),
        zone=st.sampled_from(["", "us-east1-b"]),
    )
)
def test_a_place_reads_back_as_it_was_written(place: Place) -> None:
    assert parse_infra(str(place)) == place


def test_what_a_task_does_not_say_its_pool_does() -> None:
    pool = PoolSpec(
        spot=SpotUse.PREFER,
        places=(Place(provider="aws"), Place(provider="gcp")),
        machine_types=("m5.large", "m5.xlarge"),
        max_price_micros=5_000_000,
        disk_bytes=100,
        labels={"team": "vision"},
    )
    needs = needs_of(Resources(cpus_milli=2000, disk_bytes=7, labels=(("team", "vision"),)), MachineWish(), pool)
    assert needs == MachineNeeds(
        cpus_milli=2000,
        disk_bytes=100,
        places=pool.places,
        machine_types=pool.machine_types,
        spot=SpotUse.PREFER,
        max_price_micros=5_000_000,
    )


def test_what_both_say_holds_together() -> None:
    pool = PoolSpec(
        places=(Place(provider="aws"), Place(provider="gcp", region="us-central1")),
        machine_types=("a", "b"),
        max_price_micros=5_000_000,
    )
    wish = MachineWish(
        places=(Place(region="us-east-1"), Place(provider="gcp")),
        machine_types=("b", "c"),
        max_price_micros=9_000_000,
        spot=SpotUse.ONLY,
        gpu_memory_bytes=5,
        cpus_exact=True,
        memory_exact=True,
    )
    needs = needs_of(Resources(gpu_name="L4", gpu_count=2, memory_bytes=3), wish, pool)
    assert needs.places == (Place(provider="aws", region="us-east-1"), Place(provider="gcp", region="us-central1"))
    assert (needs.machine_types, needs.max_price_micros, needs.spot) == (("b",), 5_000_000, SpotUse.ONLY)
    assert (needs.gpu_name, needs.gpu_count, needs.gpu_memory_bytes, needs.memory_bytes) == ("L4", 2, 5, 3)
    assert needs.cpus_exact
    assert needs.memory_exact


@pytest.mark.parametrize(
    ("resources", "wish", "pool", "words"),
    [
        (
            Resources(),
            MachineWish(places=(Place(provider="aws"),)),
            PoolSpec(places=(Place(provider="gcp"),)),
            "the task wants aws, its pool allows only gcp",
        ),
        (
            Resources(),
            MachineWish(machine_types=("a",)),
            PoolSpec(machine_types=("b", "c")),
            "the task wants the type a, its pool allows only b or c",
        ),
        (Resources(labels=(("disk", "nvme"),)), MachineWish(), PoolSpec(), "wants the label disk=nvme"),
    ],
)
def test_a_contradiction_is_said(resources: Resources, wish: MachineWish, pool: PoolSpec, words: str) -> None:
    with pytest.raises(Contradiction) as caught:
        needs_of(resources, wish, pool)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "arch"),
    [
        (MachineWish(), "x86_64"),
        (MachineWish(arch="arm64"), "arm64"),
        (MachineWish(machine_types=("t4g.large",)), ""),
    ],
)
def test_a_task_that_does_not_speak_of_it_gets_the_usual_architecture(wish: MachineWish, arch: str) -> None:
    assert needs_of(Resources(), wish, PoolSpec()).arch == arch
    assert needs_of(Resources(), MachineWish(), PoolSpec(), arch="").arch == ""

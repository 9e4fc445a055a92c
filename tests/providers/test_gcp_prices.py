"""Sentences of Google's price list, and what is read from them."""

from __future__ import annotations

import pytest

from styx_server.providers.gcp.skus import Article, Part, read_prices
from tests.providers.gce_goods import sku

REGION = "us-central1"


@pytest.mark.parametrize(
    ("words", "part", "family"),
    [
        ("N2 Instance Core running in Americas", Part.CORE, "n2"),
        ("N2D AMD Instance Ram running in Americas", Part.MEMORY, "n2d"),
        ("N1 Predefined Instance Core running in Americas", Part.CORE, "n1"),
        ("Compute optimized Core running in Americas", Part.CORE, "c2"),
        ("Compute optimized Ram running in Americas", Part.MEMORY, "c2"),
        ("T2A Arm Instance Core running in Iowa", Part.CORE, "t2a"),
        ("M3 Memory-optimized Instance Core running in Americas", Part.CORE, "m3"),
        ("Memory-optimized Instance Ram running in Americas", Part.MEMORY, "m1"),
        ("A3Plus Instance Core running in Americas", Part.CORE, "a3-megagpu"),
        ("Nvidia Tesla T4 GPU running in Americas", Part.GPU, "nvidia-tesla-t4"),
        ("Nvidia Tesla A100 80GB GPU running in Americas", Part.GPU, "nvidia-a100-80gb"),
        ("Nvidia H100 80GB Plus GPU running in Americas", Part.GPU, "nvidia-h100-mega-80gb"),
        ("Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas", Part.GPU, "nvidia-l4"),
        ("Nvidia B200 (1 gpu slice) running in Americas", Part.GPU, "nvidia-b200"),
        ("SSD backed Local Storage", Part.SSD, ""),
    ],
)
def test_a_sentence_is_understood(words: str, part: Part, family: str) -> None:
    prices = read_prices([sku(words, "CPU", "h", 20_000_000)])
    assert prices[Article(part=part, family=family, region=REGION, spot=False)] == pytest.approx(20_000)


@pytest.mark.parametrize(
    "words",
    [
        "N2 Custom Instance Core running in Americas",
        "N2 Custom Extended Instance Ram running in Americas",
        "N2 Sole Tenancy Instance Core running in Americas",
        "Reserved N2 Instance Core in Americas",
        "DWS Defined Duration A3 Instance Core running in Americas",
        "Nvidia Tesla T4 Virtual Workstation GPU running in Americas",
        "Nvidia Tomorrow GPU running in Americas",
        "Sustained Use Discount",
        "",
    ],
)
def test_a_sentence_that_means_something_else_is_left_out(words: str) -> None:
    assert read_prices([sku(words, "CPU", "h", 1)]) == {}


def test_spot_and_on_demand_are_two_prices() -> None:
    words = "E2 Instance Core running in Americas"
    listed = [
        sku(words, "CPU", "h", 20_000_000),
        sku(f"Spot Preemptible {words}", "CPU", "h", 6_000_000, "Preemptible"),
        sku(words, "CPU", "h", 1, "Commit1Yr"),
    ]
    spot = Article(part=Part.CORE, family="e2", region=REGION, spot=True)
    demand = Article(part=Part.CORE, family="e2", region=REGION, spot=False)
    assert {article: round(price) for article, price in read_prices(listed).items() if article.region == REGION} == {
        spot: 6_000,
        demand: 20_000,
    }


@pytest.mark.parametrize(("unit", "nanos"), [("By", 1), ("mo", 1), ("h", 0)])
def test_what_is_charged_in_another_way_has_no_price(unit: str, nanos: int) -> None:
    assert read_prices([sku("E2 Instance Core running in Americas", "CPU", unit, nanos)]) == {}


@pytest.mark.parametrize(
    "broken", [{}, {"category": {"usageType": "OnDemand"}, "description": "E2 Instance Core running in"}]
)
def test_an_article_that_lacks_parts_is_left_out(broken: dict[str, object]) -> None:
    assert read_prices([broken]) == {}

"""The fixture `market`: one test for each provider that has a double."""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.providers.market import Market

if TYPE_CHECKING:
    from tests.providers.gcp_market import GcpMarket

# Whoever adds a provider adds `<name>_market.py` beside this file. Imported only when its turn comes: a cloud's library
# takes seconds.
MARKETS = {
    path.stem.removesuffix("_market"): f"tests.providers.{path.stem}"
    for path in Path(__file__).parent.glob("*_market.py")
}
# A server of its own kind is used only by who names one.
if os.environ.get("STYX_TEST_KUBECONFIG"):
    MARKETS["kubernetes-real"] = "tests.providers.real_kubernetes"


@pytest.fixture(params=sorted(MARKETS))
async def market(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Market]:
    """A fresh double of each provider in turn."""
    async with importlib.import_module(MARKETS[request.param]).open_market(tmp_path) as opened:
        yield opened


@pytest.fixture
async def gcp(tmp_path: Path) -> AsyncIterator[GcpMarket]:
    """A fresh double of Google Cloud, for what is special about it."""
    from tests.providers.gcp_market import open_market

    async with open_market(tmp_path) as opened:
        yield opened

"""Whoever takes away a rule is found out: each planted bug, and the same story on the right code, which is clean.

The stories mostly wait, so some of them are told at the same time.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.campaign import Verdict, stage
from tests.faults.cluster import ROOT, Cluster, Shape
from tests.faults.history import Recorder
from tests.faults.load import Customer
from tests.faults.planted import PLANTED, copy_of
from tests.faults.scenarios import DISCONNECT_SECONDS, SCALE, SCENARIOS, Scenario, Stage

AT_A_TIME = 3
LONG_SECONDS = 600

Verdicts = dict[tuple[str, bool], "asyncio.Task[Verdict]"]


async def tell(scenario: Scenario, folder: Path, *, planted: bool) -> Verdict:
    """Tells one story on a copy of the product, with or without the bug."""
    bug = PLANTED[scenario.bug] if planted else ()
    shape = Shape(
        replicas=scenario.replicas,
        agents=scenario.agents,
        lease_scale=SCALE,
        product=copy_of(ROOT, folder, (*scenario.always, *bug)),
        many_addresses=False,
    )

    async def act(cluster: Cluster, customer: Customer, journal: Recorder) -> None:
        await scenario.act(Stage(cluster=cluster, customer=customer, journal=journal))

    return await stage(shape, folder, DISCONNECT_SECONDS, act)


@pytest.fixture(scope="module")
async def verdicts(request: pytest.FixtureRequest) -> AsyncIterator[Verdicts]:
    """Every story that is wanted, both ways, a few at a time."""
    wanted = {
        item.callspec.params["scenario"].bug
        for item in request.session.items
        if "verdicts" in getattr(item, "fixturenames", ())
    }
    scenarios = [scenario for scenario in SCENARIOS if scenario.bug in wanted]
    turns = asyncio.Semaphore(AT_A_TIME)

    async def told(scenario: Scenario, folder: Path, planted: bool) -> Verdict:
        async with turns:
            return await tell(scenario, folder, planted=planted)

    with tempfile.TemporaryDirectory(prefix="styx-planted-") as root:
        loop = asyncio.get_running_loop()
        tasks: Verdicts = {}
        for number, scenario in enumerate(scenarios):
            for planted in (False, True):
                folder = Path(root) / f"{number}{'b' if planted else 'a'}"
                folder.mkdir()
                tasks[scenario.bug, planted] = loop.create_task(told(scenario, folder, planted))
        yield tasks
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.timeout(LONG_SECONDS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.bug)
async def test_the_right_code_is_clean(scenario: Scenario, verdicts: Verdicts) -> None:
    verdict = await verdicts[scenario.bug, False]
    assert not verdict.anomalies, verdict.report


@pytest.mark.timeout(LONG_SECONDS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.bug)
async def test_the_planted_bug_is_found(scenario: Scenario, verdicts: Verdicts) -> None:
    verdict = await verdicts[scenario.bug, True]
    assert scenario.checks & {anomaly.check for anomaly in verdict.anomalies}, verdict.report


def test_every_planted_bug_has_its_story() -> None:
    assert {scenario.bug for scenario in SCENARIOS} == set(PLANTED)


@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_the_words_that_it_replaces_are_there(bug: str, tmp_path: Path) -> None:
    always = next(scenario.always for scenario in SCENARIOS if scenario.bug == bug)
    copy_of(ROOT, tmp_path, (*always, *PLANTED[bug]))

"""The made-up cloud's own ways: its control file, its stock and quotas, its spot machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from styx_server import clock
from styx_server.core.machines.instance import Boot, CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.fake import FakeProvider
from styx_server.providers.fake_cloud import NAME, ZONES, chance, entries, size_of, waiting_time
from styx_server.providers.fake_rules import Match, Refusal, Rules, RulesFile
from styx_server.providers.local import arch
from styx_server.providers.ports import ProviderError
from styx_server.providers.processes.folder import MachineFolder
from tests.providers.fake_market import QUICK, FakeMarket, open_market
from tests.support.scripted_server import JOIN_TOKEN, scripted_server
from tests.support.until import soon, soon_true

PAGE = Path(__file__).resolve().parents[2] / "docs" / "providers" / "fake.md"
NOON = datetime(2030, 1, 1, 12, 30, tzinfo=UTC)


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[FakeMarket]:
    async with open_market(tmp_path) as opened:
        yield opened


def anywhere_in(order: RentOrder, region: str, zone: str = "") -> RentOrder:
    return replace(order, offer=replace(order.offer, place=Place(provider=NAME, region=region, zone=zone)))


async def refused(market: FakeMarket, order: RentOrder) -> RefusalKind:
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(order)
    return caught.value.kind


async def state_of(market: FakeMarket, machine: CloudMachine) -> tuple[MachineState, str]:
    [found] = [each for each in await market.ledger() if each.cloud_id == machine.cloud_id]
    return found.state, found.reason


async def is_over(market: FakeMarket, machine: CloudMachine, reason: str) -> None:
    async def has_ended() -> bool:
        return await state_of(market, machine) == (MachineState.ENDED, reason)

    await soon_true(has_ended, f"the machine has ended: {reason}")


def folder_of(market: FakeMarket, machine: CloudMachine) -> MachineFolder:
    folder = market.provider.room.folder_of(machine.cloud_id)
    assert folder is not None
    return folder


# What there is.


def test_the_same_seed_is_the_same_price_list_for_an_hour() -> None:
    first = list(entries(1, NOON, "x86_64"))
    assert first == list(entries(1, NOON, "x86_64"))
    later = [entry.spot_price_micros for entry in entries(1, NOON.replace(hour=13), "x86_64")]
    assert later != [entry.spot_price_micros for entry in first]
    assert [entry.spot_price_micros for entry in entries(2, NOON, "x86_64")] != [
        entry.spot_price_micros for entry in first
    ]


def test_spot_is_cheaper_and_not_everything_is_everywhere() -> None:
    listed = list(entries(1, NOON, "x86_64"))
    assert all(0 < (entry.spot_price_micros or 0) < (entry.price_micros or 0) for entry in listed)
    zones = {entry.place.zone for entry in listed if entry.size.gpu_name == "H100"}
    assert zones == {"harbor-b", "summit-c"}
    assert {entry.place.region for entry in listed} == set(ZONES)
    assert {entry.size.gpu_name for entry in listed} == {"", "T4", "L4", "A100", "H100"}


def test_chance_is_a_fraction_and_lives_have_the_mean_that_was_asked_for() -> None:
    lives = [waiting_time(100, chance(1, number)) for number in range(2000)]
    assert all(life >= 0 for life in lives)
    assert 90 < sum(lives) / len(lives) < 110


# The control file.


def test_the_file_is_there_to_be_changed(tmp_path: Path) -> None:
    rules = RulesFile(tmp_path / "fake")
    assert rules.read() == Rules()
    assert json.loads(rules.path.read_text())["notice_seconds"] == 30.0
    assert rules.read() == Rules()


def test_rules_come_back_as_they_were_written(tmp_path: Path) -> None:
    rules = Rules(
        seed=5,
        start_seconds=(1.0, 2.0),
        stockouts=(Match(zone="meadow-a", spot=True), Match(machine_type="h100-8")),
        quota={"meadow": 2, "*": 5},
        refuse=(Refusal(kind=RefusalKind.QUOTA, times=3),),
        lose_answers=2,
        down=True,
    )
    RulesFile(tmp_path).write(rules)
    assert RulesFile(tmp_path).read() == rules


def test_the_page_on_it_knows_every_key_and_its_default(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S.*?) \|", PAGE.read_text(), re.MULTILINE)
    (tmp_path / "cloud.json").write_text(json.dumps({key: json.loads(default) for key, default in rows}))
    assert {key for key, _ in rows} == {each.name for each in fields(Rules)}
    assert RulesFile(tmp_path).read() == Rules()


def test_the_troubles_of_the_page_can_be_made(tmp_path: Path) -> None:
    rules = RulesFile(tmp_path)
    rules.write(Rules())
    (tmp_path / "machines" / "styx-a1").mkdir(parents=True)
    [block] = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        subprocess.run(["sh", "-euc", line], env={"PATH": os.environ["PATH"], "CLOUD": str(tmp_path)}, check=True)
    assert rules.read() == Rules(
        stockouts=(Match(region="summit"),),
        refuse=(Refusal(kind=RefusalKind.QUOTA, times=2),),
        lose_answers=1,
        preempt_every_seconds=120,
    )
    assert (tmp_path / "machines" / "styx-a1" / "preempt").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"seeed": 1}', "did you mean 'seed'"),
        ("{", "is wrong"),
        ("[]", "one object"),
        ('{"refuse": [{"kind": "bad luck"}]}', "bad luck"),
        ('{"stockouts": [{"planet": "mars"}]}', "planet"),
        ('{"start_seconds": 3}', "is wrong"),
        ('{"call_seconds": "long"}', "long"),
    ],
)
def test_a_mistake_in_the_file_is_said(tmp_path: Path, text: str, words: str) -> None:
    rules = RulesFile(tmp_path)
    rules.path.write_text(text)
    with pytest.raises(ProviderError, match=words) as caught:
        rules.read()
    assert str(rules.path) in caught.value.message


def test_refusals_are_counted_down(tmp_path: Path) -> None:
    rules = RulesFile(tmp_path)
    quota, down = Refusal(kind=RefusalKind.QUOTA, times=2), Refusal(kind=RefusalKind.UNAVAILABLE)
    rules.write(Rules(refuse=(quota, down)))
    taken = [rules.take_refusal() for _ in range(4)]
    assert [each and each.kind for each in taken] == [quota.kind, quota.kind, down.kind, None]
    assert rules.read() == Rules()


async def test_a_cloud_that_is_down_answers_nothing(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, down=True))
    assert await refused(market, market.order("styx-a1")) is RefusalKind.UNAVAILABLE
    for call in (market.provider.list("ours", "meadow"), market.provider.offers()):
        with pytest.raises(ProviderError):
            await call
    assert not (await market.provider.check()).usable
    market.provider.rules.write(QUICK)
    assert await market.provider.list("ours", "meadow") == []


# Stock and quota.


async def test_what_is_out_of_stock_in_one_zone_is_found_in_another(market: FakeMarket) -> None:
    order = market.order("styx-a1")
    market.provider.rules.write(replace(QUICK, stockouts=(Match(zone="meadow-a"), Match(zone="meadow-b"))))
    assert await refused(market, order) is RefusalKind.CAPACITY
    machine = await market.provider.rent(anywhere_in(order, "meadow"))
    assert machine.place.zone == "meadow-c"


async def test_stock_of_spot_machines_is_their_own(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, stockouts=(Match(machine_type="small-1", spot=True),)))
    assert await refused(market, market.order("styx-a1", spot=True)) is RefusalKind.CAPACITY
    assert (await market.provider.rent(market.order("styx-a2"))).cloud_id


async def test_bad_luck_can_be_complete(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, stockout_share=1.0))
    assert await refused(market, anywhere_in(market.order("styx-a1"), "meadow")) is RefusalKind.CAPACITY


async def test_a_quota_is_of_live_machines_in_a_region(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, quota={"meadow": 1}))
    machine = await market.provider.rent(market.order("styx-a1"))
    assert await refused(market, market.order("styx-a2")) is RefusalKind.QUOTA
    assert (await market.provider.rent(anywhere_in(market.order("styx-a3"), "harbor"))).place.region == "harbor"
    await market.provider.release(machine.place, machine.cloud_id)
    await market.settle()
    assert (await market.provider.rent(market.order("styx-a4"))).cloud_id


async def test_the_same_key_is_served_whatever_the_stock(market: FakeMarket) -> None:
    machine = await market.provider.rent(market.order("styx-a1"))
    market.provider.rules.write(replace(QUICK, stockout_share=1.0, quota={"*": 0}))
    assert (await market.provider.rent(market.order("styx-a1"))).cloud_id == machine.cloud_id


async def test_this_computer_plays_only_so_many_machines(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, max_machines=0))
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(market.order("styx-a1"))
    assert (caught.value.kind, caught.value.code) == (RefusalKind.CAPACITY, "MaxMachines")


async def test_what_never_was_there_is_a_bad_type(market: FakeMarket) -> None:
    order = market.order("styx-a1")
    size = size_of("h100-8", arch())
    assert size is not None
    h100 = replace(order, offer=replace(order.offer, machine_type="h100-8", size=size))
    for wrong in (anywhere_in(h100, "meadow"), anywhere_in(order, "atlantis"), anywhere_in(order, "meadow", "x")):
        assert await refused(market, wrong) is RefusalKind.BAD_TYPE


# The life of a machine.


async def test_a_machine_takes_its_time_to_start_and_may_be_given_back_before(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, start_seconds=(3600.0, 7200.0)))
    machine = await market.provider.rent(market.order("styx-a1"))
    assert machine.state is MachineState.STARTING
    await market.provider.release(machine.place, machine.cloud_id)
    await is_over(market, machine, "released")
    assert (await state_of(market, machine))[0] is MachineState.ENDED


async def test_a_spot_machine_has_notice_before_it_is_taken_back(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, notice_seconds=3600.0))
    machine = await market.provider.rent(market.order("styx-a1", spot=True))
    await market.settle()
    folder = folder_of(market, machine)
    before = clock.now().timestamp()
    market.provider.room.preempt(machine.cloud_id)
    await soon(folder.notice.exists, "the notice is there")
    after = clock.now().timestamp()
    assert before + 3600 <= json.loads(folder.notice.read_text())["deadline"] <= after + 3600
    assert (await state_of(market, machine))[0] is MachineState.RUNNING


async def test_spot_machines_are_taken_back_by_the_clock_and_others_are_not(market: FakeMarket) -> None:
    market.provider.rules.write(replace(QUICK, preempt_every_seconds=0.05, notice_seconds=0.0))
    kept = await market.provider.rent(market.order("styx-a1"))
    taken = await market.provider.rent(market.order("styx-a2", spot=True))
    await is_over(market, taken, "preempted")
    assert (await state_of(market, kept))[0] is MachineState.RUNNING


async def test_a_made_up_machine_is_a_real_agent_with_made_up_accelerators(tmp_path: Path) -> None:
    async with scripted_server() as (server, port), open_market(tmp_path) as market:
        provider = FakeProvider(market.provider.room.root)
        order, size = market.order("styx-a1", spot=True), size_of("h100-8", arch())
        assert size is not None
        offer = replace(order.offer, machine_type="h100-8", size=size)
        boot = Boot(server_urls=(f"grpc://127.0.0.1:{port}",), join_token=JOIN_TOKEN, agent_name="rented-1")
        machine = await provider.rent(anywhere_in(replace(order, offer=offer, boot=boot), "harbor"))
        await soon(lambda: bool(server.sessions), "the agent has a session")
        capacity = server.session.hello.capacity
        assert capacity.cpus == 208
        assert [gpu.name for gpu in capacity.gpus] == ["H100"] * 8
        server.assign("sleep 31559")
        provider.room.preempt(machine.cloud_id)
        await is_over(market, machine, "preempted")

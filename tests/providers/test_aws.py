"""What is special about EC2, beyond what `test_behaviour.py` asks of every provider."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from styx_server.core.machines.instance import MachineState
from styx_server.core.machines.offer import MachineSize, Place
from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.aws import AwsProvider, AwsSettings
from styx_server.providers.aws.catalog import gpu_name, micros, size_of
from styx_server.providers.aws.request import GIB, Subnet, choose_subnet
from styx_server.providers.ports import ProviderError
from tests.providers.aws_double import REGION, AwsDouble, environment
from tests.providers.aws_market import AwsMarket, open_market, order, settings
from tests.support.until import soon_true

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def aws(tmp_path: Path) -> AsyncIterator[AwsMarket]:
    async with open_market(tmp_path) as market:
        yield market


@asynccontextmanager
async def another(asked: AwsSettings) -> AsyncIterator[AwsProvider]:
    """The same account, configured in another way: a server that was restarted."""
    provider = AwsProvider(asked)
    try:
        yield provider
    finally:
        await provider.close()


# What is asked.


async def test_a_machine_is_asked_for_safely_and_completely(aws: AwsMarket) -> None:
    machine = await aws.provider.rent(replace(order("styx-a1"), disk_bytes=100 * GIB - 1))
    asked = aws.double.parameters(machine.cloud_id)
    assert {name: value for name, value in asked.items() if not name.startswith(("TagSpecification", "ImageId"))} == {
        "ClientToken": "styx-a1",
        "MinCount": "1",
        "MaxCount": "1",
        "InstanceType": "m5.large",
        "UserData": "I2Nsb3VkLWNvbmZpZwo=",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "Placement.AvailabilityZone": "us-east-1a",
        "BlockDeviceMapping.1.DeviceName": "/dev/sda1",
        "BlockDeviceMapping.1.Ebs.VolumeSize": "100",
        "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
        "BlockDeviceMapping.1.Ebs.Encrypted": "true",
        "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
        "MetadataOptions.HttpTokens": "required",
        "MetadataOptions.HttpPutResponseHopLimit": "1",
        "MetadataOptions.HttpEndpoint": "enabled",
    }


async def test_disks_and_addresses_carry_the_tags_as_well(aws: AwsMarket) -> None:
    wanted = order("styx-a1", spot=True)
    machine = await aws.provider.rent(wanted)
    asked = aws.double.parameters(machine.cloud_id)
    kinds = [value for name, value in asked.items() if name.endswith(".ResourceType")]
    assert kinds == ["instance", "volume", "network-interface", "spot-instances-request"]
    keys = [value for name, value in asked.items() if ".Tag." in name and name.endswith(".Key")]
    assert sorted(set(keys)) == sorted({"Name", *wanted.tags})
    assert len(keys) == 4 * (1 + len(wanted.tags))


async def test_a_spot_machine_is_asked_for_once_and_ends_when_it_is_taken_back(aws: AwsMarket) -> None:
    machine = await aws.provider.rent(order("styx-a1", spot=True))
    asked = aws.double.parameters(machine.cloud_id)
    assert {name: value for name, value in asked.items() if name.startswith("InstanceMarketOptions")} == {
        "InstanceMarketOptions.MarketType": "spot",
        "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
        "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate",
    }


async def test_the_script_for_the_first_boot_arrives_byte_for_byte(aws: AwsMarket) -> None:
    script = "#cloud-config\nwrite_files:\n- content: 'Grüße, %s $HOME'\n"
    machine = await aws.provider.rent(replace(order("styx-a1"), user_data=script))
    assert aws.double.user_data(machine.cloud_id) == script.encode()
    seen = aws.provider._clients.get("ec2", REGION).describe_instance_attribute(
        InstanceId=machine.cloud_id, Attribute="userData"
    )
    assert base64.b64decode(seen["UserData"]["Value"]) == script.encode()


async def test_a_script_that_ec2_would_not_take_is_not_sent(aws: AwsMarket) -> None:
    good = replace(order("styx-a1"), user_data="#" * 16_384)
    await aws.provider.rent(good)
    with pytest.raises(ProviderError, match="16385 bytes") as caught:
        await aws.provider.rent(replace(order("styx-a2"), user_data="#" * 16_385))
    assert caught.value.kind is RefusalKind.BAD_REQUEST
    assert len(aws.double.ledger()) == 1


async def test_each_architecture_boots_an_image_of_its_own(aws: AwsMarket) -> None:
    intel = order("styx-a1")
    size = replace(intel.offer.size, arch="arm64")
    arm = replace(order("styx-a2"), offer=replace(intel.offer, machine_type="m6g.large", size=size))
    images = [aws.double.parameters((await aws.provider.rent(each)).cloud_id)["ImageId"] for each in (intel, arm)]
    assert [aws.double.images[image] for image in images] == [f"{REGION} x86_64", f"{REGION} arm64"]


async def test_machines_with_gpus_boot_an_image_with_the_driver(aws: AwsMarket) -> None:
    usual = order("styx-a1").offer
    size = replace(usual.size, gpu_name="T4", gpu_count=1)
    gpus = replace(order("styx-a1"), offer=replace(usual, machine_type="g4dn.xlarge", size=size))
    await aws.provider.rent(gpus)
    asked = [call.parameters["Name"] for call in aws.double.calls if call.action == "GetParameter"]
    assert ["nvidia" in name for name in asked] == [True]
    account = aws.provider._account
    assert "nvidia" not in account.image_name(replace(size, gpu_name="Trainium"))


async def test_an_image_for_another_architecture_is_refused_before_ec2_is_asked(aws: AwsMarket) -> None:
    first = await aws.provider.rent(order("styx-a1"))
    ami = aws.double.parameters(first.cloud_id)["ImageId"]
    offer = replace(order("styx-a2").offer, size=MachineSize(cpus_milli=2000, memory_bytes=GIB, arch="arm64"))
    with pytest.raises(ProviderError, match="is for x86_64") as caught:
        await aws.provider.rent(replace(order("styx-a2"), offer=offer, image=ami))
    assert (caught.value.kind, caught.value.scope) == (RefusalKind.BAD_IMAGE, Scope.TYPE)


@pytest.mark.parametrize("image", ["ubuntu", "ami-00000000000000000", "/no/such/parameter"])
async def test_an_image_that_is_not_there_is_said_by_name(aws: AwsMarket, image: str) -> None:
    with pytest.raises(ProviderError) as caught:
        await aws.provider.rent(replace(order("styx-a1"), image=image))
    assert caught.value.kind is RefusalKind.BAD_IMAGE
    assert aws.double.ledger() == []


# Where a machine is put.


SUBNETS = [
    Subnet(subnet_id="subnet-1", zone="us-east-1a", default=False),
    Subnet(subnet_id="subnet-2", zone="us-east-1b", default=False),
    Subnet(subnet_id="subnet-3", zone="us-east-1b", default=False),
]


def test_a_machine_is_put_into_a_subnet_of_its_zone() -> None:
    assert choose_subnet(order("styx-a1"), SUBNETS) == "subnet-1"
    assert choose_subnet(order("styx-a1"), []) == ""


def test_the_same_order_gets_the_same_subnet_and_many_orders_get_all() -> None:
    offer = replace(order("x").offer, place=Place(provider="aws", region=REGION))
    orders = [replace(order(f"styx-a{number}"), offer=offer) for number in range(50)]
    chosen = [choose_subnet(each, SUBNETS) for each in orders]
    assert chosen == [choose_subnet(each, SUBNETS[::-1]) for each in orders]
    assert set(chosen) == {"subnet-1", "subnet-2", "subnet-3"}


async def test_configured_subnets_bound_what_is_offered_and_rented(aws: AwsMarket) -> None:
    subnet_id = aws.double.zones()[f"{REGION}a"]
    other = replace(order("styx-a2").offer, place=Place(provider="aws", region=REGION, zone=f"{REGION}b"))
    async with another(replace(settings(aws.double), subnets=(subnet_id, "subnet-misspelt"))) as provider:
        machine = await provider.rent(order("styx-a3"))
        assert aws.double.parameters(machine.cloud_id)["SubnetId"] == subnet_id
        assert "Placement.AvailabilityZone" not in aws.double.parameters(machine.cloud_id)
        with pytest.raises(ProviderError) as caught:
            await provider.rent(replace(order("styx-a2"), offer=other))
        assert (caught.value.kind, caught.value.scope) == (RefusalKind.BAD_REQUEST, Scope.ZONE)
        assert {entry.place.zone for entry in await provider.offers()} == {f"{REGION}a"}
        bad = [finding.what for finding in (await provider.check()).findings if not finding.good]
        assert bad == ["subnet-misspelt is in none of the regions"]


# The same key again.


async def test_a_key_finds_its_machine_although_the_configuration_has_changed(aws: AwsMarket) -> None:
    first = await aws.provider.rent(order("styx-a1"))
    async with another(replace(settings(aws.double), disk_bytes=200 * GIB)) as restarted:
        assert (await restarted.rent(order("styx-a1"))).cloud_id == first.cloud_id
    assert len(aws.double.ledger()) == 1


async def test_a_used_key_without_a_machine_on_the_list_is_an_unknown_fate(aws: AwsMarket) -> None:
    aws.double.fail("RunInstances", "IdempotentParameterMismatch", "Arguments differ.")
    with pytest.raises(ProviderError, match="styx-a1") as caught:
        await aws.provider.rent(order("styx-a1"))
    assert not caught.value.fate_known


async def test_the_key_of_a_machine_that_has_ended_makes_no_other(aws: AwsMarket) -> None:
    first = await aws.provider.rent(order("styx-a1"))
    await aws.provider.release(first.place, first.cloud_id)
    aws.double.settle()
    again = await aws.provider.rent(order("styx-a1"))
    assert (again.cloud_id, again.state) == (first.cloud_id, MachineState.ENDED)
    aws.double.forget_tags(first.cloud_id)
    with pytest.raises(ProviderError, match="already ended") as caught:
        await aws.provider.rent(order("styx-a1"))
    assert caught.value.fate_known
    assert len(aws.double.ledger()) == 1


@pytest.mark.parametrize(("code", "status"), [("InsufficientInstanceCapacity", 500), ("RequestLimitExceeded", 503)])
async def test_a_rent_is_asked_for_once_in_a_call(aws: AwsMarket, code: str, status: int) -> None:
    aws.double.fail("RunInstances", code, "no", status, times=9)
    with pytest.raises(ProviderError):
        await aws.provider.rent(order("styx-a1"))
    assert len(aws.double.made_calls("RunInstances")) == 1


# The way to Amazon.


async def test_an_answer_that_never_comes_is_a_timeout_and_the_machine_is_found_again(aws: AwsMarket) -> None:
    async with another(replace(settings(aws.double), read_timeout_seconds=1)) as hasty:

        async def knows_its_way() -> bool:
            with suppress(ProviderError):
                await hasty.rent(order("styx-a0"))
                return True
            return False

        # The one call that is left is the one whose answer does not come.
        await soon_true(knows_its_way, "a call within a second")
        aws.double.hang("RunInstances")
        with pytest.raises(ProviderError) as caught:
            await hasty.rent(order("styx-a1"))
    assert (caught.value.kind, caught.value.code) == (RefusalKind.TIMEOUT, "ReadTimeoutError")
    assert not caught.value.fate_known
    aws.double.let_go()
    [lost] = [each for each in aws.double.ledger() if each.key == "styx-a1"]
    assert (await aws.provider.rent(order("styx-a1"))).cloud_id == lost.cloud_id


async def test_nobody_at_the_other_end_is_said_so() -> None:
    with AwsDouble() as double:
        asked, variables = settings(double), double.environment
    with environment(variables):
        async with another(asked) as provider:
            with pytest.raises(ProviderError, match="could not be reached") as caught:
                await provider.rent(order("styx-a1"))
    assert (caught.value.kind, caught.value.code) == (RefusalKind.UNAVAILABLE, "EndpointConnectionError")


async def test_without_credentials_one_is_told_where_to_put_them(aws: AwsMarket) -> None:
    variables = {name: value for name, value in aws.double.environment.items() if "KEY" not in name}
    with environment(variables):
        async with another(settings(aws.double)) as provider:
            with pytest.raises(ProviderError, match="AWS_ACCESS_KEY_ID") as caught:
                await provider.rent(order("styx-a1"))
            report = await provider.check()
    assert caught.value.kind is RefusalKind.CREDENTIALS
    assert not report.usable
    assert report.identity == ""


# The end.

DENIED = ("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)


async def test_the_end_of_a_machine_that_has_ended_cannot_be_denied(aws: AwsMarket) -> None:
    machine = await aws.provider.rent(order("styx-a1"))
    aws.double.fail("TerminateInstances", *DENIED)
    with pytest.raises(ProviderError) as caught:
        await aws.provider.release(machine.place, machine.cloud_id)
    assert caught.value.kind is RefusalKind.PERMISSION
    await aws.provider.release(machine.place, machine.cloud_id)
    aws.double.settle()
    # Its tag is gone, and the right to end it hung on the tag.
    aws.double.forget_tags(machine.cloud_id)
    aws.double.fail("TerminateInstances", *DENIED, times=2)
    await aws.provider.release(machine.place, machine.cloud_id)
    await aws.provider.release(machine.place, "i-00000000000000000")


# The list.


async def test_a_machine_that_is_ending_is_listed_as_ending(aws: AwsMarket) -> None:
    machine = await aws.provider.rent(order("styx-a1"))
    assert machine.state is MachineState.STARTING
    await aws.provider.release(machine.place, machine.cloud_id)
    [seen] = await aws.provider.list(aws.deployment, REGION)
    assert (seen.state, seen.reason) == (MachineState.ENDING, "released")


async def test_a_machine_that_was_taken_back_is_known_though_its_tags_are_gone(aws: AwsMarket) -> None:
    first = await aws.provider.rent(order("styx-a1", spot=True))
    await aws.provider.rent(order("styx-a2", spot=True))
    aws.double.interrupt(first.cloud_id)
    aws.double.settle()
    aws.double.forget_tags(first.cloud_id)
    machines = {each.key: each for each in await aws.provider.list(aws.deployment, REGION)}
    assert sorted(machines) == ["styx-a1", "styx-a2"]
    lost = machines["styx-a1"]
    assert (lost.cloud_id, lost.state, lost.reason) == (first.cloud_id, MachineState.ENDED, "preempted")
    assert (lost.place, lost.spot) == (first.place, True)


async def test_a_spot_machine_that_styx_gave_back_was_not_taken(aws: AwsMarket) -> None:
    machine = await aws.provider.rent(order("styx-a1", spot=True))
    await aws.provider.release(machine.place, machine.cloud_id)
    aws.double.settle()
    [seen] = await aws.provider.list(aws.deployment, REGION)
    assert (seen.state, seen.reason) == (MachineState.ENDED, "released")


async def test_a_machine_that_somebody_stopped_is_still_there_to_be_given_back(aws: AwsMarket) -> None:
    machine = await aws.provider.rent(order("styx-a1"))
    aws.double.stop(machine.cloud_id)
    [seen] = await aws.provider.list(aws.deployment, REGION)
    assert (seen.state, seen.reason) == (MachineState.RUNNING, "stopped")


async def test_a_list_with_a_page_missing_is_an_error(aws: AwsMarket) -> None:
    for number in range(3):
        await aws.provider.rent(order(f"styx-a{number}"))
    await aws.provider.list(aws.deployment, REGION)
    [second] = [each["NextToken"] for each in aws.double.made_calls("DescribeInstances") if "NextToken" in each]
    aws.double.fail("DescribeInstances", "RequestLimitExceeded", "Request limit exceeded.", 503, NextToken=second)
    with pytest.raises(ProviderError) as caught:
        await aws.provider.list(aws.deployment, REGION)
    assert caught.value.kind is RefusalKind.THROTTLED
    assert len(await aws.provider.list(aws.deployment, REGION)) == 3


# Prices.


async def test_offers_have_todays_prices_by_zone(aws: AwsMarket) -> None:
    entries = {(each.machine_type, each.place.zone): each for each in await aws.provider.offers()}
    common = entries["m5.large", "us-east-1a"]
    assert (common.price_micros, common.spot_price_micros) == (96_000, 28_800)
    assert not common.estimate
    assert entries["m6g.large", "us-east-1b"].size.arch == "arm64"
    gpus = entries["p4d.24xlarge", "us-east-1a"].size
    assert (gpus.gpu_name, gpus.gpu_count, gpus.gpu_memory_bytes) == ("A100", 8, 40 * GIB)
    # The double has spot prices for two zones only.
    assert entries["m5.large", "us-east-1c"].spot_price_micros is None


async def test_reading_prices_is_patient_with_a_busy_amazon(aws: AwsMarket) -> None:
    aws.double.fail("DescribeInstanceTypes", "RequestLimitExceeded", "Request limit exceeded.", 503)
    assert await aws.provider.offers()


@pytest.mark.parametrize(
    ("name", "memory_mib", "people_say"),
    [
        ("A100", 40_960, "A100"),
        ("A100", 81_920, "A100-80GB"),
        ("H100", 81_920, "H100"),
        ("V100", 16_384, "V100"),
        ("V100", 32_768, "V100-32GB"),
        ("L4", 22_888, "L4"),
        ("T4", 16_384, "T4"),
        ("A10G", 22_888, "A10G"),
        ("RTX PRO Server 6000", 98_304, "RTX-PRO-6000"),
        ("Radeon Pro V520", 8192, "Radeon-Pro-V520"),
    ],
)
def test_accelerators_are_called_as_people_call_them(name: str, memory_mib: int, people_say: str) -> None:
    assert gpu_name(name, memory_mib) == people_say


def test_types_that_styx_cannot_use_are_left_out() -> None:
    part = {"Gpus": [{"Count": 0, "Name": "L4", "MemoryInfo": {"SizeInMiB": 2861}}]}
    usual = {
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "VCpuInfo": {"DefaultVCpus": 2},
        "MemoryInfo": {"SizeInMiB": 8192},
    }
    trainium = {"NeuronDevices": [{"Count": 1, "Name": "Trainium", "MemoryInfo": {"SizeInMiB": 32_768}}]}
    assert size_of(usual) == MachineSize(cpus_milli=2000, memory_bytes=8 * GIB)
    assert size_of({**usual, "GpuInfo": part}) is None
    assert size_of({**usual, "ProcessorInfo": {"SupportedArchitectures": ["arm64_mac"]}}) is None
    found = size_of({**usual, "NeuronInfo": trainium})
    assert found is not None
    assert (found.gpu_name, found.gpu_count) == ("Trainium", 1)


def test_prices_are_exact() -> None:
    assert micros("0.0104000000") == 10_400
    assert micros("21.9576420000") == 21_957_642


# The check.


@pytest.mark.parametrize(
    ("action", "said", "remedy"),
    [
        ("RunInstances", "us-east-1: renting machines", "ec2:RunInstances"),
        ("DescribeInstances", "us-east-1: listing", "ec2:Describe"),
        ("DescribeSubnets", "us-east-1: network", "ec2:DescribeSubnets"),
        ("GetParameter", "us-east-1: image", "ssm:GetParameter"),
        ("GetProducts", "prices", "pricing:GetProducts"),
    ],
)
async def test_a_check_names_what_is_missing_and_how_to_get_it(
    aws: AwsMarket, action: str, said: str, remedy: str
) -> None:
    aws.double.fail(action, *DENIED)
    report = await aws.provider.check()
    [finding] = [each for each in report.findings if not each.good]
    assert finding.what.startswith(said)
    assert remedy in finding.remedy
    assert "docs/providers/aws.md" in finding.remedy
    assert report.identity.startswith("arn:aws:")


async def test_a_check_makes_nothing_and_tries_to_end_nothing_of_others(aws: AwsMarket) -> None:
    aws.double.plant()
    report = await aws.provider.check()
    assert report.usable
    assert len(aws.double.ledger()) == 1
    assert aws.double.made_calls("TerminateInstances") == []
    assert [each.get("DryRun") for each in aws.double.made_calls("RunInstances")] == ["true", "true"]


async def test_a_check_tries_to_end_a_machine_of_styx_and_does_not(aws: AwsMarket) -> None:
    await aws.provider.rent(order("styx-a1"))
    report = await aws.provider.check()
    assert report.usable
    assert [each.get("DryRun") for each in aws.double.made_calls("TerminateInstances")] == ["true"]
    assert [each.state for each in aws.double.ledger()] == [MachineState.STARTING]


async def test_the_policy_in_the_documents_allows_every_call_that_is_made(aws: AwsMarket) -> None:
    machine = await aws.provider.rent(order("styx-a1", spot=True))
    await aws.provider.list(aws.deployment, REGION)
    await aws.provider.offers()
    await aws.provider.check()
    await aws.provider.release(machine.place, machine.cloud_id)
    async with another(replace(settings(aws.double), security_groups=("sg-1",), subnets=("subnet-1",))) as configured:
        await configured.check()
    # Who one is may be asked by everybody.
    made = {call.action for call in aws.double.calls} - {"GetCallerIdentity"}
    other = {"GetParameter": "ssm", "GetProducts": "pricing"}
    [text] = re.findall(r"```json\n(.*?)```", (ROOT / "docs/providers/aws.md").read_text(), re.DOTALL)
    allowed = {action for statement in json.loads(text)["Statement"] for action in statement["Action"]}
    # Tags are made by the call that makes the machine, and are a right of their own; a role is only passed on.
    assert {f"{other.get(action, 'ec2')}:{action}" for action in made} | {"ec2:CreateTags", "iam:PassRole"} == allowed


async def test_a_check_without_regions_says_so() -> None:
    async with another(AwsSettings(regions=())) as provider:
        report = await provider.check()
    assert [finding.what for finding in report.findings] == ["no region is configured"]

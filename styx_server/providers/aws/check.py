"""Whether an account can be used: asks for everything that Styx will ask for, and changes nothing.

What would make or end a machine is asked as a dry run, which EC2 answers with "you could have". Blocks; called in a
thread. The policy that satisfies all of it is in `docs/providers/aws.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from styx_server.core.machines.instance import TAG_DEPLOYMENT, TAG_KEY, Boot, InstanceId, RentOrder
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.providers.aws.account import Account
from styx_server.providers.aws.catalog import PRICING_REGION
from styx_server.providers.aws.client import Clients
from styx_server.providers.aws.errors import code_of, is_refusal, refusal
from styx_server.providers.aws.request import PROVIDER, run_request
from styx_server.providers.aws.settings import AwsSettings
from styx_server.providers.ports import CheckReport, Finding, ProviderError

POLICY: Final = "the policy in docs/providers/aws.md"
SMALL_TYPE: Final = "t3.micro"
"""Every region has it; nothing is made."""


def check(clients: Clients, account: Account, settings: AwsSettings) -> CheckReport:
    """Who Styx is, and what it may do in each region."""
    if not settings.regions:
        none = Finding(good=False, what="no region is configured", remedy="set aws.regions, for example us-east-1")
        return CheckReport(provider=PROVIDER, identity="", findings=(none,))
    identity = ""

    def who() -> str:
        nonlocal identity
        identity = clients.get("sts", settings.regions[0]).get_caller_identity()["Arn"]
        return f"credentials of {identity}"

    credentials = _try(who, "credentials", "set aws.profile, or run `aws configure`")
    if not credentials.good:
        return CheckReport(provider=PROVIDER, identity="", findings=(credentials,))
    findings = [credentials, _prices(clients)]
    for region in settings.regions:
        findings += _region(clients, account, settings, region)
    findings += _strangers(account, settings)
    return CheckReport(provider=PROVIDER, identity=identity, findings=tuple(findings))


def _region(clients: Clients, account: Account, settings: AwsSettings, region: str) -> Iterator[Finding]:
    ec2 = clients.get("ec2", region)

    def see() -> str:
        ec2.describe_instances(MaxResults=5)
        ec2.describe_spot_instance_requests(MaxResults=5)
        ec2.describe_instance_types(InstanceTypes=[SMALL_TYPE])
        ec2.describe_instance_type_offerings(MaxResults=5)
        ec2.describe_spot_price_history(MaxResults=5)
        return f"{region}: machines, types and spot prices can be listed"

    def boot() -> str:
        found = account.image(region, account.image_name(_order(region, spot=False).offer.size))
        return f"{region}: machines boot {found.ami}"

    yield _try(see, f"{region}: listing", f"allow ec2:Describe*; see {POLICY}")
    yield _network(account, region)
    image = _try(
        boot, f"{region}: image", f"allow ssm:GetParameter and ec2:DescribeImages (see {POLICY}), or aws.images"
    )
    yield image
    if image.good:
        for spot in (False, True):
            yield _may_rent(ec2, account, settings, _order(region, spot=spot))
    yield _may_release(ec2, region)


def _prices(clients: Clients) -> Finding:
    def work() -> str:
        clients.get("pricing", PRICING_REGION).get_products(ServiceCode="AmazonEC2", MaxResults=1)
        return "prices can be read"

    return _try(work, "prices", f"allow pricing:GetProducts; see {POLICY}")


def _network(account: Account, region: str) -> Finding:
    remedy = f"`aws ec2 create-default-vpc --region {region}`, or set aws.subnets"

    def work() -> str:
        subnets = account.own_subnets(region) or account.default_subnets(region)
        zones = ", ".join(sorted({subnet.zone for subnet in subnets}))
        account.groups(region)
        return f"{region}: machines can be put into {zones}" if zones else ""

    found = _try(work, f"{region}: network", f"allow ec2:DescribeSubnets and ec2:DescribeSecurityGroups; see {POLICY}")
    return (
        found if found.what else Finding(good=False, what=f"{region}: there is no subnet for machines", remedy=remedy)
    )


def _may_rent(ec2: Any, account: Account, settings: AwsSettings, order: RentOrder) -> Finding:
    region = order.offer.place.region
    how = "spot machines" if order.offer.spot else "machines"

    def work() -> str:
        image = account.image(region, account.image_name(order.offer.size))
        subnets = account.own_subnets(region)
        subnet_id = subnets[0].subnet_id if subnets else ""
        asked = run_request(order, image, subnet_id, account.groups(region), settings)
        del asked["ClientToken"]
        _dry(lambda: ec2.run_instances(**asked, DryRun=True))
        return f"{region}: {how} can be rented"

    remedy = f"allow ec2:RunInstances, ec2:CreateTags and, with aws.instance_profile, iam:PassRole; see {POLICY}"
    return _try(work, f"{region}: renting {how}", remedy)


def _may_release(ec2: Any, region: str) -> Finding:
    """Tried on a machine of Styx if there is one: the policy allows no other to be ended."""

    def work() -> str:
        answer = ec2.describe_instances(
            Filters=[
                {"Name": "tag-key", "Values": [TAG_DEPLOYMENT]},
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
            ]
        )
        found = [each["InstanceId"] for some in answer["Reservations"] for each in some["Instances"]]
        if not found:
            return f"{region}: ending machines was not tried, there is none of Styx's"
        _dry(lambda: ec2.terminate_instances(InstanceIds=found[:1], DryRun=True))
        return f"{region}: machines can be ended"

    return _try(work, f"{region}: ending machines", f"allow ec2:TerminateInstances; see {POLICY}")


def _strangers(account: Account, settings: AwsSettings) -> Iterator[Finding]:
    """What is configured and in no region of the configuration: most often a misspelt id."""

    def of(found: Callable[[str], set[str]], wanted: tuple[str, ...]) -> set[str]:
        seen: set[str] = set()
        for region in settings.regions:
            seen |= found(region)
        return set(wanted) - seen

    try:
        lost = of(lambda region: {each.subnet_id for each in account.own_subnets(region)}, settings.subnets)
        lost |= of(lambda region: set(account.groups(region)), settings.security_groups)
    except Exception as error:
        if not is_refusal(error):
            raise
        # Said already, of the region where it happened.
        return
    for each in sorted(lost):
        yield Finding(
            good=False, what=f"{each} is in none of the regions", remedy="mend aws.subnets or aws.security_groups"
        )


def _dry(call: Callable[[], object]) -> None:
    """EC2 answers a dry run that may be done with an error of its own."""
    try:
        call()
    except Exception as error:
        if code_of(error) != "DryRunOperation":
            raise


def _try(work: Callable[[], str], what: str, remedy: str) -> Finding:
    try:
        return Finding(good=True, what=work())
    except ProviderError as error:
        return Finding(good=False, what=error.message, remedy=remedy)
    except Exception as error:
        if not is_refusal(error):
            raise
        return Finding(good=False, what=refusal(error, what).message, remedy=remedy)


def _order(region: str, *, spot: bool) -> RentOrder:
    """An order like any other, which is only ever sent as a dry run."""
    size = MachineSize(cpus_milli=2000, memory_bytes=1024**3)
    place = Place(provider=PROVIDER, region=region)
    return RentOrder(
        instance_id=InstanceId(0),
        key="styx-check",
        offer=Offer(place=place, machine_type=SMALL_TYPE, size=size, spot=spot, price_micros=0),
        tags={TAG_DEPLOYMENT: "check", TAG_KEY: "styx-check"},
        boot=Boot(server_urls=(), join_token="", agent_name="check"),
    )

"""The market of `aws`: EC2's double, which is moto behind a layer of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from styx_server.core.machines.instance import (
    TAG_DEPLOYMENT,
    TAG_EXPIRES,
    TAG_INSTANCE,
    TAG_KEY,
    Boot,
    CloudMachine,
    InstanceId,
    RentOrder,
)
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.aws import AwsProvider, AwsSettings
from tests.providers.aws_double import PRICES, REGION, AwsDouble, environment
from tests.providers.market import PAGE

SIZE = MachineSize(cpus_milli=2000, memory_bytes=8 * 1024**3)

REFUSALS = {
    RefusalKind.CAPACITY: ("InsufficientInstanceCapacity", "We currently do not have sufficient capacity.", 500),
    RefusalKind.QUOTA: ("VcpuLimitExceeded", "You have requested more vCPU capacity than your limit of 0.", 400),
    RefusalKind.PERMISSION: ("UnauthorizedOperation", "You are not authorized to perform this operation.", 403),
    RefusalKind.CREDENTIALS: ("AuthFailure", "AWS was not able to validate the provided access credentials", 401),
    RefusalKind.THROTTLED: ("RequestLimitExceeded", "Request limit exceeded.", 503),
    RefusalKind.BAD_IMAGE: ("InvalidAMIID.NotFound", "The image id '[ami-0]' does not exist", 400),
    RefusalKind.BAD_TYPE: ("Unsupported", "Your requested instance type is not supported in this zone.", 400),
    RefusalKind.BAD_REQUEST: ("InvalidParameterCombination", "The parameters do not go together.", 400),
    RefusalKind.UNAVAILABLE: ("InternalError", "An internal error has occurred", 500),
    RefusalKind.TIMEOUT: ("GatewayTimeout", "The gateway has waited for too long", 504),
}


class AwsMarket:
    """EC2's double, and the provider that rents from it."""

    deployment = "d1"

    def __init__(self, double: AwsDouble) -> None:
        self.double = double
        self.provider = AwsProvider(settings(double))

    def order(self, key: str, *, number: int = 1, spot: bool = False) -> RentOrder:
        """A machine of a common type in a certain zone."""
        return order(key, number=number, spot=spot, deployment=self.deployment)

    async def ledger(self) -> Sequence[CloudMachine]:
        """As the double keeps it."""
        return self.double.ledger()

    async def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        """EC2 has words for everything."""
        code, message, status = REFUSALS[kind]
        self.double.fail("RunInstances", code, message, status, times)

    async def lose_answer(self, times: int = 1) -> None:
        """The connection breaks after the work is done."""
        self.double.lose_answer(times=times)

    async def preempt(self, cloud_id: str) -> None:
        """A spot interruption."""
        self.double.interrupt(cloud_id)

    async def plant_foreign(self) -> str:
        """A machine without tags."""
        return self.double.plant()

    async def settle(self) -> None:
        """All states move on."""
        self.double.settle()

    async def close(self) -> None:
        """The provider first, whose connections the double's threads wait on."""
        await self.provider.close()
        self.double.close()


def settings(double: AwsDouble) -> AwsSettings:
    """The double's account, in one region."""
    return AwsSettings(regions=(REGION,), endpoint_url=double.url, machine_types=tuple(PRICES), page_size=PAGE)


def order(key: str, *, number: int = 1, spot: bool = False, deployment: str = AwsMarket.deployment) -> RentOrder:
    """A good order."""
    price = 28_800 if spot else 96_000
    place = Place(provider="aws", region=REGION, zone=f"{REGION}a")
    return RentOrder(
        instance_id=InstanceId(number),
        key=key,
        offer=Offer(place=place, machine_type="m5.large", size=SIZE, spot=spot, price_micros=price),
        tags={
            TAG_DEPLOYMENT: deployment,
            TAG_INSTANCE: f"i{number}",
            TAG_KEY: key,
            TAG_EXPIRES: "20300101t000000z",
        },
        boot=Boot(server_urls=("https://styx.test:7090",), join_token="secret", agent_name=f"i{number}"),
        user_data="#cloud-config\n",
    )


@asynccontextmanager
async def open_market(_: Path) -> AsyncIterator[AwsMarket]:
    """An account with nothing in it."""
    double = AwsDouble()
    with environment(double.environment):
        market = AwsMarket(double)
        try:
            yield market
        finally:
            await market.close()

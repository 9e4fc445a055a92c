"""The provider `gcp` with its double, for the suite of all providers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from styx_server.core.machines.instance import (
    TAG_DEPLOYMENT,
    TAG_EXPIRES,
    TAG_INSTANCE,
    TAG_KEY,
    TAG_POOL,
    Boot,
    CloudMachine,
    InstanceId,
    MachineState,
    RentOrder,
)
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.gcp import GcpProvider, GcpSettings
from tests.providers.gce_double import GceDouble
from tests.providers.gce_rules import HttpError, public

DEPLOYMENT = "0f3c2a"
PLACE = Place(provider="gcp", region="us-central1", zone="us-central1-a")
OFFER = Offer(
    place=PLACE,
    machine_type="e2-standard-4",
    size=MachineSize(cpus_milli=4000, memory_bytes=16 << 30),
    spot=False,
    price_micros=128_000,
)
_STOCKOUT = (
    "The zone 'projects/test-project/zones/us-central1-a' does not have enough resources available to fulfill the "
    "request.  Try a different zone, or try again later."
)


def order(key: str, *, number: int = 1, offer: Offer = OFFER) -> RentOrder:
    """An order as the server makes them."""
    tags = {
        TAG_DEPLOYMENT: DEPLOYMENT,
        TAG_INSTANCE: str(number),
        TAG_KEY: key,
        TAG_EXPIRES: "1795000000",
        TAG_POOL: "default",
    }
    boot = Boot(server_urls=("http://10.0.0.1:8080",), join_token="t", agent_name=f"i{number}")
    return RentOrder(
        instance_id=InstanceId(number),
        key=key,
        offer=offer,
        tags=tags,
        boot=boot,
        user_data="#cloud-config\n",
        life_seconds=86_400,
    )


def settings_for(double: GceDouble) -> GcpSettings:
    """Settings that lead to the double."""
    return GcpSettings(
        project=double.project,
        regions=("us-central1",),
        api_endpoint=double.url,
        billing_endpoint=double.url,
        resources_endpoint=double.url,
        poll_seconds=0.001,
    )


class GcpMarket:
    """The provider, and a hand on its double."""

    deployment = DEPLOYMENT

    def __init__(self) -> None:
        self.double = GceDouble()
        self.provider = GcpProvider(settings_for(self.double))

    def order(self, key: str, *, number: int = 1, spot: bool = False) -> RentOrder:
        """A good order."""
        return order(key, number=number, offer=replace(OFFER, spot=spot))

    async def ledger(self) -> Sequence[CloudMachine]:
        """Every machine ever made."""
        from google.cloud import compute_v1

        from styx_server.providers.gcp.machine import machine_of

        machines = []
        for made in self.double.ledger:
            machine = machine_of(compute_v1.Instance.from_json(json.dumps(public(made))))
            machines.append(replace(machine, state=MachineState.ENDED) if "_gone" in made else machine)
        return machines

    async def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        """In Google's words: capacity and quota at the end of an operation, the rest at once."""
        match kind:
            case RefusalKind.CAPACITY:
                self.double.refuse_order("ZONE_RESOURCE_POOL_EXHAUSTED", _STOCKOUT, times=times)
            case RefusalKind.QUOTA:
                said = "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1."
                self.double.refuse_order("QUOTA_EXCEEDED", said, status=403, times=times)
            case _:
                self.double.refuse_call(_refusal(kind), times=times)

    async def lose_answer(self, times: int = 1) -> None:
        """The connection breaks before the answer."""
        self.double.lose_answers(times)

    async def preempt(self, cloud_id: str) -> None:
        """Google takes it back."""
        self.double.preempt(cloud_id)

    async def plant_foreign(self) -> str:
        """Somebody else's, with labels much like ours."""
        return self.double.plant("web-1", labels={TAG_DEPLOYMENT: "another", TAG_INSTANCE: "1"})

    async def settle(self) -> None:
        """What is under way is done."""
        self.double.settle()

    async def close(self) -> None:
        """Ends both."""
        await self.provider.close()
        self.double.close()


def _refusal(kind: RefusalKind) -> HttpError:
    """An answer that means this."""
    invalid = "Invalid value for field 'resource."
    said = {
        RefusalKind.PERMISSION: (403, "forbidden", "Required 'compute.instances.create' permission for 'projects/p'"),
        RefusalKind.CREDENTIALS: (401, "authError", "Request had invalid authentication credentials."),
        RefusalKind.THROTTLED: (403, "rateLimitExceeded", "Rate Limit Exceeded"),
        RefusalKind.BAD_IMAGE: (404, "notFound", "The resource 'projects/p/global/images/family/x' was not found"),
        RefusalKind.BAD_TYPE: (400, "invalid", f"{invalid}machineType': 'x9'. The referenced resource does not exist."),
        RefusalKind.BAD_REQUEST: (400, "invalid", f"{invalid}labels': 'X'. Label keys have lower case letters."),
        RefusalKind.UNAVAILABLE: (503, "backendError", "The service is currently unavailable."),
        RefusalKind.TIMEOUT: (504, "", "Deadline exceeded"),
    }
    if kind not in said:
        raise LookupError(f"{kind} does not come as the answer to a call")
    return HttpError(*said[kind])


@asynccontextmanager
async def open_market(_folder: Path) -> AsyncIterator[GcpMarket]:
    """A market for one test."""
    market = GcpMarket()
    try:
        yield market
    finally:
        await market.close()

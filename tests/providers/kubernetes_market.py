"""The market of Kubernetes: the provider, connected to an API server of our own (`kube_double.py`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
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
from styx_server.providers.kubernetes import KubernetesProvider, KubernetesSettings
from tests.providers.kube_double import Doc, KubeDouble, Refused, serve

REGION = "test"
NAMESPACE = "styx"
DEPLOYMENT = "deployment-1"
SPOT_NODE_LABELS = {"cloud.google.com/gke-spot": "true"}

REFUSALS: dict[RefusalKind, Callable[[], Refused]] = {
    RefusalKind.QUOTA: lambda: Refused(
        403,
        "Forbidden",
        'pods "x" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4',
    ),
    RefusalKind.PERMISSION: lambda: Refused(
        403, "Forbidden", 'pods is forbidden: User "tester" cannot create resource "pods" in the namespace "styx"'
    ),
    RefusalKind.CREDENTIALS: lambda: Refused(401, "Unauthorized", "Unauthorized"),
    RefusalKind.THROTTLED: lambda: Refused(
        429, "TooManyRequests", "too many requests, please try again later", after=3
    ),
    RefusalKind.BAD_IMAGE: lambda: Refused(
        422, "Invalid", "Pod is invalid: spec.containers[0].image", fields=["spec.containers[0].image"]
    ),
    RefusalKind.BAD_REQUEST: lambda: Refused(422, "Invalid", "Pod is invalid: spec.tolerations[0].key: Invalid value"),
    RefusalKind.UNAVAILABLE: lambda: Refused(500, "InternalError", "etcdserver: leader changed"),
    RefusalKind.TIMEOUT: lambda: Refused(504, "Timeout", "Timeout: request did not complete within requested timeout"),
}


class DoubleClock:
    """Tells the cluster's own time."""

    def __init__(self, double: KubeDouble) -> None:
        self._double = double

    def now(self) -> datetime:
        return self._double.now

    def monotonic(self) -> float:
        return self._double.now.timestamp()

    async def sleep(self, seconds: float) -> None:
        self._double.advance(seconds)


class KubernetesMarket:
    """A cluster with two plain nodes and a spot node."""

    def __init__(self, double: KubeDouble, provider: KubernetesProvider) -> None:
        self.double = double
        self.provider = provider
        self.deployment = DEPLOYMENT

    def order(self, key: str, *, number: int = 1, spot: bool = False) -> RentOrder:
        return order(key, number=number, spot=spot)

    async def ledger(self) -> Sequence[CloudMachine]:
        return [_true_state(pod) for pod in self.double.ever.values()]

    async def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        if kind not in REFUSALS:
            raise LookupError(f"the API server has no word for {kind} when a pod is made; see the list for it")
        # What is not believed is asked once more, with the kubeconfig read anew.
        tries = 2 if kind is RefusalKind.CREDENTIALS else 1
        self.double.refusals.extend(REFUSALS[kind]() for _ in range(times * tries))

    async def lose_answer(self, times: int = 1) -> None:
        self.double.losing += times

    async def preempt(self, cloud_id: str) -> None:
        self.double.shut_node_down(self.double.pods[NAMESPACE, cloud_id]["spec"]["nodeName"])

    async def plant_foreign(self) -> str:
        self.double.add_pod(NAMESPACE, "postgres-0", labels={"app": "postgres"})
        return "postgres-0"

    async def settle(self) -> None:
        self.double.settle()

    async def close(self) -> None:
        await self.provider.close()


def order(key: str, *, number: int = 1, spot: bool = False, machine_type: str = "1x2") -> RentOrder:
    """A good order for the smallest size there is."""
    size = MachineSize(cpus_milli=1000, memory_bytes=2 * 2**30)
    offer = Offer(
        place=Place(provider="kubernetes", region=REGION),
        machine_type=machine_type,
        size=size,
        spot=spot,
        price_micros=0,
    )
    return RentOrder(
        instance_id=InstanceId(number),
        key=key,
        offer=offer,
        tags={
            TAG_DEPLOYMENT: DEPLOYMENT,
            TAG_INSTANCE: str(number),
            TAG_KEY: key,
            TAG_EXPIRES: "2026-01-08t00-00-00z",
            TAG_POOL: "default",
        },
        boot=Boot(server_urls=("http://styx.example:8080",), join_token=f"token-of-{key}", agent_name=key),
        life_seconds=604_800,
    )


@asynccontextmanager
async def open_market(folder: Path, **settings: object) -> AsyncIterator[KubernetesMarket]:
    """A fresh cluster, and the provider on it."""
    double = KubeDouble()
    double.add_node("n1")
    double.add_node("n2")
    double.add_node("n3", labels=SPOT_NODE_LABELS)
    double.nodes["n3"]["spec"]["taints"] = [
        {"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}
    ]
    async with serve(double, folder) as kubeconfig:
        base = KubernetesSettings(kubeconfig=str(kubeconfig), contexts={REGION: "test"}, namespace=NAMESPACE)
        provider = KubernetesProvider(replace(base, **settings), DoubleClock(double))  # type: ignore[arg-type]
        market = KubernetesMarket(double, provider)
        try:
            yield market
        finally:
            await market.close()


def _true_state(pod: Doc) -> CloudMachine:
    """What became of a pod, read without the code under test."""
    metadata, phase = pod["metadata"], pod["status"]["phase"]
    states = {"Pending": MachineState.STARTING, "Running": MachineState.RUNNING}
    state = states.get(phase, MachineState.ENDED)
    if metadata.get("deletionTimestamp"):
        state = MachineState.ENDING
    if pod.get("gone"):
        state = MachineState.ENDED
    labels = metadata.get("labels") or {}
    return CloudMachine(
        place=Place(provider="kubernetes", region=REGION),
        cloud_id=metadata["name"],
        state=state,
        key=labels.get(TAG_KEY, ""),
        tags=labels,
    )

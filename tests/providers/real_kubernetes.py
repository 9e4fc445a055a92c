"""The market of a real kube-apiserver, for which `STYX_TEST_KUBECONFIG` names a kubeconfig; `conftest.py` adds it then.

The server's own rules are under test here; nodes and kubelets need not be there. Two nodes are made, and what a kubelet
would say is said by this. Makes a namespace and deletes it; touches nothing else. Not for a cluster that people use: on
one with controllers the nodes are taken for broken ones after a while.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web

from styx_server.core.machines.instance import TAG_KEY, CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.kubernetes import KubernetesProvider, KubernetesSettings
from tests.providers.kube_double import Doc, write_kubeconfig
from tests.providers.kube_proxy import KubeProxy
from tests.providers.kubernetes_market import DEPLOYMENT, REFUSALS, REGION, SPOT_NODE_LABELS, order


class RealKubeMarket:
    """A namespace and two nodes of a real server."""

    def __init__(self, proxy: KubeProxy, provider: KubernetesProvider, tag: str) -> None:
        self.provider = provider
        self.deployment = DEPLOYMENT
        self.proxy = proxy
        self._tag = tag
        self._pods = f"/api/v1/namespaces/{tag}/pods"

    def order(self, key: str, *, number: int = 1, spot: bool = False) -> RentOrder:
        return order(key, number=number, spot=spot)

    async def ledger(self) -> Sequence[CloudMachine]:
        return [await self._true_state(name, uid) for _, name, uid in self.proxy.made]

    async def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        if kind not in REFUSALS:
            raise LookupError(f"the API server has no word for {kind} when a pod is made; see the list for it")
        tries = 2 if kind is RefusalKind.CREDENTIALS else 1
        self.proxy.refusals.extend(REFUSALS[kind]() for _ in range(times * tries))

    async def lose_answer(self, times: int = 1) -> None:
        self.proxy.losing += times

    async def preempt(self, cloud_id: str) -> None:
        message = "Pod was terminated in response to imminent node shutdown."
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message}
        status = {"phase": "Failed", "reason": "Terminated", "message": message, "conditions": [condition]}
        await self.proxy.do("PATCH", f"{self._pods}/{cloud_id}/status", {"status": status})

    async def plant_foreign(self) -> str:
        metadata = {"name": "postgres-0", "labels": {"app": "postgres"}}
        spec = {"containers": [{"name": "main", "image": "postgres"}], "nodeSelector": {"styx-test": self._tag}}
        pod = await self.proxy.do(
            "POST", self._pods, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        )
        self.proxy.made.append((self._tag, "postgres-0", pod["metadata"]["uid"]))
        return "postgres-0"

    async def settle(self) -> None:
        for pod in (await self.proxy.do("GET", self._pods))["items"]:
            name = pod["metadata"]["name"]
            if pod["metadata"].get("deletionTimestamp"):
                await self._forget(name)
            elif pod["status"].get("phase") == "Pending":
                await self._run(pod)

    async def close(self) -> None:
        await self.provider.close()

    async def clear(self) -> None:
        """Leaves nothing behind."""
        for pod in (await self.proxy.do("GET", self._pods))["items"]:
            await self._forget(pod["metadata"]["name"])
        await self.proxy.ask("DELETE", f"/api/v1/namespaces/{self._tag}")
        for name in ("plain", "spot"):
            await self.proxy.ask("DELETE", f"/api/v1/nodes/{self._tag}-{name}")

    async def prepare(self) -> None:
        """Makes the namespace and the nodes."""
        await self.proxy.do(
            "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._tag}}
        )
        # Where no controller does it; without it no pod is admitted.
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        await self.proxy.ask("POST", f"/api/v1/namespaces/{self._tag}/serviceaccounts", account)
        for name, labels in (("plain", {}), ("spot", SPOT_NODE_LABELS)):
            await self._make_node(f"{self._tag}-{name}", labels)

    async def _make_node(self, name: str, labels: dict[str, str]) -> None:
        own = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "styx-test": self._tag}
        metadata = {"name": name, "labels": {**own, **labels}}
        await self.proxy.do("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        # Who makes a node is told that it is not ready, and that stays where no controller looks.
        await self.proxy.do("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}})
        room = {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        await self.proxy.do("PATCH", f"/api/v1/nodes/{name}/status", {"status": status})

    async def _run(self, pod: Doc) -> None:
        name = pod["metadata"]["name"]
        if not pod["spec"].get("nodeName"):
            kind = "spot" if pod["metadata"].get("labels", {}).get("styx-spot") == "true" else "plain"
            target = {"apiVersion": "v1", "kind": "Node", "name": f"{self._tag}-{kind}"}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            # A scheduler may have been quicker.
            status, answer = await self.proxy.ask("POST", f"{self._pods}/{name}/binding", binding)
            assert status in {201, 409}, answer
        await self.proxy.do("PATCH", f"{self._pods}/{name}/status", {"status": {"phase": "Running"}})

    async def _forget(self, name: str) -> None:
        await self.proxy.ask("DELETE", f"{self._pods}/{name}", {"gracePeriodSeconds": 0})

    async def _true_state(self, name: str, uid: str) -> CloudMachine:
        found, pod = await self.proxy.ask("GET", f"{self._pods}/{name}")
        if found != 200 or pod["metadata"]["uid"] != uid:
            state, labels = MachineState.ENDED, {TAG_KEY: name}
        else:
            states = {"Pending": MachineState.STARTING, "Running": MachineState.RUNNING}
            state = states.get(pod["status"].get("phase", ""), MachineState.ENDED)
            labels = pod["metadata"].get("labels") or {}
            if pod["metadata"].get("deletionTimestamp"):
                state = MachineState.ENDING
        place = Place(provider="kubernetes", region=REGION)
        return CloudMachine(place=place, cloud_id=name, state=state, key=labels.get(TAG_KEY, ""), tags=labels)


@asynccontextmanager
async def open_market(folder: Path) -> AsyncIterator[RealKubeMarket]:
    """A namespace of its own on the server that the variable names."""
    async with market_at(Path(os.environ["STYX_TEST_KUBECONFIG"]), folder) as market:
        yield market


@asynccontextmanager
async def market_at(kubeconfig: Path, folder: Path) -> AsyncIterator[RealKubeMarket]:
    """The same, for any kubeconfig."""
    from kubernetes_asyncio import config

    client: Any = await config.new_client_from_config(config_file=str(kubeconfig), persist_config=False)
    proxy = KubeProxy(client)
    runner = web.AppRunner(proxy.app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        tag = f"styx-test-{uuid4().hex[:8]}"
        told = write_kubeconfig(folder, f"http://127.0.0.1:{runner.addresses[0][1]}", "of-the-proxy")
        settings = KubernetesSettings(
            kubeconfig=str(told), contexts={REGION: "test"}, namespace=tag, node_selector={"styx-test": tag}
        )
        market = RealKubeMarket(proxy, KubernetesProvider(settings), tag)
        await market.prepare()
        try:
            yield market
        finally:
            await market.clear()
            await market.close()
    finally:
        await runner.cleanup()
        await client.close()

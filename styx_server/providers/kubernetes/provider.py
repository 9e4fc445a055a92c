"""The verbs on clusters: offers, rent, release, list. Next: `namespace.py`, which makes and deletes pods."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from styx_server.clock import Clock, SystemClock
from styx_server.core.machines.instance import CloudMachine, RentOrder
from styx_server.core.machines.offer import CatalogEntry, Place
from styx_server.core.machines.refusal import RULES, RefusalKind, Scope
from styx_server.providers.kubernetes import check
from styx_server.providers.kubernetes.cluster import Call, Cluster, current_context
from styx_server.providers.kubernetes.namespace import FOREIGN, Namespace
from styx_server.providers.kubernetes.nodes import entries_of, read_nodes
from styx_server.providers.kubernetes.pods import PROVIDER, Pod, ended_since, machine_of
from styx_server.providers.kubernetes.settings import KubernetesSettings
from styx_server.providers.ports import CheckReport, Finding, ProviderError

_OVER: Final = "status.phase!=Succeeded,status.phase!=Failed"
_TIDIED_AT_ONCE: Final = 20
# Clusters are asked at the same time, and few at once.
_CLUSTERS_AT_ONCE: Final = 8


class KubernetesProvider:
    """Pods of the clusters in `settings`. Connects at the first call."""

    def __init__(self, settings: KubernetesSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._clusters: dict[str, Cluster] = {
            region: Cluster(region, context, settings) for region, context in settings.contexts.items()
        }
        self._naming = asyncio.Lock()

    @property
    def name(self) -> str:
        """`kubernetes`."""
        return PROVIDER

    async def offers(self) -> Sequence[CatalogEntry]:
        """Sizes carved from what is free now on the nodes of all clusters; those that do not answer have none.

        Raises:
            ProviderError: no cluster answered.
        """
        clusters = await self._all()
        at_once = asyncio.Semaphore(_CLUSTERS_AT_ONCE)
        failures: list[ProviderError] = []

        async def of(cluster: Cluster) -> Sequence[CatalogEntry]:
            async with at_once:
                try:
                    return await self._offers_of(cluster)
                except ProviderError as error:
                    failures.append(error)
                    return ()

        found = await asyncio.gather(*(of(cluster) for cluster in clusters))
        if len(failures) == len(clusters):
            raise failures[0]
        return [entry for entries in found for entry in entries]

    async def rent(self, order: RentOrder) -> CloudMachine:
        """Makes the secret with the boot script, and the pod. Whether a node has room is told by `list`, soon.

        Raises:
            ProviderError: the cluster refused, or may have done it without saying so.
        """
        here = await self._of(order.offer.place.region)
        made = await here.make_secret(order)
        try:
            pod = await here.make_pod(order)
        except ProviderError as error:
            # Refused for good: nothing stays. What may be asked again finds its secret.
            if error.fate_known and not RULES[error.kind].repeats and (made or error.code != FOREIGN):
                with suppress(ProviderError):
                    await here.delete_secret(order.key)
            raise
        await here.give_secret(pod)
        return self._machine(pod, here)

    async def release(self, place: Place, cloud_id: str) -> None:
        """Deletes the pod and its secret.

        Raises:
            ProviderError: the cluster refused, or the pod is somebody else's.
        """
        here = await self._of(place.region)
        pod = await here.read(cloud_id)
        if pod is None:
            await here.delete_secret(cloud_id)
        else:
            await here.delete(pod)

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """All pods of a deployment in a cluster. Some that ended long ago are deleted on the way.

        Raises:
            ProviderError: the list could not be read to its end.
        """
        here = await self._of(region)
        pods = await here.list(deployment)
        await self._tidy(here, pods)
        return [self._machine(pod, here) for pod in pods]

    async def check(self) -> CheckReport:
        """Who Styx is to each cluster, what it may do there, and whether a pod could be made."""
        try:
            clusters = await self._all()
        except ProviderError as error:
            finding = Finding(good=False, what=error.message, remedy="kubectl config get-contexts")
            return CheckReport(provider=self.name, identity="", findings=(finding,))
        results = [await check.look(cluster, self._settings) for cluster in clusters]
        identities = [result.identity for result in results if result.identity]
        return CheckReport(
            provider=self.name,
            identity=", ".join(identities),
            findings=tuple(finding for result in results for finding in result.findings),
        )

    async def close(self) -> None:
        """Ends all connections."""
        for cluster in self._clusters.values():
            await cluster.close()

    async def _all(self) -> Sequence[Cluster]:
        """The clusters; without any in the settings the kubeconfig's current one."""
        async with self._naming:
            if not self._clusters:
                context = await asyncio.to_thread(current_context, self._settings)
                if "/" in context:
                    raise ProviderError(
                        RefusalKind.BAD_REQUEST,
                        f"context {context} has a / in its name and cannot be a region; give it a short name with "
                        f'the setting `contexts` of kubernetes, as in {{ prod = "{context}" }}',
                        code="BadContextName",
                        scope=Scope.PROVIDER,
                    )
                self._clusters = {context: Cluster(context, context, self._settings)}
            return list(self._clusters.values())

    async def _of(self, region: str) -> Namespace:
        clusters = await self._all()
        for cluster in clusters:
            if cluster.region == region:
                return Namespace(cluster, self._settings)
        known = ", ".join(sorted(each.region for each in clusters))
        raise ProviderError(
            RefusalKind.BAD_REQUEST,
            f"no cluster is called {region!r}; there are {known}: add it to the setting `contexts` of kubernetes",
            code="UnknownRegion",
            scope=Scope.REGION,
        )

    async def _offers_of(self, cluster: Cluster) -> Sequence[CatalogEntry]:
        nodes = await cluster.pages(Call.LIST_NODES, "list nodes")
        pods = await cluster.pages(Call.LIST_ALL_PODS, "list pods of all namespaces", field_selector=_OVER)
        return entries_of(read_nodes(nodes, pods, self._settings), cluster.region, self._settings, self._clock.now())

    def _machine(self, pod: Pod, here: Namespace) -> CloudMachine:
        return machine_of(pod, here.region, self._clock.now(), self._settings.unschedulable_seconds)

    async def _tidy(self, here: Namespace, pods: Iterable[Pod]) -> None:
        """Deletes what has ended long ago: a cluster keeps it until somebody does. The next list goes on."""
        before = self._clock.now() - timedelta(seconds=self._settings.keep_ended_seconds)
        ends = ((ended_since(pod), pod) for pod in pods)
        old = [pod for end_time, pod in ends if end_time is not None and end_time < before]
        for pod in old[:_TIDIED_AT_ONCE]:
            with suppress(ProviderError):
                await here.delete(pod)

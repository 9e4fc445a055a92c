"""The verbs on clusters: offers, rent, release, list. Next: `check.py`, which says why they would not work.

A pod's name is the key of its order, so a cluster itself refuses a second one. A pod is adopted only when its labels
say that this very order made it; one of anybody else is never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from styx_server.clock import Clock, SystemClock
from styx_server.core.errors import InvalidRequest
from styx_server.core.machines.instance import TAG_DEPLOYMENT, CloudMachine, RentOrder
from styx_server.core.machines.offer import CatalogEntry, Place
from styx_server.core.machines.refusal import RULES, RefusalKind, Scope
from styx_server.providers.kubernetes import check
from styx_server.providers.kubernetes.cluster import Call, Cluster, current_context
from styx_server.providers.kubernetes.errors import ClusterError
from styx_server.providers.kubernetes.manifest import (
    label_value,
    owned_by,
    pod_of,
    pod_selector,
    secret_name,
    secret_of,
)
from styx_server.providers.kubernetes.nodes import entries_of, read_nodes
from styx_server.providers.kubernetes.pods import PROVIDER, Pod, ended_since, is_ours, machine_of
from styx_server.providers.kubernetes.settings import KubernetesSettings
from styx_server.providers.ports import CheckReport, Finding, ProviderError

_OVER: Final = "status.phase!=Succeeded,status.phase!=Failed"
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
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
        cluster = await self._of(order.offer.place.region)
        await self._make_secret(cluster, order)
        try:
            pod = await self._make_pod(cluster, order)
        except ProviderError as error:
            # Refused for good: nothing stays. What may be asked again finds its secret.
            if error.fate_known and not RULES[error.kind].repeats:
                await self._delete_secret(cluster, order.key)
            raise
        await self._give_secret(cluster, pod)
        return self._machine(pod, cluster)

    async def release(self, place: Place, cloud_id: str) -> None:
        """Deletes the pod and its secret.

        Raises:
            ProviderError: the cluster refused, or the pod is somebody else's.
        """
        cluster = await self._of(place.region)
        pod = await self._read(cluster, cloud_id)
        if pod is None:
            await self._delete_secret(cluster, cloud_id)
        elif is_ours(pod):
            await self._delete(cluster, pod)
        else:
            raise _foreign(cluster, cloud_id, self._settings.namespace)

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """All pods of a deployment in a cluster. Those that ended long ago are deleted on the way.

        Raises:
            ProviderError: the list could not be read to its end.
        """
        cluster = await self._of(region)
        pods = await cluster.pages(
            Call.LIST_PODS, "list pods", self._settings.namespace, label_selector=pod_selector(deployment)
        )
        ours = [pod for pod in pods if is_ours(pod)]
        await self._tidy(cluster, ours)
        return [self._machine(pod, cluster) for pod in ours]

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
                        "the setting kubernetes_contexts, as in prod=" + context,
                        code="BadContextName",
                        scope=Scope.PROVIDER,
                    )
                self._clusters = {context: Cluster(context, context, self._settings)}
            return list(self._clusters.values())

    async def _of(self, region: str) -> Cluster:
        clusters = await self._all()
        for cluster in clusters:
            if cluster.region == region:
                return cluster
        known = ", ".join(sorted(each.region for each in clusters))
        raise ProviderError(
            RefusalKind.BAD_REQUEST,
            f"no cluster is called {region!r}; there are {known}: add it to the setting kubernetes_contexts",
            code="UnknownRegion",
            scope=Scope.REGION,
        )

    async def _offers_of(self, cluster: Cluster) -> Sequence[CatalogEntry]:
        nodes = await cluster.pages(Call.LIST_NODES, "list nodes")
        pods = await cluster.pages(Call.LIST_ALL_PODS, "list pods of all namespaces", field_selector=_OVER)
        return entries_of(read_nodes(nodes, pods, self._settings), cluster.region, self._settings, self._clock.now())

    def _machine(self, pod: Pod, cluster: Cluster) -> CloudMachine:
        return machine_of(pod, cluster.region, self._clock.now(), self._settings.unschedulable_seconds)

    async def _make_pod(self, cluster: Cluster, order: RentOrder) -> Pod:
        namespace = self._settings.namespace
        doing = f"make pod {order.key} in namespace {namespace}"
        try:
            return await cluster.call(Call.MAKE_POD, doing, namespace, pod_of(order, self._settings))
        except ClusterError as error:
            if error.reason != "AlreadyExists":
                raise
        return await self._adopt(cluster, order)

    async def _adopt(self, cluster: Cluster, order: RentOrder) -> Pod:
        """The pod that has the name already, if it is this order's."""
        pod = await self._read(cluster, order.key)
        if pod is None:
            raise ProviderError(
                RefusalKind.UNAVAILABLE,
                f"pod {order.key} of cluster {cluster.region} was there and is gone; the same order can be made again",
                code="Gone",
            )
        labels = pod["metadata"].get("labels") or {}
        deployment = label_value(order.tags.get(TAG_DEPLOYMENT, ""))
        if is_ours(pod) and labels.get(TAG_DEPLOYMENT, "") == deployment:
            return pod
        raise _foreign(cluster, order.key, self._settings.namespace)

    async def _make_secret(self, cluster: Cluster, order: RentOrder) -> None:
        namespace = self._settings.namespace
        try:
            secret = secret_of(order)
        except InvalidRequest as error:
            message = f"the machine cannot be booted: {error}"
            raise ProviderError(RefusalKind.BAD_REQUEST, message, code="BadBoot") from error
        doing = f"make secret {secret_name(order.key)} in namespace {namespace}"
        try:
            await cluster.call(Call.MAKE_SECRET, doing, namespace, secret)
        except ClusterError as error:
            # Of an earlier call for the same order, which says the same.
            if error.reason != "AlreadyExists":
                raise

    async def _give_secret(self, cluster: Cluster, pod: Pod) -> None:
        """Lets the cluster delete the secret with the pod. Where that fails, whoever deletes the pod does it."""
        if pod["metadata"].get("deletionTimestamp"):
            return
        name, namespace = secret_name(pod["metadata"]["name"]), self._settings.namespace
        with suppress(ProviderError):
            await cluster.call(
                Call.PATCH_SECRET,
                f"change secret {name} in namespace {namespace}",
                name,
                namespace,
                owned_by(pod),
                _content_type="application/merge-patch+json",
            )

    async def _delete_secret(self, cluster: Cluster, key: str) -> None:
        name, namespace = secret_name(key), self._settings.namespace
        doing = f"delete secret {name} in namespace {namespace}"
        try:
            await cluster.call(Call.DELETE_SECRET, doing, name, namespace)
        except ClusterError as error:
            if error.status != _NOT_FOUND:
                raise

    async def _delete(self, cluster: Cluster, pod: Pod) -> None:
        """Deletes just the pod that was looked at, and its secret."""
        metadata = pod["metadata"]
        name, namespace = metadata["name"], self._settings.namespace
        options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        doing = f"delete pod {name} in namespace {namespace}"
        try:
            await cluster.call(Call.DELETE_POD, doing, name, namespace, body=options)
        except ClusterError as error:
            # Gone, or another one has its name by now.
            if error.status not in {_NOT_FOUND, _CONFLICT}:
                raise
        await self._delete_secret(cluster, name)

    async def _read(self, cluster: Cluster, name: str) -> Pod | None:
        namespace = self._settings.namespace
        try:
            return await cluster.call(Call.READ_POD, f"read pod {name} in namespace {namespace}", name, namespace)
        except ClusterError as error:
            if error.status != _NOT_FOUND:
                raise
            return None

    async def _tidy(self, cluster: Cluster, pods: Sequence[Pod]) -> None:
        """Deletes what has ended long ago: a cluster keeps it until somebody does. The next list tries again."""
        before = self._clock.now() - timedelta(seconds=self._settings.keep_ended_seconds)
        for pod in pods:
            end_time = ended_since(pod)
            if end_time is not None and end_time < before:
                with suppress(ProviderError):
                    await self._delete(cluster, pod)


def _foreign(cluster: Cluster, name: str, namespace: str) -> ProviderError:
    return ProviderError(
        RefusalKind.BAD_REQUEST,
        f"pod {name} in namespace {namespace} of cluster {cluster.region} is not of this Styx and is left alone; "
        "give Styx a namespace of its own with the setting kubernetes_namespace",
        code="Foreign",
        scope=Scope.NOTHING,
    )

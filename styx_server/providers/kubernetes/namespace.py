"""The pods and secrets of one namespace of one cluster: made once for each order, read, deleted.

A pod's name is the key of its order, so a cluster itself refuses a second one. A pod is adopted only when its labels
say that this very order made it; one of anybody else is never touched. Next: `manifest.py`, what they look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from styx_server.core.errors import InvalidRequest
from styx_server.core.machines.instance import TAG_DEPLOYMENT, RentOrder
from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.kubernetes.cluster import Call, Cluster
from styx_server.providers.kubernetes.errors import ClusterError
from styx_server.providers.kubernetes.manifest import (
    label_value,
    owned_by,
    pod_of,
    pod_selector,
    secret_name,
    secret_of,
)
from styx_server.providers.kubernetes.pods import Pod, is_ours
from styx_server.providers.kubernetes.settings import KubernetesSettings
from styx_server.providers.ports import ProviderError

FOREIGN: Final = "Foreign"
"""Code of the error about a pod of somebody else."""

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class Namespace:
    """One, as `settings` names it. Every method may raise ProviderError."""

    def __init__(self, cluster: Cluster, settings: KubernetesSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._name = settings.namespace

    @property
    def region(self) -> str:
        """What the cluster is called."""
        return self._cluster.region

    async def list(self, deployment: str) -> Sequence[Pod]:
        """All pods of a deployment."""
        pods = await self._cluster.pages(
            Call.LIST_PODS, "list pods", self._name, label_selector=pod_selector(deployment)
        )
        return [pod for pod in pods if is_ours(pod)]

    async def make_pod(self, order: RentOrder) -> Pod:
        """The pod of an order: made now, or by an earlier call."""
        doing = f"make pod {order.key} in namespace {self._name}"
        try:
            return await self._cluster.call(Call.MAKE_POD, doing, self._name, pod_of(order, self._settings))
        except ClusterError as error:
            if error.reason != "AlreadyExists":
                raise
        return await self._adopt(order)

    async def _adopt(self, order: RentOrder) -> Pod:
        """The pod that has the name already, if it is this order's."""
        pod = await self.read(order.key)
        if pod is None:
            raise ProviderError(
                RefusalKind.UNAVAILABLE,
                f"pod {order.key} of cluster {self.region} was there and is gone; the same order can be made again",
                code="Gone",
            )
        labels = pod["metadata"].get("labels") or {}
        deployment = label_value(order.tags.get(TAG_DEPLOYMENT, ""))
        if is_ours(pod) and labels.get(TAG_DEPLOYMENT, "") == deployment:
            return pod
        raise self._foreign(order.key)

    async def make_secret(self, order: RentOrder) -> bool:
        """Makes the secret of an order; whether it was made just now."""
        try:
            secret = secret_of(order)
        except InvalidRequest as error:
            message = f"the machine cannot be booted: {error}"
            raise ProviderError(RefusalKind.BAD_REQUEST, message, code="BadBoot") from error
        doing = f"make secret {secret_name(order.key)} in namespace {self._name}"
        try:
            await self._cluster.call(Call.MAKE_SECRET, doing, self._name, secret)
        except ClusterError as error:
            # Of an earlier call for the same order, which says the same.
            if error.reason != "AlreadyExists":
                raise
            return False
        return True

    async def give_secret(self, pod: Pod) -> None:
        """Lets the cluster delete the secret with the pod. Where that fails, whoever deletes the pod does it."""
        if pod["metadata"].get("deletionTimestamp"):
            return
        name = secret_name(pod["metadata"]["name"])
        with suppress(ProviderError):
            await self._cluster.call(
                Call.PATCH_SECRET,
                f"change secret {name} in namespace {self._name}",
                name,
                self._name,
                owned_by(pod),
                _content_type="application/merge-patch+json",
            )

    async def delete_secret(self, key: str) -> None:
        """Deletes the secret of an order, if there is one."""
        name = secret_name(key)
        doing = f"delete secret {name} in namespace {self._name}"
        try:
            await self._cluster.call(Call.DELETE_SECRET, doing, name, self._name)
        except ClusterError as error:
            if error.status != _NOT_FOUND:
                raise

    async def delete(self, pod: Pod) -> None:
        """Deletes just the pod that was looked at, and its secret. One of somebody else is refused."""
        metadata = pod["metadata"]
        name = metadata["name"]
        if not is_ours(pod):
            raise self._foreign(name)
        options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        doing = f"delete pod {name} in namespace {self._name}"
        try:
            await self._cluster.call(Call.DELETE_POD, doing, name, self._name, body=options)
        except ClusterError as error:
            # Gone, or another one has its name by now.
            if error.status not in {_NOT_FOUND, _CONFLICT}:
                raise
        await self.delete_secret(name)

    async def read(self, name: str) -> Pod | None:
        """A pod of this name, whoever's it is."""
        try:
            return await self._cluster.call(
                Call.READ_POD, f"read pod {name} in namespace {self._name}", name, self._name
            )
        except ClusterError as error:
            if error.status != _NOT_FOUND:
                raise
            return None

    def _foreign(self, name: str) -> ProviderError:
        return ProviderError(
            RefusalKind.BAD_REQUEST,
            f"pod {name} in namespace {self._name} of cluster {self.region} is not of this Styx and is left alone; "
            "give Styx a namespace of its own with the setting `namespace` of kubernetes",
            code=FOREIGN,
            scope=Scope.NOTHING,
        )

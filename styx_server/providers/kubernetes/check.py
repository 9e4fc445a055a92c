"""Says whether pods can be rented in a cluster: who Styx is there, each permission, a pod on trial, GPUs.

Changes nothing: the pod is made as a dry run, which goes through quotas, policies and webhooks and is then forgotten.
Next: `docs/providers/kubernetes.md`, with the permissions to copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from styx_server.core.machines.instance import Boot, InstanceId, RentOrder
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.providers.kubernetes.cluster import Call, Cluster
from styx_server.providers.kubernetes.errors import ClusterError
from styx_server.providers.kubernetes.manifest import pod_of
from styx_server.providers.kubernetes.nodes import quantity
from styx_server.providers.kubernetes.pods import PROVIDER
from styx_server.providers.kubernetes.settings import KubernetesSettings
from styx_server.providers.ports import Finding, ProviderError

_UNKNOWN: Final = "(somebody)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Right:
    """One thing that Styx must be allowed to do."""

    verb: str
    resource: str
    everywhere: bool = False


NEEDED: Final = (
    _Right(verb="create", resource="pods"),
    _Right(verb="get", resource="pods"),
    _Right(verb="list", resource="pods"),
    _Right(verb="delete", resource="pods"),
    _Right(verb="create", resource="secrets"),
    _Right(verb="patch", resource="secrets"),
    _Right(verb="delete", resource="secrets"),
    _Right(verb="list", resource="nodes", everywhere=True),
    _Right(verb="list", resource="pods", everywhere=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was found in one cluster."""

    identity: str
    findings: tuple[Finding, ...]


async def look(cluster: Cluster, settings: KubernetesSettings) -> Look:
    """Asks one cluster."""
    try:
        identity = await _identity(cluster)
    except ProviderError as error:
        return Look(identity="", findings=(Finding(good=False, what=error.message, remedy=_see_config(settings)),))
    findings = [Finding(good=True, what=f"cluster {cluster.region} answers, and takes Styx for {identity}")]
    findings += [await _may(cluster, settings, right, identity) for right in NEEDED]
    if all(finding.good for finding in findings):
        findings.append(await _trial(cluster, settings))
        findings.append(await _gpus(cluster, settings))
    return Look(identity=f"{identity} in {cluster.region}", findings=tuple(findings))


async def _identity(cluster: Cluster) -> str:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = await cluster.call(Call.WHO_AM_I, "say who Styx is", review)
    except ClusterError as error:
        # Before Kubernetes 1.28 nobody could ask.
        if error.status not in {403, 404}:
            raise
        return _UNKNOWN
    return str(((answer.get("status") or {}).get("userInfo") or {}).get("username") or _UNKNOWN)


async def _may(cluster: Cluster, settings: KubernetesSettings, right: _Right, identity: str) -> Finding:
    namespace = None if right.everywhere else settings.namespace
    attributes = {"verb": right.verb, "resource": right.resource, **({"namespace": namespace} if namespace else {})}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    where = f"in namespace {namespace} of {cluster.region}" if namespace else f"in all of {cluster.region}"
    try:
        answer = await cluster.call(Call.MAY_I, f"say whether Styx may {right.verb} {right.resource}", review)
    except ProviderError as error:
        return Finding(good=False, what=error.message)
    if (answer.get("status") or {}).get("allowed"):
        return Finding(good=True, what=f"may {right.verb} {right.resource} {where}")
    return Finding(
        good=False, what=f"may not {right.verb} {right.resource} {where}", remedy=_grant(settings, right, identity)
    )


async def _trial(cluster: Cluster, settings: KubernetesSettings) -> Finding:
    doing = f"make a pod on trial in namespace {settings.namespace}"
    try:
        await cluster.call(
            Call.MAKE_POD, doing, settings.namespace, pod_of(_sample(cluster.region), settings), dry_run="All"
        )
    except ProviderError as error:
        return Finding(good=False, what=error.message, remedy=f"kubectl describe namespace {settings.namespace}")
    return Finding(good=True, what=f"a pod could be made in namespace {settings.namespace} of {cluster.region}")


async def _gpus(cluster: Cluster, settings: KubernetesSettings) -> Finding:
    try:
        nodes = await cluster.pages(Call.LIST_NODES, "list nodes")
    except ProviderError as error:
        return Finding(good=False, what=error.message)
    counts = [
        quantity((node.get("status") or {}).get("allocatable", {}).get(settings.gpu_resource, 0)) for node in nodes
    ]
    with_gpus = [int(count) for count in counts if count]
    what = f"{cluster.region} has {len(nodes)} nodes; {len(with_gpus)} have {settings.gpu_resource}: {sum(with_gpus)}"
    return Finding(good=True, what=what)


def _grant(settings: KubernetesSettings, right: _Right, identity: str) -> str:
    """Commands that give the permission; whoever administers the cluster can paste them."""
    name = f"styx-{right.verb}-{right.resource}"
    role, binding = ("clusterrole", "clusterrolebinding") if right.everywhere else ("role", "rolebinding")
    where = "" if right.everywhere else f" --namespace {settings.namespace}"
    return (
        f"kubectl create {role} {name}{where} --verb={right.verb} --resource={right.resource} && "
        f"kubectl create {binding} {name}{where} --{role}={name} {_subject(identity)}"
    )


def _subject(identity: str) -> str:
    if identity.startswith("system:serviceaccount:"):
        return f"--serviceaccount={identity.removeprefix('system:serviceaccount:')}"
    return f"--user={identity}"


def _see_config(settings: KubernetesSettings) -> str:
    return f"kubectl {f'--kubeconfig {settings.kubeconfig} ' if settings.kubeconfig else ''}config view"


def _sample(region: str) -> RentOrder:
    """As small as machines come; only asked about."""
    size = MachineSize(cpus_milli=100, memory_bytes=64 * 2**20)
    place = Place(provider=PROVIDER, region=region)
    return RentOrder(
        instance_id=InstanceId(0),
        key="styx-check",
        offer=Offer(place=place, machine_type="check", size=size, spot=False, price_micros=0),
        tags={},
        boot=Boot(server_urls=("http://localhost",), join_token="", agent_name="check"),
    )

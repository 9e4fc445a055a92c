"""What a machine looks like to a cluster: one pod, and a secret with the script that makes an agent of it.

The script holds the join token; whoever may read pods does not see it. The secret is made first: a pod that is there
has all that it needs, whoever finds it and whatever became of its maker. Then the secret is given to the pod, and goes
with it. Values in, documents out. Next: `pods.py`, which reads what became of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from styx_server.core.machines.instance import TAG_DEPLOYMENT, TAG_KEY, RentOrder
from styx_server.core.machines.user_data import boot_script
from styx_server.providers.kubernetes.machine_type import UNLABELLED, read_type
from styx_server.providers.kubernetes.settings import KubernetesSettings, Toleration

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "styx"
SPOT: Final = "styx-spot"
TAGS: Final = "styx-tags"
"""Annotation with all tags as they were given; labels have rules of their own."""
ZONE: Final = "topology.kubernetes.io/zone"
ARCH: Final = "kubernetes.io/arch"
ARCHES: Final = {"x86_64": "amd64", "arm64": "arm64"}

_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# Everything that the agent writes is below one folder, so that it need not be root.
_ROOT: Final = "/styx"
_ENVIRONMENT: Final = {"STYX_BOOT_ROOT": _ROOT, "HOME": _ROOT, "STYX_LOG_FORMAT": "json"}
_BOOT_DIR: Final = "/run/styx-boot"
_BOOT: Final = "boot.sh"


def label_value(text: str) -> str:
    """The text, or what stands for it where a label may not hold it; always the same for the same text."""
    if _LABEL_VALUE.fullmatch(text):
        return text
    plain = re.sub(r"[^-A-Za-z0-9_.]", "-", text)[:40].strip("-_.")
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:16]}".lstrip("-")


def pod_selector(deployment: str) -> str:
    """Finds the pods of a deployment."""
    return f"{MANAGED_BY}={MANAGER},{TAG_DEPLOYMENT}={label_value(deployment)}"


def pod_of(order: RentOrder, settings: KubernetesSettings) -> dict[str, Any]:
    """The pod to make for an order; the same for the same order and settings."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": order.key,
            "labels": _labels(order),
            "annotations": {TAGS: json.dumps(dict(order.tags), sort_keys=True)},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": settings.grace_seconds,
            # What runs there is the users': it has no account in the cluster.
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "nodeSelector": _node_selector(order, settings),
            "tolerations": _tolerations(order, settings),
            "securityContext": _pod_security(settings),
            "containers": [_container(order, settings)],
            "volumes": _volumes(order),
        },
    }
    spec = pod["spec"]
    if affinity := _affinity(order, settings):
        spec["affinity"] = affinity
    if order.life_seconds > 0:
        spec["activeDeadlineSeconds"] = order.life_seconds
    if settings.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": settings.image_pull_secret}]
    return pod


def secret_of(order: RentOrder) -> dict[str, Any]:
    """The secret with the boot script.

    Raises:
        InvalidRequest: the order has something that cannot be written into a script.
    """
    script = boot_script(order.boot, order.offer.size, life_seconds=order.life_seconds)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(order.key), "labels": _labels(order)},
        "type": "Opaque",
        "immutable": True,
        "stringData": {_BOOT: script},
    }


def secret_name(key: str) -> str:
    """Of the secret of a pod. Nobody else has one of such a name, so it can be deleted without a look."""
    return f"{key}-styx-boot"


def owned_by(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What to change in a secret so that the cluster deletes it with its pod."""
    metadata = pod["metadata"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    return {"metadata": {"ownerReferences": [owner]}}


def _labels(order: RentOrder) -> dict[str, str]:
    labels = {tag: label_value(text) for tag, text in order.tags.items()}
    return {
        **labels,
        TAG_KEY: label_value(order.key),
        MANAGED_BY: MANAGER,
        "app.kubernetes.io/name": "styx-agent",
        SPOT: "true" if order.offer.spot else "false",
    }


def _container(order: RentOrder, settings: KubernetesSettings) -> dict[str, Any]:
    resources = _resources(order, settings)
    # The signal to end is all that a pod hears, whether its node is taken back, drained or too full.
    environment = {**_ENVIRONMENT, "STYX_AGENT_PREEMPTION_NOTICE": f"term:{settings.grace_seconds}"}
    return {
        "name": "agent",
        "image": order.image or settings.image,
        "command": ["/bin/sh", f"{_BOOT_DIR}/{_BOOT}"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": _container_security(settings),
        "volumeMounts": [
            {"name": "root", "mountPath": _ROOT},
            {"name": "boot", "mountPath": _BOOT_DIR, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own
        ],
    }


def _resources(order: RentOrder, settings: KubernetesSettings) -> dict[str, str]:
    size = order.offer.size
    # The agent is told to offer what the offer says; what it needs itself comes on top.
    resources = {
        "cpu": f"{size.cpus_milli}m",
        "memory": str(size.memory_bytes + settings.agent_memory_bytes),
    }
    if order.disk_bytes:
        resources["ephemeral-storage"] = str(order.disk_bytes)
    if size.gpu_count:
        resources[settings.gpu_resource] = str(size.gpu_count)
    return resources


def _volumes(order: RentOrder) -> list[dict[str, Any]]:
    # Shared memory of 64 MiB, which containers have otherwise, is too little for loaders of training data.
    half = str(order.offer.size.memory_bytes // 2)
    return [
        {"name": "root", "emptyDir": {}},
        {"name": "boot", "secret": {"secretName": secret_name(order.key), "defaultMode": 0o440}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": half}},
    ]


def _node_selector(order: RentOrder, settings: KubernetesSettings) -> dict[str, str]:
    selector = {
        **settings.node_selector,
        "kubernetes.io/os": "linux",
        ARCH: ARCHES.get(order.offer.size.arch, order.offer.size.arch),
    }
    if order.offer.place.zone:
        selector[ZONE] = order.offer.place.zone
    return selector


def _affinity(order: RentOrder, settings: KubernetesSettings) -> dict[str, Any]:
    """Which nodes, where several labels may say the same: terms are alternatives, what is in a term holds together."""
    named = read_type(order.offer.machine_type)
    product = named.gpu_product if named is not None else ""
    products = [[_is(label, product)] for label in settings.gpu_labels] if product not in {"", UNLABELLED} else [[]]
    if order.offer.spot:
        kinds = [[_is(label, value)] for label, value in settings.spot_pairs]
    else:
        # "Not in" holds for nodes without the label too.
        kinds = [[{**_is(label, value), "operator": "NotIn"} for label, value in settings.spot_pairs]]
    terms = [[*made, *kind] for made in products for kind in kinds]
    chosen = [{"matchExpressions": term} for term in terms if term]
    if not chosen:
        return {}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": chosen}}}


def _is(label: str, value: str) -> dict[str, Any]:
    return {"key": label, "operator": "In", "values": [value]}


def tolerations_for(settings: KubernetesSettings, *, gpus: bool, spot: bool) -> tuple[Toleration, ...]:
    """Taints that a pod puts up with: the operator's, and those that its kind of node usually has."""
    own = (Toleration(key=settings.gpu_resource),) if gpus else ()
    of_spot = tuple(Toleration(key=label) for label, _ in settings.spot_pairs) if spot else ()
    return (*settings.tolerated, *own, *of_spot)


def _tolerations(order: RentOrder, settings: KubernetesSettings) -> list[dict[str, str]]:
    written = []
    for each in tolerations_for(settings, gpus=order.offer.size.gpu_count > 0, spot=order.offer.spot):
        equal = {"operator": "Equal", "value": each.value} if each.value else {"operator": "Exists"}
        written.append({"key": each.key, **equal, **({"effect": each.effect} if each.effect else {})})
    return written


def _pod_security(settings: KubernetesSettings) -> dict[str, Any]:
    user = settings.run_as_user
    security: dict[str, Any] = {"runAsUser": user, "seccompProfile": {"type": "RuntimeDefault"}}
    if user:
        security |= {"runAsNonRoot": True, "runAsGroup": user, "fsGroup": user}
    return security


def _container_security(settings: KubernetesSettings) -> dict[str, Any]:
    if not settings.run_as_user:
        return {"privileged": False, "allowPrivilegeEscalation": False}
    return {"privileged": False, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

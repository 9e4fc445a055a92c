"""What an operator says about renting pods. Values only; `docs/providers/kubernetes.md` explains each."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

IN_CLUSTER: Final = "in-cluster"
"""As a context: the cluster in which this server itself runs, with the account of its own pod."""

USUAL_IMAGE: Final = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
"""The Python of this server, for which it has a bundle in any case."""

SPOT_LABELS: Final = (
    "cloud.google.com/gke-spot=true",
    "eks.amazonaws.com/capacityType=SPOT",
    "karpenter.sh/capacity-type=spot",
    "kubernetes.azure.com/scalesetpriority=spot",
)
GPU_LABELS: Final = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")


_TAINT: Final = re.compile(r"(?P<key>[^=:]+)(=(?P<value>[^=:]*))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?")
_LABEL: Final = re.compile(r"[^=:]+=[^=:]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """A taint that pods of Styx put up with. An empty `value` means any, an empty `effect` too."""

    key: str
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """Everything that an operator can decide about pods.

    Attributes:
        kubeconfig: path, or several with colons; empty: `$KUBECONFIG`, else `~/.kube/config`, as for kubectl.
        contexts: region to context. Empty: the kubeconfig's current context, whose name is also the region. A context
            `in-cluster` is the cluster in which the server itself runs.
        namespace: where pods and their secrets are made; it exists.
        image: has a shell and the version of Python that the agents' bundle is for; without a bundle, the agent.
        image_pull_secret: name of the secret for a private registry; empty: none.
        node_selector: labels that every node used must have.
        tolerations: taints that do not keep Styx away, as kubectl writes them: `team=ml:NoSchedule`; without value or
            effect: any. Those of GPU and spot nodes are known without.
        gpu_resource: what a pod asks for to get an accelerator.
        gpu_labels: labels of nodes, any of which names the product.
        spot_labels: `label=value` of nodes, any of which says that they may be taken back.
        unschedulable_seconds: a pod that found no node for so long counts as refused. More where nodes are made on
            demand.
        grace_seconds: between SIGTERM and SIGKILL; the agent tells the server in it, and stops its tasks.
        run_as_user: numeric id of the agent and of tasks; 0: root.
        agent_memory_bytes: what the agent itself needs, on top of what the machine has to offer.
        keep_ended_seconds: a pod that has ended is left for people to look at, then deleted.
        request_seconds: for one answer of a cluster.
        cpu_price_micros: of a core for an hour, where the node does not say. The same for a GiB of memory and for an
            accelerator.
    """

    kubeconfig: str = ""
    contexts: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "default"
    image: str = USUAL_IMAGE
    image_pull_secret: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    gpu_resource: str = "nvidia.com/gpu"
    gpu_labels: tuple[str, ...] = GPU_LABELS
    spot_labels: tuple[str, ...] = SPOT_LABELS
    unschedulable_seconds: float = 60.0
    grace_seconds: int = 60
    run_as_user: int = 10001
    agent_memory_bytes: int = 192 * 2**20
    keep_ended_seconds: float = 3600.0
    request_seconds: float = 20.0
    cpu_price_micros: int = 0
    gib_price_micros: int = 0
    gpu_price_micros: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be read.

        Raises:
            ValueError: the message says what would be right.
        """
        for text in self.tolerations:
            if _TAINT.fullmatch(text) is None:
                raise ValueError(f"tolerations are KEY=VALUE:EFFECT, for example team=ml:NoSchedule, not {text!r}")
        for text in self.spot_labels:
            if _LABEL.fullmatch(text) is None:
                raise ValueError(f"spot_labels are LABEL=VALUE, for example pool=spot, not {text!r}")
        for region in self.contexts:
            if not region or "/" in region:
                raise ValueError(f"a region is a name without /, not {region!r}; contexts are region = context")

    @property
    def tolerated(self) -> tuple[Toleration, ...]:
        """What `tolerations` means."""
        found = (_TAINT.fullmatch(text) for text in self.tolerations)
        return tuple(
            Toleration(key=match["key"], value=match["value"] or "", effect=match["effect"] or "")
            for match in found
            if match is not None
        )

    @property
    def spot_pairs(self) -> tuple[tuple[str, str], ...]:
        """What `spot_labels` means: label and value."""
        return tuple((label, value) for label, _, value in (text.partition("=") for text in self.spot_labels))

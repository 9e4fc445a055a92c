"""What a pod says of itself, as a machine. Documents in, values out.

A pod can be accepted and yet never run: no node has room, or the image cannot be had. The cluster goes on trying for
ever; to Styx that is a refusal, told by `CloudMachine.refusal`. Next: `manifest.py`, which made it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from styx_server.core.machines.instance import TAG_KEY, CloudMachine, MachineState
from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.kubernetes.manifest import MANAGED_BY, MANAGER, SPOT, TAGS, ZONE, label_value

Pod = Mapping[str, Any]

PROVIDER: Final = "kubernetes"
PREEMPTED: Final = "preempted"

# Of a container that waits. "ErrImagePull" is not among them: it is tried again, and becomes "ImagePullBackOff".
_WAITING: Final = {
    "ImagePullBackOff": ("image_pull", RefusalKind.BAD_IMAGE),
    "InvalidImageName": ("image_pull", RefusalKind.BAD_IMAGE),
    "ErrImageNeverPull": ("image_pull", RefusalKind.BAD_IMAGE),
    "RunContainerError": ("start_failed", RefusalKind.BAD_IMAGE),
    "CreateContainerError": ("start_failed", RefusalKind.BAD_REQUEST),
    "CreateContainerConfigError": ("start_failed", RefusalKind.BAD_REQUEST),
}
_NEVER_STARTED: Final = frozenset({"StartError", "ContainerCannotRun"})
# Of a pod whose node took it, or was taken.
_TAKEN: Final = frozenset({"Evicted", "Preempting", "Preempted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated"})
# The kubelet found that there is less room than the scheduler thought: "OutOfcpu", "OutOfnvidia.com/gpu".
_NOT_ADMITTED: Final = ("OutOf", "NodeAffinity", "UnexpectedAdmissionError", "InsufficientResource")
_OWN_DISK: Final = "exceeds the"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """Where a pod is, why, and whether that is as good as a refusal."""

    state: MachineState
    reason: str = ""
    message: str = ""
    refusal: RefusalKind | None = None


def machine_of(pod: Pod, region: str, now: datetime, patience_seconds: float) -> CloudMachine:
    """The machine that a pod is."""
    metadata = pod["metadata"]
    standing = _standing(pod, now, timedelta(seconds=patience_seconds))
    return CloudMachine(
        place=Place(provider=PROVIDER, region=region, zone=(pod["spec"].get("nodeSelector") or {}).get(ZONE, "")),
        cloud_id=metadata["name"],
        state=standing.state,
        key=metadata["name"] if is_ours(pod) else "",
        tags=_tags(metadata),
        spot=(metadata.get("labels") or {}).get(SPOT) == "true",
        create_time=_time(metadata.get("creationTimestamp")),
        reason=standing.reason,
        message=standing.message,
        refusal=standing.refusal,
    )


def is_ours(pod: Pod) -> bool:
    """Whether some Styx made it, and under this very name."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    return labels.get(MANAGED_BY) == MANAGER and labels.get(TAG_KEY) == label_value(metadata["name"])


def ended_since(pod: Pod) -> datetime | None:
    """When all of it had ended; None: it has not, or nobody knows."""
    status = pod.get("status") or {}
    if status.get("phase") not in {"Succeeded", "Failed"}:
        return None
    ends = [
        _time(state["terminated"].get("finishedAt"))
        for state in (each.get("state") or {} for each in status.get("containerStatuses") or ())
        if "terminated" in state
    ]
    changes = [_time(each.get("lastTransitionTime")) for each in status.get("conditions") or ()]
    known = [time for time in (*ends, *changes) if time is not None]
    return max(known, default=_time(pod["metadata"].get("creationTimestamp")))


def _standing(pod: Pod, now: datetime, patience: timedelta) -> _Standing:
    status = pod.get("status") or {}
    phase = status.get("phase")
    if phase in {"Succeeded", "Failed"}:
        return _ended(pod)
    taken = _condition(status, "DisruptionTarget")
    if pod["metadata"].get("deletionTimestamp"):
        # On a node that nobody hears of it may still run: not ended before the cluster has forgotten it.
        return _Standing(state=MachineState.ENDING, reason=PREEMPTED if taken else "released")
    if phase == "Running":
        return _Standing(state=MachineState.RUNNING)
    return _starting(pod, now, patience)


def _starting(pod: Pod, now: datetime, patience: timedelta) -> _Standing:
    status = pod.get("status") or {}
    for waiting in _container_states(status, "waiting"):
        if found := _WAITING.get(str(waiting.get("reason"))):
            reason, refusal = found
            said = waiting.get("message") or waiting.get("reason")
            return _Standing(state=MachineState.STARTING, reason=reason, refusal=refusal, message=f"the image: {said}")
    unplaced = _condition(status, "PodScheduled", "False")
    if unplaced is None or unplaced.get("reason") != "Unschedulable":
        return _Standing(state=MachineState.STARTING)
    message = f"no node has room for it: {unplaced.get('message') or 'the cluster does not say why'}"
    since = _time(unplaced.get("lastTransitionTime")) or _time(pod["metadata"].get("creationTimestamp"))
    late = since is not None and now - since >= patience
    return _Standing(
        state=MachineState.STARTING,
        reason="unschedulable",
        message=message,
        refusal=RefusalKind.CAPACITY if late else None,
    )


def _ended(pod: Pod) -> _Standing:
    status = pod.get("status") or {}
    why, message = str(status.get("reason") or ""), str(status.get("message") or "")
    reason, refusal = _end_reason(status, why, message)
    if not message:
        message = next((str(each.get("message") or "") for each in _container_states(status, "terminated")), "")
    return _Standing(state=MachineState.ENDED, reason=reason, message=message, refusal=refusal)


def _end_reason(status: Mapping[str, Any], why: str, message: str) -> tuple[str, RefusalKind | None]:
    if why.startswith(_NOT_ADMITTED):
        return "not_admitted", RefusalKind.CAPACITY
    if why == "DeadlineExceeded":
        return "expired", None
    # Evicted for what it wrote itself is nobody's taking it back: the same again would end the same.
    if why == "Evicted" and _OWN_DISK in message:
        return "disk_full", None
    if why in _TAKEN or _condition(status, "DisruptionTarget"):
        return PREEMPTED, None
    reasons = {str(each.get("reason")) for each in _container_states(status, "terminated")}
    if reasons & _NEVER_STARTED:
        return "start_failed", RefusalKind.BAD_IMAGE
    if "OOMKilled" in reasons:
        return "out_of_memory", None
    return "agent_exited", None


def _container_states(status: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    for container in status.get("containerStatuses") or ():
        found = (container.get("state") or {}).get(kind)
        if found is not None:
            yield found


def _condition(status: Mapping[str, Any], kind: str, value: str = "True") -> Mapping[str, Any] | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind and condition.get("status") == value:
            found: Mapping[str, Any] = condition
            return found
    return None


def _tags(metadata: Mapping[str, Any]) -> dict[str, str]:
    """As they were given, if nobody has touched the annotation; else what labels kept of them."""
    try:
        given = json.loads((metadata.get("annotations") or {}).get(TAGS, ""))
    except ValueError:
        given = None
    return {str(tag): str(text) for tag, text in (given or metadata.get("labels") or {}).items()}


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None

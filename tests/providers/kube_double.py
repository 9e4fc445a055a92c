"""A Kubernetes API server of our own, over HTTP, with a scheduler and a kubelet that move when they are told to.

Modelled: uid, resourceVersion that only grows, pages with continue tokens that can expire, label and field selectors,
AlreadyExists, NotFound, preconditions, graceful deletion, dry runs, garbage collection by owner, quotas on the number
of pods, tokens, access reviews; placement by selector, affinity, taints and room; images that cannot be pulled; node
shutdown; fields that the API does not have (from the client library's own types).

Not modelled: watch, patch, finalizers, server-side apply, RBAC objects, the end of a namespace, admission webhooks and
Pod Security (their words can be scripted), LimitRange, init containers, pull secrets, volumes other than the secret
that a container waits for, evictions by pressure, priorities, several versions of the API, times of a real kubelet.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web

Doc = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")


class Refused(Exception):
    """What the API server answers instead."""

    def __init__(self, status: int, reason: str, message: str, *, fields: Iterable[str] = (), after: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"Retry-After": str(after)} if after else {}
        details: Doc = {"causes": [{"field": field, "message": message} for field in fields]}
        if after:
            details["retryAfterSeconds"] = after
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": status,
        }


class KubeDouble:
    """One cluster.

    Attributes:
        ever: every pod that was ever made, by uid, as it last was.
        refusals: for the next pods that are asked for.
        losing: so many pods are made, and the connection closed instead of an answer.
        expiring: so many lists are forgotten between two pages.
        broken_images: image to why it cannot be pulled.
        denied: verb and resource that the caller may not.
        page_limit: no page is longer, whatever is asked for.
        pod_quota: pods in the namespace; None: any number.
        token: the only one that is believed.
        requests: method and path of each.
    """

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.ever: dict[str, Doc] = {}
        self.pods: dict[tuple[str, str], Doc] = {}
        self.secrets: dict[tuple[str, str], Doc] = {}
        self.nodes: dict[str, Doc] = {}
        self.namespaces = {"default", "styx", "others"}
        self.refusals: deque[Refused] = deque()
        self.secret_refusals: deque[Refused] = deque()
        self.losing = 0
        self.expiring = 0
        self.broken_images: dict[str, str] = {}
        self.denied: set[tuple[str, str]] = set()
        self.page_limit = 2
        self.pod_quota: int | None = None
        self.token = "first-token"
        self.requests: list[tuple[str, str]] = []
        self._version = 1000
        self._pages: dict[str, list[Doc]] = {}

    # The other side of the counter.

    def add_node(self, name: str, *, labels: Mapping[str, str] | None = None, **resources: str) -> Doc:
        """A node that is ready; `gpu` is the number of NVIDIA's."""
        allocatable = {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi", **resources}
        if "gpu" in allocatable:
            allocatable["nvidia.com/gpu"] = allocatable.pop("gpu")
        own = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name}
        node = self.stamp({"metadata": {"name": name, "labels": {**own, **(labels or {})}}, "spec": {}})
        node["status"] = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}
        self.nodes[name] = node
        return node

    def add_pod(self, namespace: str, name: str, *, labels: Mapping[str, str] | None = None, **spec: Any) -> Doc:
        """A pod of somebody else."""
        containers = [{"name": "main", "image": "busybox", "resources": {}}]
        metadata = {"name": name, "namespace": namespace, "labels": dict(labels or {})}
        return self._make_pod({"metadata": metadata, "spec": {"containers": containers, **spec}}, namespace)

    def settle(self, *, finish: bool = True) -> None:
        """Places pods, starts containers, collects what lost its owner; finishes what is being deleted, unless somebody
        else knows when its container has ended."""
        for pod in list(self.pods.values()):
            if pod["metadata"].get("deletionTimestamp"):
                if finish:
                    self._remove(pod)
            elif pod["status"]["phase"] == "Pending":
                self._place(pod)
                self._start(pod)
        uids = {pod["metadata"]["uid"] for pod in self.pods.values()}
        for key, secret in list(self.secrets.items()):
            owners = secret["metadata"].get("ownerReferences") or []
            if owners and not any(owner["uid"] in uids for owner in owners):
                del self.secrets[key]

    def shut_node_down(self, name: str) -> None:
        """What a kubelet does on a node that is taken back: its pods fail, and stay to be looked at."""
        self.nodes[name]["spec"]["unschedulable"] = True
        for pod in self.pods.values():
            if pod["spec"].get("nodeName") == name and pod["status"]["phase"] not in {"Failed", "Succeeded"}:
                self.fail(
                    pod, "Terminated", "Pod was terminated in response to imminent node shutdown.", disrupted=True
                )

    def fail(self, pod: Doc, reason: str, message: str, *, disrupted: bool = False) -> None:
        """Ends a pod in the words of a kubelet."""
        pod["status"].update(phase="Failed", reason=reason, message=message)
        ended = {"exitCode": 137, "reason": "Error", "finishedAt": self.stamped()}
        pod["status"]["containerStatuses"] = [{"name": "agent", "state": {"terminated": ended}}]
        if disrupted:
            self.condition(pod, "DisruptionTarget", "True", "TerminationByKubelet", message)
        self._touch(pod)

    def report_exit(self, pod: Doc, code: int) -> None:
        """A container has ended: the pod with it, and if it was to be deleted it is gone."""
        if pod["metadata"].get("deletionTimestamp"):
            self._remove(pod)
            return
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": self.stamped()}
        pod["status"].update(phase="Failed" if code else "Succeeded")
        pod["status"]["containerStatuses"] = [{"name": "agent", "state": {"terminated": ended}}]
        self._touch(pod)

    def advance(self, seconds: float) -> None:
        """Time passes in the cluster."""
        self.now += timedelta(seconds=seconds)

    def stamped(self) -> str:
        """Now, as the API writes it."""
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def condition(self, pod: Doc, kind: str, status: str, reason: str, message: str) -> None:
        """Sets a condition; its time moves only when it changes."""
        conditions = pod["status"].setdefault("conditions", [])
        old = next((each for each in conditions if each["type"] == kind), None)
        if old is None:
            old = {"type": kind}
            conditions.append(old)
        if old.get("status") != status:
            old["lastTransitionTime"] = self.stamped()
        old.update(status=status, reason=reason, message=message)

    def stamp(self, doc: Doc) -> Doc:
        """Gives an object what the server gives it."""
        metadata = doc["metadata"]
        metadata.update(uid=str(uuid4()), creationTimestamp=self.stamped())
        self._touch(doc)
        return doc

    # HTTP.

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._guard])
        core = "/api/v1"
        app.add_routes(
            [
                web.get(f"{core}/nodes", self._list_nodes),
                web.get(f"{core}/pods", self._list_pods),
                web.get(f"{core}/namespaces/{{namespace}}/pods", self._list_pods),
                web.post(f"{core}/namespaces/{{namespace}}/pods", self._post_pod),
                web.get(f"{core}/namespaces/{{namespace}}/pods/{{name}}", self._get_pod),
                web.delete(f"{core}/namespaces/{{namespace}}/pods/{{name}}", self._delete_pod),
                web.post(f"{core}/namespaces/{{namespace}}/secrets", self._post_secret),
                web.patch(f"{core}/namespaces/{{namespace}}/secrets/{{name}}", self._patch_secret),
                web.delete(f"{core}/namespaces/{{namespace}}/secrets/{{name}}", self._delete_secret),
                web.post(f"{core}/namespaces/{{namespace}}/pods/{{name}}/binding", self._bind),
                web.patch(f"{core}/namespaces/{{namespace}}/pods/{{name}}/status", self._patch_pod),
                web.post(f"{core}/namespaces/{{namespace}}/serviceaccounts", self._post_anything),
                web.post(f"{core}/namespaces", self._post_namespace),
                web.delete(f"{core}/namespaces/{{name}}", self._delete_namespace),
                web.post(f"{core}/nodes", self._post_node),
                web.patch(f"{core}/nodes/{{name}}", self._patch_node),
                web.patch(f"{core}/nodes/{{name}}/status", self._patch_node),
                web.delete(f"{core}/nodes/{{name}}", self._delete_node),
                web.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", self._review_self),
                web.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self._review_access),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        try:
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            self._authorize(request)
            answer: web.StreamResponse = await handler(request)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status, headers=refused.headers)
        return answer

    def _authorize(self, request: web.Request) -> None:
        *_, resource = [part for part in request.path.split("/") if part and part != request.match_info.get("name")]
        verbs = {
            "GET": "get" if "name" in request.match_info else "list",
            "POST": "create",
            "DELETE": "delete",
            "PATCH": "patch",
        }
        verb = verbs[request.method]
        namespace = request.match_info.get("namespace", "")
        if resource in {"pods", "secrets", "nodes"} and (verb, resource) in self.denied:
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            message = (
                f'{resource} is forbidden: User "tester" cannot {verb} resource "{resource}" in API group "" {where}'
            )
            raise Refused(403, "Forbidden", message)

    async def _list_nodes(self, request: web.Request) -> web.Response:
        return self._page(request, "Node", list(self.nodes.values()))

    async def _list_pods(self, request: web.Request) -> web.Response:
        namespace = request.match_info.get("namespace")
        pods = [pod for (place, _), pod in sorted(self.pods.items()) if namespace in {None, place}]
        chosen = [pod for pod in pods if _selected(pod, request.query)]
        return self._page(request, "Pod", chosen)

    def _page(self, request: web.Request, kind: str, found: list[Doc]) -> web.Response:
        token = request.query.get("continue")
        if token is not None:
            if self.expiring:
                self.expiring -= 1
                self._pages.clear()
            if token not in self._pages:
                raise Refused(410, "Expired", "The provided continue parameter is too old to display a consistent list")
            found = self._pages.pop(token)
        limit = min(int(request.query.get("limit") or self.page_limit), self.page_limit)
        metadata: Doc = {"resourceVersion": str(self._version)}
        if len(found) > limit:
            metadata["continue"] = uuid4().hex
            metadata["remainingItemCount"] = len(found) - limit
            self._pages[metadata["continue"]] = copy.deepcopy(found[limit:])
        items = found[:limit]
        return web.json_response({"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": items})

    async def _post_pod(self, request: web.Request) -> web.Response:
        pod, namespace = await request.json(), request.match_info["namespace"]
        if self.refusals:
            raise self.refusals.popleft()
        self._check(pod, namespace, "Pod", "V1Pod")
        self._check_pod(pod)
        name = pod["metadata"]["name"]
        if (namespace, name) in self.pods:
            raise Refused(409, "AlreadyExists", f'pods "{name}" already exists')
        used = sum(place == namespace for place, _ in self.pods)
        if self.pod_quota is not None and used >= self.pod_quota:
            words = f"exceeded quota: team, requested: pods=1, used: pods={used}, limited: pods={self.pod_quota}"
            raise Refused(403, "Forbidden", f'pods "{name}" is forbidden: {words}')
        if request.query.get("dryRun") == "All":
            return web.json_response(pod, status=201)
        made = self._make_pod(pod, namespace)
        if self.losing:
            self.losing -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(made, status=201)

    async def _get_pod(self, request: web.Request) -> web.Response:
        return web.json_response(self._found(request))

    async def _delete_pod(self, request: web.Request) -> web.Response:
        pod = self._found(request)
        options = json.loads(await request.text() or "{}")
        wanted = (options.get("preconditions") or {}).get("uid")
        uid = pod["metadata"]["uid"]
        if wanted not in {None, uid}:
            raise Refused(409, "Conflict", f"Precondition failed: UID in precondition: {wanted}, UID in object: {uid}")
        grace = options.get("gracePeriodSeconds", pod["spec"].get("terminationGracePeriodSeconds", 30))
        ended = pod["status"]["phase"] in {"Failed", "Succeeded"}
        if not pod["spec"].get("nodeName") or ended or grace == 0:
            self._remove(pod)
        elif not pod["metadata"].get("deletionTimestamp"):
            end_time = self.now + timedelta(seconds=grace)
            pod["metadata"].update(
                deletionTimestamp=end_time.strftime("%Y-%m-%dT%H:%M:%SZ"), deletionGracePeriodSeconds=grace
            )
            self._touch(pod)
        return web.json_response(pod)

    async def _post_secret(self, request: web.Request) -> web.Response:
        secret, namespace = await request.json(), request.match_info["namespace"]
        if self.secret_refusals:
            raise self.secret_refusals.popleft()
        self._check(secret, namespace, "Secret", "V1Secret")
        name = secret["metadata"]["name"]
        if (namespace, name) in self.secrets:
            raise Refused(409, "AlreadyExists", f'secrets "{name}" already exists')
        texts = secret.pop("stringData", None) or {}
        coded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        secret["data"] = {**(secret.get("data") or {}), **coded}
        self.secrets[namespace, name] = self.stamp(secret)
        return web.json_response(secret, status=201)

    async def _patch_secret(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        secret, patch = self._found_secret(request), await request.json()
        assert set(patch) == {"metadata"}, "the data of an immutable secret cannot change"
        secret["metadata"].update(patch["metadata"])
        self._touch(secret)
        return web.json_response(secret)

    async def _delete_secret(self, request: web.Request) -> web.Response:
        self._found_secret(request)
        del self.secrets[request.match_info["namespace"], request.match_info["name"]]
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _found_secret(self, request: web.Request) -> Doc:
        name = request.match_info["name"]
        secret = self.secrets.get((request.match_info["namespace"], name))
        if secret is None:
            raise Refused(404, "NotFound", f'secrets "{name}" not found')
        return secret

    async def _review_self(self, request: web.Request) -> web.Response:
        review = await request.json()
        return web.json_response({**review, "status": {"userInfo": {"username": "tester", "groups": []}}}, status=201)

    async def _review_access(self, request: web.Request) -> web.Response:
        review = await request.json()
        asked = review["spec"]["resourceAttributes"]
        allowed = (asked["verb"], asked["resource"]) not in self.denied
        return web.json_response({**review, "status": {"allowed": allowed}}, status=201)

    # What only those ask who play the scheduler, the kubelet and the operator from outside.

    async def _bind(self, request: web.Request) -> web.Response:
        pod, binding = self._found(request), await request.json()
        if pod["spec"].get("nodeName"):
            raise Refused(409, "Conflict", f"pod {pod['metadata']['name']} is already assigned to a node")
        pod["spec"]["nodeName"] = binding["target"]["name"]
        self.condition(pod, "PodScheduled", "True", "", "")
        self._touch(pod)
        return web.json_response({"kind": "Status", "status": "Success"}, status=201)

    async def _patch_pod(self, request: web.Request) -> web.Response:
        pod = self._found(request)
        pod["status"].update((await request.json())["status"])
        self._touch(pod)
        return web.json_response(pod)

    async def _post_anything(self, request: web.Request) -> web.Response:
        return web.json_response(self.stamp(await request.json()), status=201)

    async def _post_namespace(self, request: web.Request) -> web.Response:
        namespace = self.stamp(await request.json())
        self.namespaces.add(namespace["metadata"]["name"])
        return web.json_response(namespace, status=201)

    async def _delete_namespace(self, request: web.Request) -> web.Response:
        self.namespaces.discard(request.match_info["name"])
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _post_node(self, request: web.Request) -> web.Response:
        node = self.stamp({"spec": {}, "status": {}, **await request.json()})
        self.nodes[node["metadata"]["name"]] = node
        return web.json_response(node, status=201)

    async def _patch_node(self, request: web.Request) -> web.Response:
        node, patch = self.nodes[request.match_info["name"]], await request.json()
        for part in ("spec", "status"):
            node[part].update({key: value for key, value in patch.get(part, {}).items() if value is not None})
        self._touch(node)
        return web.json_response(node)

    async def _delete_node(self, request: web.Request) -> web.Response:
        return web.json_response(self.nodes.pop(request.match_info["name"]))

    # Objects.

    def _found(self, request: web.Request) -> Doc:
        name = request.match_info["name"]
        pod = self.pods.get((request.match_info["namespace"], name))
        if pod is None:
            raise Refused(404, "NotFound", f'pods "{name}" not found')
        return pod

    def _make_pod(self, pod: Doc, namespace: str) -> Doc:
        pod["metadata"]["namespace"] = namespace
        pod["kind"], pod["apiVersion"] = "Pod", "v1"
        pod["status"] = {"phase": "Pending", "qosClass": "Guaranteed"}
        made = self.stamp(pod)
        self.pods[namespace, pod["metadata"]["name"]] = made
        self.ever[made["metadata"]["uid"]] = made
        return made

    def _remove(self, pod: Doc) -> None:
        self.pods.pop((pod["metadata"]["namespace"], pod["metadata"]["name"]), None)
        pod["gone"] = True

    def _touch(self, doc: Doc) -> None:
        self._version += 1
        doc["metadata"]["resourceVersion"] = str(self._version)

    def _check(self, doc: Doc, namespace: str, kind: str, model: str) -> None:
        if namespace not in self.namespaces:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        if doc.get("kind") != kind or doc.get("apiVersion") != "v1":
            raise Refused(400, "BadRequest", f"no kind {doc.get('kind')!r} is registered for version v1")
        if unknown := list(unknown_fields(doc, model)):
            raise Refused(400, "BadRequest", f"strict decoding error: unknown field {unknown[0]!r}")
        metadata = doc["metadata"]
        if not _NAME.fullmatch(metadata["name"]):
            raise _invalid(kind, "metadata.name", "a lowercase RFC 1123 subdomain must consist of [a-z0-9.-]")
        for key, value in {**metadata.get("labels", {}), **doc.get("spec", {}).get("nodeSelector", {})}.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise _invalid(kind, "metadata.labels", f"a valid label must be ...: {key}={value}")
        for key in metadata.get("annotations") or {}:
            if not _LABEL_KEY.fullmatch(key):
                raise _invalid(kind, "metadata.annotations", f"a qualified name must consist of ...: {key}")

    def _check_pod(self, pod: Doc) -> None:
        for index, container in enumerate(pod["spec"]["containers"]):
            place = f"spec.containers[{index}]"
            if container["image"] != container["image"].strip() or not container["image"]:
                raise _invalid("Pod", f"{place}.image", "must not have leading or trailing whitespace")
            resources = container.get("resources") or {}
            for name, asked in (resources.get("requests") or {}).items():
                if "." in name and asked != (resources.get("limits") or {}).get(name):
                    raise _invalid("Pod", f"{place}.resources", f"must be equal to {name} limit")
            mounts = {mount["name"] for mount in container.get("volumeMounts") or ()}
            if lost := mounts - {volume["name"] for volume in pod["spec"].get("volumes") or ()}:
                raise _invalid("Pod", f"{place}.volumeMounts[0].name", f"Not found: {lost}")

    def _place(self, pod: Doc) -> None:
        if pod["spec"].get("nodeName"):
            return
        for name, node in self.nodes.items():
            if not node["spec"].get("unschedulable") and _suits(pod, node) and self._has_room(pod, node):
                pod["spec"]["nodeName"] = name
                self.condition(pod, "PodScheduled", "True", "", "")
                self._touch(pod)
                return
        words = f"0/{len(self.nodes)} nodes are available: {len(self.nodes)} Insufficient cpu."
        self.condition(pod, "PodScheduled", "False", "Unschedulable", words)
        self._touch(pod)

    def _has_room(self, pod: Doc, node: Doc) -> bool:
        held: dict[str, float] = {}
        for other in self.pods.values():
            if other["spec"].get("nodeName") == node["metadata"]["name"] and "reason" not in other["status"]:
                for name, amount in requests_of(other).items():
                    held[name] = held.get(name, 0) + amount
        whole = {name: amount_of(text) for name, text in node["status"]["allocatable"].items()}
        return all(held.get(name, 0) + amount <= whole.get(name, 0) for name, amount in requests_of(pod).items())

    def _start(self, pod: Doc) -> None:
        spec, metadata = pod["spec"], pod["metadata"]
        if not spec.get("nodeName"):
            return
        container = spec["containers"][0]
        needed = [volume["secret"]["secretName"] for volume in spec.get("volumes") or () if "secret" in volume]
        state: Doc = {"running": {"startedAt": self.stamped()}}
        if reason := self.broken_images.get(container.get("image", "")):
            state = {"waiting": {"reason": reason, "message": f'Back-off pulling image "{container["image"]}"'}}
        elif any((metadata["namespace"], name) not in self.secrets for name in needed):
            state = {"waiting": {"reason": "ContainerCreating"}}
        else:
            pod["status"]["phase"] = "Running"
        pod["status"]["containerStatuses"] = [{"name": container["name"], "state": state}]
        self._touch(pod)


@asynccontextmanager
async def serve(double: KubeDouble, folder: Path) -> Any:
    """Serves a cluster on a free port; gives the path of a kubeconfig for it."""
    runner = web.AppRunner(double.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield write_kubeconfig(folder, f"http://127.0.0.1:{port}", double.token)
    finally:
        await runner.cleanup()


def write_kubeconfig(folder: Path, server: str, token: str) -> Path:
    """A kubeconfig with one context, `test`. JSON is YAML too."""
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "tester", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "tester"}}],
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def unknown_fields(doc: Any, model: str, path: str = "") -> Iterable[str]:
    """Fields that the API's types do not have; a real server drops them, or refuses them when it is strict."""
    from kubernetes_asyncio.client import models

    if match := re.fullmatch(r"list\[(.*)\]", model):
        for index, item in enumerate(doc):
            yield from unknown_fields(item, match[1], f"{path}[{index}]")
        return
    kind = getattr(models, model, None)
    if kind is None or not isinstance(doc, dict):
        return
    types = {kind.attribute_map[name]: of for name, of in kind.openapi_types.items()}
    for key, value in doc.items():
        if key in types:
            yield from unknown_fields(value, types[key], f"{path}.{key}")
        else:
            yield f"{path}.{key}".lstrip(".")


def requests_of(pod: Doc) -> dict[str, float]:
    """What a pod's containers ask for together."""
    total: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        for name, text in ((container.get("resources") or {}).get("requests") or {}).items():
            total[name] = total.get(name, 0) + amount_of(text)
    return total


def amount_of(text: str) -> float:
    """`500m`, `32Gi`, `2`; by another way than the code under test."""
    powers = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6, "G": 1e9}
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text)
    assert match is not None, text
    return float(match[1]) * powers.get(match[2], 1)


def _invalid(kind: str, field: str, words: str) -> Refused:
    return Refused(422, "Invalid", f'{kind} "" is invalid: {field}: Invalid value: {words}', fields=[field])


def _selected(pod: Doc, query: Mapping[str, str]) -> bool:
    labels = pod["metadata"].get("labels") or {}
    wanted = [part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part]
    if any(labels.get(key) != value for key, value in wanted):
        return False
    for part in query.get("fieldSelector", "").split(","):
        key, unequal, value = part.partition("!=")
        if unequal and key == "status.phase" and pod["status"]["phase"] == value:
            return False
    return True


def _suits(pod: Doc, node: Doc) -> bool:
    spec, labels = pod["spec"], node["metadata"]["labels"]
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if required and not any(_term_holds(term, labels) for term in required["nodeSelectorTerms"]):
        return False
    tolerations = spec.get("tolerations") or ()
    hard = [taint for taint in node["spec"].get("taints") or () if taint["effect"] != "PreferNoSchedule"]
    return all(any(_tolerates(each, taint) for each in tolerations) for taint in hard)


def _term_holds(term: Doc, labels: Mapping[str, str]) -> bool:
    for each in term["matchExpressions"]:
        inside = labels.get(each["key"]) in each["values"]
        if inside is (each["operator"] == "NotIn"):
            return False
    return True


def _tolerates(toleration: Doc, taint: Doc) -> bool:
    same_value = toleration["operator"] == "Exists" or toleration.get("value") == taint.get("value")
    return toleration["key"] == taint["key"] and same_value and toleration.get("effect") in {None, taint["effect"]}

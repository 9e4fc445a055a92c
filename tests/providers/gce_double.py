"""A double of Compute Engine's REST API, with the price list and the permissions of its neighbours, on loopback.

For tests of the provider, and for tests from boot to agent: `GceDouble()` listens at `url`; `user_data(name)` and
`startup_script(name)` give what a machine was told to do at boot, `metadata(name)` all of it; `ledger` has every
machine ever made. Bodies are read by Google's own message classes, so a misspelt field is refused as Google would.
What happens on the other side of the counter are methods: `refuse_call`, `refuse_order`, `lose_answers`,
`hold_orders`, `preempt`, `stop`, `plant`, `settle`. While `away` is set nothing is carried out, and connections break.

Time is not the clock's but that of looks and of `settle`: an order is done at the second look at it, a machine runs
and a deletion is done with `settle`.

Not modelled: quotas and capacity by themselves (they are scripted), IAM and credentials (all are believed), networks
and disks beyond their names, reservations, instance groups, guest attributes, serial ports, stop and start as calls,
edits of labels and metadata, eventual consistency of lists, `fields` masks, and all list filters but equality joined
by AND. Request ids and operations are remembered for ever, unless `forget_requests` is called.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qsl, urlsplit

from tests.providers.gce_goods import ACCELERATORS, IMAGES, REGIONS, TYPES, ZONES, skus
from tests.providers.gce_rules import HttpError, Json, check_order, matches, public
from tests.providers.market import PAGE

LOOKS = 2
"""An order is done when it was looked at this often."""

_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


class LostError(Exception):
    """The answer never arrives."""


@dataclass(kw_only=True)
class Script:
    """What goes wrong next."""

    times: int
    after: int = 0
    method: str = ""
    path: str = ""
    error: HttpError | None = None
    code: str = ""
    message: str = ""
    status: int = 503
    zone: str = ""
    quota: Json = field(default_factory=dict)


@dataclass(kw_only=True)
class Pending:
    """An operation that is under way: looks that are left, and what happens when they are used up."""

    looks: int
    finish: Callable[[], None]


class GceDouble:
    """The cloud, and a hand on it."""

    def __init__(self, project: str = "test-project") -> None:
        self.project = project
        self.ledger: list[Json] = []
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.permissions_missing: set[str] = set()
        self.services_off: set[str] = set()
        self.unreachable: set[str] = set()
        self.held_orders = 0
        self.away = False
        self._lock = threading.RLock()
        self._instances: dict[tuple[str, str], Json] = {}
        self._operations: dict[tuple[str, str], Json] = {}
        self._pending: dict[str, Pending] = {}
        self._requests: dict[str, Json] = {}
        self._scripts: list[Script] = []
        self._lost: list[str] = []
        self._numbers = count(4_000_000_001)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # The hand.

    def refuse_call(
        self, error: HttpError, *, method: str = "POST", path: str = "/instances", times: int = 1, after: int = 0
    ) -> None:
        """The next calls of a method to paths that contain something are refused, some excepted."""
        self._scripts.append(Script(times=times, after=after, method=method, path=path, error=error))

    def refuse_order(
        self, code: str, message: str, *, status: int = 503, zone: str = "", quota: Json | None = None, times: int = 1
    ) -> None:
        """The next orders are accepted, and fail."""
        self._scripts.append(
            Script(times=times, code=code, message=message, status=status, zone=zone, quota=quota or {})
        )

    def lose_answers(self, times: int = 1) -> None:
        """The next orders are carried out; the connections break before the answer."""
        self._lost += ["" for _ in range(times)]

    def lose_answers_in(self, zone: str) -> None:
        """The same for the next order in a zone."""
        self._lost.append(zone)

    def hold_orders(self, times: int = 1) -> None:
        """The next orders are not done however often they are looked at; `settle` ends them."""
        self.held_orders += times

    def forgive(self) -> None:
        """Nothing more goes wrong."""
        self._scripts.clear()
        self._lost.clear()
        self.held_orders = 0

    def preempt(self, name: str) -> None:
        """Google takes a machine back."""
        with self._lock:
            (zone, _), instance = next((at, found) for at, found in self._instances.items() if at[1] == name)
            operation = self._operation(zone, "compute.instances.preempted", instance, user="system@google.com")
            operation["statusMessage"] = "Instance was preempted."
            self._finish(operation)
            if instance.get("scheduling", {}).get("instanceTerminationAction") == "DELETE":
                self._remove(zone, name)
            else:
                instance["status"] = "TERMINATED"

    def stop(self, name: str) -> None:
        """The machine powers itself off."""
        with self._lock:
            next(found for at, found in self._instances.items() if at[1] == name)["status"] = "TERMINATED"

    def plant(self, name: str, *, zone: str = "us-central1-a", labels: Mapping[str, str] | None = None) -> str:
        """A machine that somebody else made."""
        with self._lock:
            body = {
                "name": name,
                "labels": dict(labels or {}),
                "scheduling": {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"},
            }
            self._keep(zone, body)["status"] = "RUNNING"
        return name

    def settle(self) -> None:
        """All that is under way is done, and what starts has started."""
        with self._lock:
            self.held_orders = 0
            for name in list(self._pending):
                self._pending.pop(name).finish()
            for instance in self._instances.values():
                if instance["status"] in {"PROVISIONING", "STAGING"}:
                    instance["status"] = "RUNNING"

    def forget_requests(self) -> None:
        """As Google does after a while: the ids of calls mean nothing any more."""
        self._requests.clear()

    def metadata(self, name: str) -> dict[str, str]:
        """What the machine's metadata server would say."""
        found = next(instance for instance in self.ledger if instance["name"] == name)
        return {item["key"]: item["value"] for item in found.get("metadata", {}).get("items", ())}

    def user_data(self, name: str) -> str:
        """For cloud-init."""
        return self.metadata(name).get("user-data", "")

    def startup_script(self, name: str) -> str:
        """For Google's guest agent."""
        return self.metadata(name).get("startup-script", "")

    def body(self, name: str) -> Json:
        """The machine as it was ordered, and what became of it."""
        return public(next(instance for instance in self.ledger if instance["name"] == name))

    # The door.

    def answer(self, method: str, target: str, raw: bytes) -> Json:
        """One call."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if self.away:
            raise LostError
        with self._lock:
            self.calls.append((method, parts.path, query))
            self._scripted(method, parts.path)
            if parts.path.startswith("/v1/"):
                return self._neighbours(parts.path, query, raw)
            path = parts.path.removeprefix("/compute/v1/projects/")
            if path == parts.path:
                raise HttpError(404, "notFound", f"The requested URL {parts.path} was not found on this server.")
            if "compute" in self.services_off:
                raise HttpError(
                    403,
                    "accessNotConfigured",
                    f"Compute Engine API has not been used in project {self.project} before or it is disabled.",
                )
            return self._compute(method, path.split("/"), query, raw)

    def _scripted(self, method: str, path: str) -> None:
        for script in self._scripts:
            if not (script.error and script.times and script.method == method and script.path in path):
                continue
            if script.after:
                script.after -= 1
                return
            script.times -= 1
            raise script.error

    def _neighbours(self, path: str, query: Mapping[str, str], raw: bytes) -> Json:
        if path.endswith(":testIamPermissions"):
            if "cloudresourcemanager" in self.services_off:
                raise HttpError(403, "accessNotConfigured", "Cloud Resource Manager API has not been used before.")
            asked = json.loads(raw)["permissions"]
            return {"permissions": [each for each in asked if each not in self.permissions_missing]}
        if "cloudbilling" in self.services_off:
            raise HttpError(403, "accessNotConfigured", "Cloud Billing API has not been used before.")
        if path.endswith("/skus"):
            articles = list(skus())
            start, size = int(query.get("pageToken") or 0), 7
            more = str(start + size) if start + size < len(articles) else ""
            return {"skus": articles[start : start + size], "nextPageToken": more}
        return {"services": [{"name": "services/6F81-5844-456A", "displayName": "Compute Engine"}]}

    def _compute(self, method: str, path: list[str], query: Mapping[str, str], raw: bytes) -> Json:
        match path:
            case [_, "global", "images", *rest]:
                return self._image(path[0], rest)
            case [project, *_] if project != self.project:
                raise HttpError(404, "notFound", f"The resource 'projects/{project}' was not found")
            case [project]:
                return {"kind": "compute#project", "name": project, "id": "1"}
            case [_, "aggregated", "instances"]:
                return self._aggregated("instances", self._instances, query)
            case [_, "aggregated", "operations"]:
                return self._aggregated("operations", self._operations, query)
            case [_, "global", "networks", name]:
                self._known(name == "default", path)
                return {"kind": "compute#network", "name": name}
            case [_, "regions", region, *rest]:
                return self._region(region, rest, path)
            case [_, "zones"]:
                return self._listed("zone", [self._zone(zone) for zone in ZONES], query)
            case [_, "zones", zone, *rest]:
                self._known(zone in ZONES, path[:3])
                return self._in_zone(method, zone, rest, query, raw)
        raise HttpError(404, "notFound", f"{'/'.join(path)}: this double has no such thing")

    def _in_zone(self, method: str, zone: str, path: list[str], query: Mapping[str, str], raw: bytes) -> Json:
        match (method, *path):
            case ("GET",):
                return self._zone(zone)
            case ("GET", "machineTypes"):
                types = [{"kind": "compute#machineType", "name": name, **rest} for name, rest in TYPES.items()]
                return self._listed("machineType", types, query)
            case ("GET", "machineTypes", name):
                self._known(name in TYPES, ["zones", zone, *path])
                return {"kind": "compute#machineType", "name": name, **TYPES[name]}
            case ("GET", "acceleratorTypes"):
                kinds = [
                    {"kind": "compute#acceleratorType", "name": name, "maximumCardsPerInstance": most}
                    for name, most in ACCELERATORS.get(zone, {}).items()
                ]
                return self._listed("acceleratorType", kinds, query)
            case ("GET", "operations"):
                return self._listed("operation", self._of(self._operations, zone), query)
            case ("GET", "operations", name):
                return self._look(zone, name)
            case ("POST", "operations", name, "wait"):
                return self._look(zone, name, to_the_end=True)
            case ("GET", "instances"):
                return self._listed("instance", self._of(self._instances, zone), query)
            case ("POST", "instances"):
                return self._insert(zone, query, raw)
            case ("GET", "instances", name):
                return public(self._instance(zone, name))
            case ("DELETE", "instances", name):
                return self._delete(zone, name)
        raise HttpError(404, "notFound", f"{method} {'/'.join(path)}: this double has no such thing")

    # Lists.

    def _listed(self, kind: str, things: Iterable[Json], query: Mapping[str, str]) -> Json:
        found = [public(each) for each in things if matches(each, query.get("filter", ""))]
        start = int(query.get("pageToken") or 0)
        page: Json = {"kind": f"compute#{kind}List", "items": found[start : start + PAGE]}
        if start + PAGE < len(found):
            page["nextPageToken"] = str(start + PAGE)
        return page

    def _aggregated(self, member: str, things: Mapping[tuple[str, str], Json], query: Mapping[str, str]) -> Json:
        found = [(zone, public(each)) for (zone, _), each in things.items() if matches(each, query.get("filter", ""))]
        start = int(query.get("pageToken") or 0)
        items: Json = {}
        for zone in ZONES:
            here = [each for at, each in found[start : start + PAGE] if at == zone]
            nothing = {"code": "NO_RESULTS_ON_PAGE", "message": f"There are no results for scope 'zones/{zone}'"}
            items[f"zones/{zone}"] = {member: here} if here else {"warning": nothing}
            if zone in self.unreachable:
                warning = {"code": "UNREACHABLE", "message": f"The zone {zone} cannot be reached."}
                items[f"zones/{zone}"] = {"warning": warning}
        page: Json = {"kind": f"compute#{member}AggregatedList", "items": items}
        if start + PAGE < len(found):
            page["nextPageToken"] = str(start + PAGE)
        return page

    @staticmethod
    def _of(things: Mapping[tuple[str, str], Json], zone: str) -> list[Json]:
        return [each for (at, _), each in things.items() if at == zone]

    # Things.

    def _known(self, known: bool, path: list[str]) -> None:
        if not known:
            raise HttpError(404, "notFound", f"The resource 'projects/{'/'.join(path)}' was not found")

    def _zone(self, zone: str) -> Json:
        region = f"{self.url}/compute/v1/projects/{self.project}/regions/{zone[:-2]}"
        return {"kind": "compute#zone", "name": zone, "status": "UP", "region": region}

    def _region(self, region: str, rest: list[str], path: list[str]) -> Json:
        self._known(region in REGIONS, path[:3])
        if rest[:1] == ["subnetworks"]:
            self._known(rest[1] == "default", path)
            return {"kind": "compute#subnetwork", "name": rest[1]}
        quotas = [
            {"metric": "CPUS", "limit": 24, "usage": 4},
            {"metric": "INSTANCES", "limit": 72, "usage": 1},
            {"metric": "IN_USE_ADDRESSES", "limit": 8, "usage": 1},
        ]
        return {"kind": "compute#region", "name": region, "status": "UP", "quotas": quotas}

    def _image(self, project: str, rest: list[str]) -> Json:
        name = rest[-1]
        if name not in IMAGES.get(project, ()):
            where = "/".join(rest)
            raise HttpError(404, "notFound", f"The resource 'projects/{project}/global/images/{where}' was not found")
        link = f"{self.url}/compute/v1/projects/{project}/global/images/{name}-v20261101"
        return {"kind": "compute#image", "name": f"{name}-v20261101", "selfLink": link, "status": "READY"}

    def _instance(self, zone: str, name: str) -> Json:
        self._known((zone, name) in self._instances, [self.project, "zones", zone, "instances", name])
        return self._instances[zone, name]

    # Operations.

    def _operation(self, zone: str, kind: str, instance: Json, user: str = "styx@example.com") -> Json:
        number = next(self._numbers)
        name = f"operation-{number}"
        base = f"{self.url}/compute/v1/projects/{self.project}/zones/{zone}"
        operation = {
            "kind": "compute#operation",
            "id": str(number),
            "name": name,
            "zone": base,
            "selfLink": f"{base}/operations/{name}",
            "operationType": kind,
            "targetLink": instance["selfLink"],
            "targetId": instance["id"],
            "user": user,
            "status": "RUNNING",
            "progress": 0,
            "insertTime": moment(),
        }
        self._operations[zone, name] = operation
        return operation

    @staticmethod
    def _finish(operation: Json) -> None:
        operation.update(status="DONE", progress=100, endTime=moment())

    def _look(self, zone: str, name: str, *, to_the_end: bool = False) -> Json:
        self._known((zone, name) in self._operations, [self.project, "zones", zone, "operations", name])
        pending = self._pending.get(name)
        if pending is not None:
            pending.looks -= 1
            if pending.looks <= 0 or to_the_end:
                self._pending.pop(name).finish()
        return public(self._operations[zone, name])

    def _delete(self, zone: str, name: str) -> Json:
        instance = self._instance(zone, name)
        operation = self._operation(zone, "delete", instance)
        instance["status"] = "STOPPING"

        def finish() -> None:
            self._finish(operation)
            self._remove(zone, name)

        self._pending[operation["name"]] = Pending(looks=LOOKS, finish=finish)
        return public(operation)

    def _remove(self, zone: str, name: str) -> None:
        gone = self._instances.pop((zone, name), None)
        if gone is not None:
            gone["_gone"] = True

    # Orders.

    def _insert(self, zone: str, query: Mapping[str, str], raw: bytes) -> Json:
        request_id = query.get("requestId", "")
        if request_id and uuid.UUID(request_id).int == 0:
            raise HttpError(400, "invalid", "Invalid value for field 'requestId': the zero UUID is not supported.")
        if request_id in self._requests:
            return public(self._requests[request_id])
        body = json.loads(raw)
        check_order(zone, body, self.project)
        if (zone, body["name"]) in self._instances:
            path = f"projects/{self.project}/zones/{zone}/instances/{body['name']}"
            raise HttpError(409, "alreadyExists", f"The resource '{path}' already exists")
        operation = self._order(zone, body)
        operation["clientOperationId"] = request_id
        if request_id:
            self._requests[request_id] = operation
        for where in self._lost:
            if where in {"", zone}:
                self._lost.remove(where)
                raise LostError
        return public(operation)

    def _order(self, zone: str, body: Json) -> Json:
        """Accepts an order, which may fail later."""
        wrong = next((each for each in self._scripts if each.code and each.times and each.zone in {"", zone}), None)
        instance = self._made(zone, body)
        operation = self._operation(zone, "insert", instance)
        if wrong is None:
            self._keep(zone, instance)
        else:
            wrong.times -= 1
        looks = LOOKS
        if self.held_orders:
            self.held_orders -= 1
            looks = 1_000_000

        def finish() -> None:
            self._finish(operation)
            if wrong is not None:
                details = [{"quotaInfo": wrong.quota}] if wrong.quota else []
                error = {"code": wrong.code, "message": wrong.message, "errorDetails": details}
                operation["error"] = {"errors": [error]}
                operation.update(httpErrorStatusCode=wrong.status, httpErrorMessage="SERVICE UNAVAILABLE")
            elif instance["status"] == "PROVISIONING":
                instance["status"] = "STAGING"

        self._pending[operation["name"]] = Pending(looks=looks, finish=finish)
        return operation

    def _made(self, zone: str, body: Json) -> Json:
        base = f"{self.url}/compute/v1/projects/{self.project}/zones/{zone}"
        return {
            **body,
            "kind": "compute#instance",
            "id": str(next(self._numbers)),
            "selfLink": f"{base}/instances/{body['name']}",
            "zone": base,
            "status": "PROVISIONING",
            "creationTimestamp": moment(),
            "labelFingerprint": "eHh4",
            "fingerprint": "eXl5",
        }

    def _keep(self, zone: str, body: Json) -> Json:
        """From now on the machine is there."""
        instance = body if "id" in body else self._made(zone, body)
        self._instances[zone, instance["name"]] = instance
        self.ledger.append(instance)
        return instance


def moment() -> str:
    """Now, as Google writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _handler(double: GceDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def _go(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers = 200, {}
            try:
                answer = double.answer(self.command, self.path, raw)
            except LostError:
                self.close_connection = True
                return
            except HttpError as error:
                status, headers = error.status, error.headers
                each = {"message": error.message, "domain": "global", "reason": error.reason}
                answer = {
                    "error": {
                        "code": status,
                        "message": error.message,
                        "errors": [each],
                        "status": _STATUS.get(status, "UNKNOWN"),
                    }
                }
            self._send(status, headers, json.dumps(answer).encode())

        def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = _go  # noqa: N815 - the library looks for these names

    return Handler

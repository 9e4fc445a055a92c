"""A double of Amazon on a port of this machine: moto behind a layer of our own, for tests.

    with AwsDouble() as double:
        AwsSettings(regions=("us-east-1",), endpoint_url=double.url, machine_types=tuple(PRICES))
        # The client finds its credentials in `double.environment`, in the process that asks.

Each double is an account of its own, so nothing has to be reset. A hand on the other side:

    fail(action, code, message, status, times, **parameters)   the next such calls are refused, in EC2's own form
    lose_answer(action, times)      the next such calls are carried out, and the connection breaks before the answer
    hang(action, times)             the next such calls are carried out, and their answers held until `let_go()`
    away                            while it is set nothing is carried out, and connections break
    interrupt(cloud_id)             EC2 takes a spot machine back
    stop(cloud_id)                  somebody stops a machine by hand
    forget_tags(cloud_id)           an ended machine loses its tags, as it does some time after its end
    plant()                         a machine of somebody else; its cloud id
    settle()                        what starts has started, what ends has ended. With `delays=False` nothing waits
    ledger()                        every machine that was ever made, as a CloudMachine, in its true state
    zones()                         the default subnet of each zone
    user_data(cloud_id)             the bytes that cloud-init would read on it (EC2: DescribeInstanceAttribute)
    parameters(cloud_id)            what RunInstances was asked for it, flat as EC2 takes it
    calls                           every call, as (action, region, parameters)

Added to moto, which does not have it: ClientToken (by region and zone, as EC2 does), its mismatch, and the refusal of
one whose machine has ended; capacity, quota, throttling and every other refusal; spot interruptions; spot requests
and their tags; a pending and a shutting-down state; the bound of 16 KB on user data; unknown images and types; spot
prices; the price list; SSM parameters of images.

Not modelled: that the list lags behind answers; IAM policies (everything is allowed until `fail` says no; a dry run
always says yes); quotas that count; that a spot price is ever too low; instance metadata; volumes of their own, disks,
networks beyond moto's; stopping of a spot machine; more than one machine in a call; times.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

# Read when moto is loaded: its 1301 images take two seconds for each account, and it takes any type unless told not to.
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
os.environ.setdefault("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")

from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from moto.core.botocore_stubber import BotocoreStubber
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import InstanceState, StateReason

from styx_server.core.machines.instance import TAG_KEY, CloudMachine, MachineState
from styx_server.core.machines.offer import Place

REGION: Final = "us-east-1"

PRICES: Final[Mapping[str, str]] = {
    "t3.micro": "0.0104000000",
    "m5.large": "0.0960000000",
    "m6g.large": "0.0770000000",
    "g4dn.xlarge": "0.5260000000",
    "p4d.24xlarge": "21.9576420000",
    "p4de.24xlarge": "27.4470525000",
}
"""On demand, in dollars an hour, as the price list writes them. Spot machines cost three tenths of it."""

IMAGES: Final[Mapping[str, str]] = {
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id": "x86_64",
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id": "arm64",
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id": "x86_64",
}
"""Parameters of SSM that hold an image, and for which machines."""

_accounts = count(700_000_000_000)
_STATES = {
    "pending": MachineState.STARTING,
    "running": MachineState.RUNNING,
    "stopped": MachineState.RUNNING,
    "shutting-down": MachineState.ENDING,
    "terminated": MachineState.ENDED,
}

Parameters = dict[str, str]


class Answer(NamedTuple):
    """What goes back over the wire."""

    status: int
    body: bytes
    content_type: str = "text/xml"


class Call(NamedTuple):
    """One call that came in."""

    action: str
    region: str
    parameters: Parameters


@dataclass(slots=True, kw_only=True)
class Trouble:
    """Something that goes wrong with the next calls of a kind. `how`: fail, lose or hang."""

    how: str
    action: str
    times: int
    match: Parameters
    answer: Answer | None = None


@dataclass(slots=True, kw_only=True)
class SpotRequest:
    """What EC2 keeps of a spot machine beside the machine."""

    request_id: str
    instance_id: str
    zone: str
    tags: dict[str, str]
    status: str = "fulfilled"
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


def refused(code: str, message: str, status: int) -> Answer:
    """A refusal as EC2 writes it."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error></Errors>"
        "<RequestID>00000000-0000-4000-8000-000000000000</RequestID></Response>"
    )
    return Answer(status, text.encode())


def answered(action: str, inner: str) -> Answer:
    """An answer as EC2 writes it."""
    text = f'<{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{inner}</{action}Response>'
    return Answer(200, text.encode())


class AwsDouble:
    """One account, on one port."""

    def __init__(self, *, delays: bool = True) -> None:
        self.account = str(next(_accounts))
        self.calls: list[Call] = []
        self.images: dict[str, str] = {}
        self.away = False
        self._delays = delays
        self._moto = BotocoreStubber()
        # moto is not made for threads.
        self._lock = threading.RLock()
        self._released = threading.Event()
        self._troubles: list[Trouble] = []
        self._tokens: dict[tuple[str, str, str], tuple[Parameters, str, Answer]] = {}
        self._asked: dict[str, Parameters] = {}
        self._spots: dict[str, SpotRequest] = {}
        self._regions: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"double": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server and lets go of what it held."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        ec2_backends.pop(self.account, None)

    @property
    def url(self) -> str:
        """Where it listens; for every service alike."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in, and to look for credentials nowhere else."""
        return {
            "AWS_ACCESS_KEY_ID": "AKIDDOUBLE",
            "AWS_SECRET_ACCESS_KEY": "double",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    # The hand on the other side.

    def fail(self, action: str, code: str, message: str, status: int = 400, times: int = 1, **match: str) -> None:
        """The next calls are refused; `match` names parameters, with `_` for a dot: `Placement_AvailabilityZone`."""
        wanted = {name.replace("_", "."): value for name, value in match.items()}
        answer = refused(code, message, status)
        self._trouble(Trouble(how="fail", action=action, times=times, match=wanted, answer=answer))

    def lose_answer(self, action: str = "RunInstances", times: int = 1) -> None:
        """The next calls are carried out; the connection breaks before the answer."""
        self._trouble(Trouble(how="lose", action=action, times=times, match={}))

    def hang(self, action: str = "RunInstances", times: int = 1) -> None:
        """The next calls are carried out; the answers wait for `let_go`."""
        self._trouble(Trouble(how="hang", action=action, times=times, match={}))

    def let_go(self) -> None:
        """Ends all waiting."""
        self._released.set()

    def interrupt(self, cloud_id: str) -> None:
        """EC2 takes a spot machine back."""
        with self._lock:
            code = "Server.SpotInstanceTermination"
            self._end(self._instance(cloud_id), "instance-terminated-no-capacity", code)

    def stop(self, cloud_id: str) -> None:
        """Somebody stops a machine by hand."""
        with self._lock:
            instance = self._instance(cloud_id)
            instance._state = InstanceState("stopped", 80)
            code = "Client.UserInitiatedShutdown"
            instance.state_reason = StateReason(f"{code}: User initiated shutdown", code)

    def forget_tags(self, cloud_id: str) -> None:
        """An ended machine loses its tags."""
        with self._lock:
            instance = self._instance(cloud_id)
            instance.ec2_backend.delete_tags([cloud_id], dict.fromkeys(self._tags(instance)))

    def plant(self, region: str = REGION) -> str:
        """A machine of somebody else."""
        with self._lock:
            backend = ec2_backends[self.account][region]
            image = self._image_for("x86_64", region)
            told = {"instance_type": "m5.large", "is_instance_type_default": False, "region_name": region}
            reservation = backend.run_instances(image, 1, None, [], **told)
            cloud_id: str = reservation.instances[0].id
            self._regions[cloud_id] = region
            return cloud_id

    def settle(self) -> None:
        """What starts has started, what ends has ended."""
        with self._lock:
            for instance in self._instances():
                if instance.state == "pending":
                    instance._state = InstanceState("running", 16)
                if instance.state == "shutting-down":
                    instance._state = InstanceState("terminated", 48)

    def ledger(self) -> list[CloudMachine]:
        """Every machine that was ever made."""
        with self._lock:
            return [self._machine(instance) for instance in self._instances()]

    def zones(self, region: str = REGION) -> dict[str, str]:
        """The default subnet of each zone."""
        with self._lock:
            subnets = ec2_backends[self.account][region].get_default_subnets()
        return {zone: subnet.id for zone, subnet in subnets.items()}

    def user_data(self, cloud_id: str) -> bytes:
        """What cloud-init would read on it."""
        return base64.b64decode(self._asked[cloud_id].get("UserData", ""))

    def parameters(self, cloud_id: str) -> Parameters:
        """What RunInstances was asked for it."""
        return self._asked[cloud_id]

    def made_calls(self, action: str) -> list[Parameters]:
        """The calls of one kind that came in."""
        return [call.parameters for call in self.calls if call.action == action]

    # What follows answers calls, in the server's threads.

    def answer(self, headers: Mapping[str, str], path: str, body: bytes) -> Answer | None:
        """The answer to one call; None: the connection is to break."""
        scope = headers.get("Authorization", "").partition("Credential=")[2].split("/")
        region, service = (scope[2], scope[3]) if len(scope) > 3 else (REGION, "sts")
        target = headers.get("X-Amz-Target", "").rpartition(".")[2]
        parameters: Parameters = (
            {name: str(value) for name, value in json.loads(body).items()}
            if target
            else dict(parse_qsl(body.decode(), keep_blank_values=True))
        )
        action = target or parameters.get("Action", "")
        with self._lock:
            self.calls.append(Call(action, region, parameters))
            trouble = self._troubled(action, parameters)
            if trouble is not None and trouble.how == "fail":
                return trouble.answer
            given = self._carry_out(action, region, service, (dict(headers), path, body, parameters))
        if trouble is not None and trouble.how == "hang":
            self._released.wait(60)
        return None if trouble is not None else given

    def _carry_out(
        self, action: str, region: str, service: str, call: tuple[dict[str, str], str, bytes, Parameters]
    ) -> Answer:
        headers, path, body, parameters = call

        def moto() -> Answer:
            return self._ask_moto(headers, f"https://{service}.{region}.amazonaws.com{path}", body)

        match action:
            case "RunInstances":
                return self._run(region, parameters, moto)
            case "TerminateInstances":
                return self._terminate(parameters, moto)
            case "DescribeSpotInstanceRequests":
                return self._spot_requests(parameters)
            case "DescribeSpotPriceHistory":
                return self._spot_prices(region)
            case "GetParameter":
                return self._parameter(region, json.loads(body)["Name"])
            case "GetProducts":
                return self._products(json.loads(body))
            case _:
                return moto()

    def _ask_moto(self, headers: dict[str, str], url: str, body: bytes) -> Answer:
        given = HTTPHeaders()
        for name, value in ({**headers, "x-moto-account-id": self.account}).items():
            given[name] = value
        request = AWSPreparedRequest("POST", url, given, body, False)
        response = self._moto.process_request(request)
        assert response is not None, f"moto does not know {url}"
        status, _, text = response
        return Answer(int(status), text.encode() if isinstance(text, str) else text)

    def _run(self, region: str, asked: Parameters, moto: Any) -> Answer:
        zone = asked.get("Placement.AvailabilityZone") or asked.get("SubnetId", "")
        token = (region, zone, asked.get("ClientToken", ""))
        told = {name: value for name, value in asked.items() if name not in {"Action", "Version"}}
        if token[2] and token in self._tokens:
            before, cloud_id, answer = self._tokens[token]
            if before != told:
                return refused("IdempotentParameterMismatch", "Arguments on this idempotent request differ.", 400)
            if self._instance(cloud_id).state == "terminated":
                return refused("IdempotentInstanceTerminated", "The instance of this client token has ended.", 400)
            return answer
        if len(base64.b64decode(asked.get("UserData", ""))) > 16_384:
            return refused("InvalidParameterValue", "User data is limited to 16384 bytes", 400)
        if asked["ImageId"] not in self.images:
            return refused("InvalidAMIID.NotFound", f"The image id '[{asked['ImageId']}]' does not exist", 400)
        answer = moto()
        if answer.status == 200:
            cloud_id = answer.body.decode().partition("<instanceId>")[2].partition("<")[0]
            answer = self._born(cloud_id, region, told, answer)
            self._tokens[token] = (told, cloud_id, answer)
        return answer

    def _born(self, cloud_id: str, region: str, told: Parameters, answer: Answer) -> Answer:
        self._asked[cloud_id], self._regions[cloud_id] = told, region
        instance = self._instance(cloud_id)
        if self._delays:
            instance._state = InstanceState("pending", 0)
        if told.get("InstanceMarketOptions.MarketType") != "spot":
            return answer
        request_id = f"sir-{len(self._spots):08d}"
        self._spots[cloud_id] = SpotRequest(
            request_id=request_id,
            instance_id=cloud_id,
            zone=instance.placement.zone,
            tags=_tags_for("spot-instances-request", told),
        )
        instance.spot_instance_request_id = request_id
        marked = answer.body.replace(
            b"</instanceId>", f"</instanceId><spotInstanceRequestId>{request_id}</spotInstanceRequestId>".encode()
        )
        return answer._replace(body=marked)

    def _terminate(self, asked: Parameters, moto: Any) -> Answer:
        ids = [value for name, value in asked.items() if name.startswith("InstanceId.")]
        ended = [each.id for each in self._instances() if each.state == "terminated"]
        answer: Answer = moto()
        if answer.status == 200:
            for cloud_id in set(ids) - set(ended):
                self._end(self._instance(cloud_id), "instance-terminated-by-user", "Client.UserInitiatedShutdown")
        return answer

    def _end(self, instance: Any, status: str, code: str) -> None:
        gone = InstanceState("shutting-down", 32) if self._delays else InstanceState("terminated", 48)
        instance._state = gone
        instance.state_reason = StateReason(f"{code}: the machine was ended", code)
        if instance.id in self._spots:
            self._spots[instance.id].status = status

    def _spot_requests(self, asked: Parameters) -> Answer:
        wanted = _filters(asked)
        found = [
            request
            for request in self._spots.values()
            if all(request.tags.get(name.removeprefix("tag:")) in values for name, values in wanted.items())
        ]
        start, size = int(asked.get("NextToken", "0")), int(asked.get("MaxResults", "1000"))
        items = "".join(_spot_item(request) for request in found[start : start + size])
        more = f"<nextToken>{start + size}</nextToken>" if start + size < len(found) else ""
        inner = f"<spotInstanceRequestSet>{items}</spotInstanceRequestSet>{more}"
        return answered("DescribeSpotInstanceRequests", inner)

    def _spot_prices(self, region: str) -> Answer:
        items = "".join(
            f"<item><instanceType>{name}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{Decimal(price) * 3 / 10:.6f}</spotPrice><timestamp>2026-01-01T00:00:00.000Z</timestamp>"
            f"<availabilityZone>{region}{zone}</availabilityZone></item>"
            for name, price in PRICES.items()
            for zone in "ab"
        )
        return answered("DescribeSpotPriceHistory", f"<spotPriceHistorySet>{items}</spotPriceHistorySet>")

    def _parameter(self, region: str, name: str) -> Answer:
        if name not in IMAGES:
            problem = {"__type": "ParameterNotFound", "message": f"Parameter {name} not found."}
            return Answer(400, json.dumps(problem).encode(), "application/x-amz-json-1.1")
        value = self._image_for(IMAGES[name], region)
        found = {"Parameter": {"Name": name, "Type": "String", "Value": value, "Version": 1}}
        return Answer(200, json.dumps(found).encode(), "application/x-amz-json-1.1")

    def _products(self, asked: Mapping[str, Any]) -> Answer:
        # One on a page, to see whether all pages are read.
        start = int(asked.get("NextToken", "0"))
        name, price = list(PRICES.items())[start]
        term = {"priceDimensions": {"D": {"unit": "Hrs", "pricePerUnit": {"USD": price}}}}
        product = {"product": {"attributes": {"instanceType": name}}, "terms": {"OnDemand": {"T": term}}}
        found: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)]}
        if start + 1 < len(PRICES):
            found["NextToken"] = str(start + 1)
        return Answer(200, json.dumps(found).encode(), "application/x-amz-json-1.1")

    def _image_for(self, arch: str, region: str) -> str:
        for ami, known in self.images.items():
            if known == f"{region} {arch}":
                return ami
        image = ec2_backends[self.account][region].register_image(f"ubuntu-{arch}", "for tests")
        image.architecture = arch
        self.images[image.id] = f"{region} {arch}"
        found: str = image.id
        return found

    def _trouble(self, trouble: Trouble) -> None:
        with self._lock:
            self._troubles.append(trouble)

    def _troubled(self, action: str, parameters: Parameters) -> Trouble | None:
        for trouble in self._troubles:
            fits = all(parameters.get(name) == value for name, value in trouble.match.items())
            if trouble.action == action and trouble.times and fits:
                trouble.times -= 1
                return trouble
        return None

    def _instances(self) -> Iterator[Any]:
        for region in sorted({REGION, *self._regions.values()}):
            yield from ec2_backends[self.account][region].all_instances()

    def _instance(self, cloud_id: str) -> Any:
        return ec2_backends[self.account][self._regions.get(cloud_id, REGION)].get_instance(cloud_id)

    def _tags(self, instance: Any) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in instance.get_tags()}

    def _machine(self, instance: Any) -> CloudMachine:
        tags = self._tags(instance)
        return CloudMachine(
            place=Place(provider="aws", region=self._regions[instance.id], zone=instance.placement.zone),
            cloud_id=instance.id,
            state=_STATES[instance.state],
            key=tags.get(TAG_KEY, ""),
            tags=tags,
            spot=instance.id in self._spots,
        )


class _Handler(BaseHTTPRequestHandler):
    """Speaks HTTP; knows nothing of clouds."""

    protocol_version = "HTTP/1.1"
    double: AwsDouble

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = None if self.double.away else self.double.answer(dict(self.headers.items()), self.path, body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Says nothing: the calls are in `AwsDouble.calls`."""


def _filters(asked: Parameters) -> dict[str, set[str]]:
    """Filters, from EC2's flat form."""
    names = {name.split(".")[1]: value for name, value in asked.items() if name.endswith(".Name")}
    found: dict[str, set[str]] = defaultdict(set)
    for name, value in asked.items():
        parts = name.split(".")
        if parts[0] == "Filter" and parts[2] == "Value":
            found[names[parts[1]]].add(value)
    return found


def _tags_for(kind: str, asked: Parameters) -> dict[str, str]:
    """The tags of a request for one kind of thing, from EC2's flat form."""
    for name, value in asked.items():
        if name.startswith("TagSpecification.") and name.endswith(".ResourceType") and value == kind:
            start = name.removesuffix("ResourceType") + "Tag."
            keys = {name: value for name, value in asked.items() if name.startswith(start) and name.endswith(".Key")}
            return {key: asked[name.removesuffix("Key") + "Value"] for name, key in keys.items()}
    return {}


def _spot_item(request: SpotRequest) -> str:
    tags = "".join(f"<item><key>{escape(k)}</key><value>{escape(v)}</value></item>" for k, v in request.tags.items())
    state = "active" if request.status == "fulfilled" else "closed"
    return (
        f"<item><spotInstanceRequestId>{request.request_id}</spotInstanceRequestId><state>{state}</state>"
        f"<status><code>{request.status}</code></status><instanceId>{request.instance_id}</instanceId>"
        f"<createTime>{request.time:%Y-%m-%dT%H:%M:%S.000Z}</createTime>"
        f"<launchedAvailabilityZone>{request.zone}</launchedAvailabilityZone><tagSet>{tags}</tagSet></item>"
    )


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process for a while, and takes away what would say otherwise."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)

"""What the double of Compute Engine refuses at once, as Google does, and which of its things a filter means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from google.cloud import compute_v1

from tests.providers.gce_goods import ACCELERATORS, IMAGES, TYPES

Json = dict[str, Any]


class HttpError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = dict(headers or {})


def check_order(zone: str, body: Json, project: str) -> None:
    """Refuses an order that Google would refuse at once."""
    try:
        compute_v1.Instance.from_json(json.dumps(body), ignore_unknown_fields=False)
    except Exception as error:
        raise HttpError(400, "badRequest", f"Invalid JSON payload received. {error}") from error
    _check_name_and_labels(body)
    _check_type(zone, body)
    _check_scheduling(body)
    _check_disks(body, project)
    if not body.get("networkInterfaces"):
        raise HttpError(400, "required", "Required field 'resource.networkInterfaces' not specified")
    if any(len(item.get("value", "").encode()) > 262_144 for item in body.get("metadata", {}).get("items", ())):
        raise _invalid("metadata.items[0].value", "", "The value is too long.")


def _invalid(where: str, value: object, why: str) -> HttpError:
    return HttpError(400, "invalid", f"Invalid value for field 'resource.{where}': '{value}'. {why}")


def _check_name_and_labels(body: Json) -> None:
    name = body.get("name", "")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise _invalid("name", name, "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'")
    disks = [disk.get("initializeParams", {}).get("labels", {}) for disk in body.get("disks", ())]
    for labels in (body.get("labels", {}), *disks):
        for key, value in labels.items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
                raise _invalid(
                    f"labels.{key}", value, "Label keys and values have lower case letters, digits, _ and -."
                )


def _check_type(zone: str, body: Json) -> None:
    wanted = body.get("machineType", "")
    if wanted.rpartition("/")[2] not in TYPES:
        raise _invalid("machineType", wanted, "The referenced resource does not exist.")
    for each in body.get("guestAccelerators", ()):
        kind = each.get("acceleratorType", "").rpartition("/")[2]
        if kind not in ACCELERATORS.get(zone, {}) or not wanted.rpartition("/")[2].startswith("n1-"):
            raise _invalid("guestAccelerators[0].acceleratorType", kind, "The referenced resource does not exist.")
    family = wanted.rpartition("/")[2].split("-")[0]
    for disk in body.get("disks", ()):
        kind = disk.get("initializeParams", {}).get("diskType", "").rpartition("/")[2]
        if (family == "n4") != kind.startswith("hyperdisk"):
            raise HttpError(400, "badRequest", f"[{kind}] features are not compatible for creating instance.")


def _check_scheduling(body: Json) -> None:
    scheduling = body.get("scheduling", {})
    wanted = body.get("machineType", "").rpartition("/")[2]
    gpus = body.get("guestAccelerators") or TYPES.get(wanted, {}).get("accelerators")
    if gpus and scheduling.get("onHostMaintenance") != "TERMINATE":
        raise HttpError(400, "badRequest", "Instances with guest accelerators do not support live migration.")
    if scheduling.get("provisioningModel") == "SPOT" and scheduling.get("automaticRestart", True):
        raise _invalid("scheduling", "", "Scheduling must have automaticRestart be false for SPOT instances.")
    duration = scheduling.get("maxRunDuration")
    if duration is None:
        return
    if not 30 <= int(duration["seconds"]) <= 120 * 86_400:
        raise _invalid("scheduling.maxRunDuration", duration["seconds"], "Must be from 30 seconds to 120 days.")
    if not scheduling.get("instanceTerminationAction"):
        raise _invalid("scheduling.instanceTerminationAction", "", "Must be set with maxRunDuration.")


def _check_disks(body: Json, project: str) -> None:
    if not body.get("disks"):
        raise HttpError(400, "required", "Invalid value for field 'resource.disks': ''. No boot disk specified.")
    image = body["disks"][0].get("initializeParams", {}).get("sourceImage", "")
    # The last form is that of Google's command line.
    where = r"(?:global/images/family|global/images|zones/-/imageFamilyViews)"
    match = re.search(rf"projects/([^/]+)/{where}/([^/]+)$", image)
    known = [*IMAGES.get(match[1], ()), *(f"{each}-v20261101" for each in IMAGES.get(match[1], ()))] if match else []
    if not match or match[2] not in known:
        raise HttpError(404, "notFound", f"The resource '{image or project}' was not found")


def public(thing: Json) -> Json:
    """Without what is only for the double."""
    return {key: value for key, value in thing.items() if not key.startswith("_")}


def matches(thing: Json, wanted: str) -> bool:
    """Whether a thing is what a filter asks for."""
    for part in re.split(r"\s+AND\s+|(?<=\))\s*(?=\()", wanted) if wanted else ():
        found = re.fullmatch(r'\(?\s*([\w.-]+)\s*(=|!=|:|eq)\s*"?([^")]*)"?\s*\)?', part.strip())
        if found is None:
            raise HttpError(400, "invalid", f"Invalid value for field 'filter': '{part}'.")
        value: Any = thing
        for step in found[1].split("."):
            value = value.get(step, "") if isinstance(value, dict) else ""
        same = str(value) == found[3] or bool(found[2] == "eq" and re.fullmatch(found[3], str(value)))
        if same == (found[2] == "!="):
            return False
    return True

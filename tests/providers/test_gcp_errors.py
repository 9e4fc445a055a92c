"""Every way in which Google says no, and what Styx makes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.protobuf.json_format import ParseError

from styx_server.core.machines.refusal import RULES, RefusalKind, Scope
from styx_server.providers.gcp.cases import CASES
from styx_server.providers.gcp.errors import Refused, explain, refused_by, understand
from styx_server.providers.ports import ProviderError
from tests.providers.gce_rules import HttpError
from tests.providers.gcp_market import GcpMarket

K = RefusalKind
INVALID = "Invalid value for field 'resource."
QUOTA = "Quota '{}' exceeded.  Limit: 0.0 in region us-central1."


@dataclass(frozen=True)
class Said:
    """What Google says, in its own words, and what is to be understood."""

    code: str
    message: str
    status: int
    kind: RefusalKind
    scope: Scope | None = None


# Ends of operations: the order was accepted, and failed later.
ENDS = [
    Said(
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill the request.",
        503,
        K.CAPACITY,
        Scope.OFFER,
    ),
    Said(
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill the request. "
        "'(resource type:compute)'.",
        503,
        K.CAPACITY,
        Scope.OFFER,
    ),
    Said("REGION_RESOURCE_POOL_EXHAUSTED", "The region does not have enough resources.", 503, K.CAPACITY, Scope.TYPE),
    Said("GPU_STOCKOUT", "No accelerator is available.", 503, K.CAPACITY),
    Said("STOCKOUT", "STOCKOUT", 503, K.CAPACITY),
    Said(
        "RESOURCE_AVAILABILITY",
        "A n1-standard-8 VM instance with 1 nvidia-tesla-t4 accelerator(s) is currently unavailable in the "
        "us-central1-a zone.",
        503,
        K.CAPACITY,
    ),
    Said("UNSUPPORTED_OPERATION", "Instance was preempted while it was being created.", 400, K.CAPACITY),
    Said("QUOTA_EXCEEDED", QUOTA.format("CPUS"), 403, K.QUOTA, Scope.REGION),
    Said("QUOTA_EXCEEDED", QUOTA.format("PREEMPTIBLE_CPUS"), 403, K.QUOTA, Scope.REGION),
    Said("QUOTA_EXCEEDED", QUOTA.format("IN_USE_ADDRESSES"), 403, K.QUOTA, Scope.REGION),
    Said("QUOTA_EXCEEDED", QUOTA.format("N2_CPUS"), 403, K.QUOTA, Scope.TYPE),
    Said("QUOTA_EXCEEDED", QUOTA.format("NVIDIA_T4_GPUS"), 403, K.QUOTA, Scope.TYPE),
    Said("QUOTA_EXCEEDED", QUOTA.format("PREEMPTIBLE_NVIDIA_L4_GPUS"), 403, K.QUOTA, Scope.TYPE),
    Said("QUOTA_EXCEEDED", "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.", 403, K.QUOTA, Scope.TYPE),
    Said("QUOTA_EXCEEDED", "Quota 'CPUS_ALL_REGIONS' exceeded.  Limit: 32.0 globally.", 403, K.QUOTA, Scope.PROVIDER),
    Said("IP_SPACE_EXHAUSTED", "IP space of 'projects/p/regions/r/subnetworks/s' is exhausted.", 403, K.QUOTA),
    Said("RESOURCE_OPERATION_RATE_EXCEEDED", "Operation rate exceeded for resource.", 403, K.THROTTLED),
    Said("RESOURCE_NOT_READY", "The resource 'projects/p/zones/z/disks/d' is not ready", 400, K.UNAVAILABLE),
    Said("INTERNAL_ERROR", "Internal error. Please try again or contact Google Support.", 500, K.UNAVAILABLE),
    Said(
        "RESOURCE_NOT_FOUND",
        "The resource 'projects/p/zones/z/machineTypes/x9-standard-1' was not found",
        404,
        K.BAD_TYPE,
    ),
    Said("RESOURCE_NOT_FOUND", "The resource 'projects/p/global/images/gone' was not found", 404, K.BAD_IMAGE),
    Said("SOMETHING_NEW", "A word that nobody has heard before.", 0, K.BAD_REQUEST),
]

# Answers to the call itself.
ANSWERS = [
    Said("authError", "Request had invalid authentication credentials.", 401, K.CREDENTIALS),
    Said("required", "Login Required.", 401, K.CREDENTIALS),
    Said(
        "forbidden",
        "Required 'compute.instances.create' permission for 'projects/p/zones/z/instances/i'",
        403,
        K.PERMISSION,
        Scope.PROVIDER,
    ),
    Said(
        "accessNotConfigured",
        "Compute Engine API has not been used in project p before or it is disabled.",
        403,
        K.PERMISSION,
    ),
    Said(
        "SERVICE_DISABLED",
        "Compute Engine API has not been used in project p before or it is disabled.",
        403,
        K.PERMISSION,
    ),
    Said("insufficientPermissions", "Request had insufficient authentication scopes.", 403, K.PERMISSION),
    Said("forbidden", "This API method requires billing to be enabled on project p.", 403, K.PERMISSION),
    Said(
        "forbidden",
        "The user does not have access to service account 'a@p.iam'.  Ask for iam.serviceAccounts.actAs",
        403,
        K.PERMISSION,
    ),
    Said(
        "conditionNotMet",
        "Constraint constraints/compute.vmExternalIpAccess violated for project 1.",
        412,
        K.PERMISSION,
    ),
    Said("conditionNotMet", "Constraint constraints/gcp.resourceLocations violated for projects/p.", 412, K.PERMISSION),
    Said("notFound", "The resource 'projects/p' was not found", 404, K.PERMISSION),
    Said("quotaExceeded", "Quota 'INSTANCES' exceeded.  Limit: 24.0 in region us-central1.", 403, K.QUOTA),
    Said("rateLimitExceeded", "Quota exceeded for quota group 'default'.", 403, K.THROTTLED, Scope.NOTHING),
    Said("RATE_LIMIT_EXCEEDED", "Quota exceeded for quota metric 'Queries'.", 429, K.THROTTLED),
    Said("", "Too Many Requests", 429, K.THROTTLED),
    Said("notFound", "The resource 'projects/ubuntu-os-cloud/global/images/family/x' was not found", 404, K.BAD_IMAGE),
    Said("invalid", f"{INVALID}disks[0].initializeParams.sourceImage': 'x'. The URL is malformed.", 400, K.BAD_IMAGE),
    Said(
        "invalid",
        f"{INVALID}disks[0].initializeParams.diskSizeGb': '5'. Requested disk size cannot be smaller than "
        "the image size (10 GB)",
        400,
        K.BAD_IMAGE,
    ),
    Said("badRequest", "The image's architecture 'ARM64' is not compatible with the machine type's.", 400, K.BAD_IMAGE),
    Said(
        "invalid",
        f"{INVALID}machineType': 'zones/z/machineTypes/x'. The referenced resource does not exist.",
        400,
        K.BAD_TYPE,
        Scope.TYPE,
    ),
    Said(
        "badRequest", "Machine type with name 'a2-highgpu-1g' does not exist in zone 'us-central1-b'.", 400, K.BAD_TYPE
    ),
    Said(
        "invalid",
        f"{INVALID}guestAccelerators[0].acceleratorType': 'nvidia-x'. The referenced resource does not exist.",
        400,
        K.BAD_TYPE,
    ),
    Said("badRequest", "[pd-balanced] features are not compatible for creating instance.", 400, K.BAD_TYPE),
    Said("badRequest", "Spot VMs are not supported for machine type m2-ultramem-208.", 400, K.BAD_TYPE),
    Said(
        "notFound", "The resource 'projects/p/global/networks/gone' was not found", 404, K.BAD_REQUEST, Scope.PROVIDER
    ),
    Said(
        "invalid",
        f"{INVALID}networkInterfaces[0].subnetwork': 'gone'. The referenced subnetwork resource cannot be found.",
        400,
        K.BAD_REQUEST,
        Scope.REGION,
    ),
    Said("invalid", "Invalid value for field 'zone': 'us-moon1-a'. Unknown zone.", 400, K.BAD_REQUEST, Scope.REGION),
    Said("invalid", f"{INVALID}labels': 'X'. Label keys have lower case letters.", 400, K.BAD_REQUEST, Scope.TYPE),
    Said("", "Request entity too large", 413, K.BAD_REQUEST),
    Said("backendError", "Backend Error", 500, K.UNAVAILABLE),
    Said("internalError", "Internal error while reading the image of a machine type", 500, K.UNAVAILABLE),
    Said("", "The image is bad, says a proxy that has no backend", 502, K.UNAVAILABLE),
    Said("backendError", "The service is currently unavailable.", 503, K.UNAVAILABLE),
    Said("", "Deadline exceeded", 504, K.TIMEOUT),
    Said("", "Request Timeout", 408, K.TIMEOUT),
]


@pytest.mark.parametrize("said", ENDS, ids=lambda said: f"{said.code}-{said.kind}")
def test_the_end_of_an_operation_is_understood(said: Said) -> None:
    error = explain(Refused(code=said.code, message=said.message, status=said.status, final=True), "renting x", "p1")
    assert error.kind is said.kind
    assert error.code == said.code
    assert said.scope in {None, error.scope}
    assert error.message.startswith("renting x: ")
    assert said.message.split()[-1] in error.message


@pytest.mark.parametrize("said", ANSWERS, ids=lambda said: f"{said.status}-{said.code}-{said.kind}")
def test_the_answer_to_a_call_is_understood(said: Said) -> None:
    answer = requests.Response()
    answer.status_code = said.status
    reasons = [{"reason": said.code, "message": said.message, "domain": "global"}] if said.code else []
    raised = api.from_http_status(said.status, said.message, response=answer, errors=reasons)
    refused = refused_by(raised)
    assert refused is not None
    error = explain(refused, "renting x", "p1")
    assert error.kind is said.kind
    assert error.code == (said.code or str(said.status))
    assert said.scope in {None, error.scope}


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (auth.DefaultCredentialsError("Your default credentials were not found."), K.CREDENTIALS),
        (auth.RefreshError("invalid_grant: Bad Request", {}), K.CREDENTIALS),
        (auth.TransportError("the metadata server is away"), K.UNAVAILABLE),
        (requests.ReadTimeout("read timed out"), K.TIMEOUT),
        (requests.ConnectTimeout("connect timed out"), K.TIMEOUT),
        (requests.ConnectionError("connection refused"), K.UNAVAILABLE),
        (requests.exceptions.JSONDecodeError("no JSON", "", 0), K.UNAVAILABLE),
        (ParseError("a page of a hotel's network"), K.UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_call_that_broke_off_is_understood(raised: Exception, kind: RefusalKind) -> None:
    refused = refused_by(raised)
    assert refused is not None
    assert explain(refused, "renting x", "p1").kind is kind


def test_a_fault_of_our_own_is_not_taken_for_a_refusal() -> None:
    assert refused_by(KeyError("x")) is None
    assert refused_by(ValueError("x")) is None


def test_the_exact_reason_counts_more_than_the_old_one() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "domain": "x"}
    raised = api.from_http_status(403, "x", errors=[{"reason": "forbidden"}], error_info=info)
    refused = refused_by(raised)
    assert refused is not None
    assert refused.code == "SERVICE_DISABLED"


def test_a_refusal_names_thing_rule_and_remedy() -> None:
    refused = Refused(code="QUOTA_EXCEEDED", message=QUOTA.format("NVIDIA_T4_GPUS"), status=403, final=True)
    error = explain(refused, "renting n1-standard-8 spot in gcp/us-central1/us-central1-a", "team-42")
    assert error.message == (
        "renting n1-standard-8 spot in gcp/us-central1/us-central1-a: the project may not have more machines of this "
        "kind. Ask for more at https://console.cloud.google.com/iam-admin/quotas?project=team-42. Google says: Quota "
        "'NVIDIA_T4_GPUS' exceeded. Limit: 0.0 in region us-central1."
    )


def test_every_row_of_the_table_is_in_order() -> None:
    for case in CASES:
        assert case.code or case.says, case
        re.compile(case.says)
        assert case.remedy.format(project="p"), case
        assert not case.plain.endswith("."), case


def test_no_row_hides_a_later_one() -> None:
    for number, case in enumerate(CASES):
        if case.code and not case.says:
            later = [each for each in CASES[number + 1 :] if each.code.casefold() == case.code.casefold()]
            assert later == [], case


def test_there_are_enough_cases() -> None:
    kinds = {said.kind for said in (*ENDS, *ANSWERS)}
    assert kinds == set(RefusalKind)
    assert len(ENDS) + len(ANSWERS) >= 50


def test_a_known_refusal_keeps_its_rule_when_the_table_says_nothing_else() -> None:
    assert understand(Refused(code="quotaExceeded", message="x", status=403)).scope is None
    assert explain(Refused(code="quotaExceeded", message="x", status=403), "y", "").scope is RULES[K.QUOTA].scope


# Through the provider.


async def refused(market: GcpMarket) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(market.order("styx-a1"))
    return caught.value


@pytest.mark.parametrize("said", ENDS, ids=lambda said: f"{said.code}-{said.kind}")
async def test_an_order_that_fails_later_arrives_as_what_it_means(gcp: GcpMarket, said: Said) -> None:
    gcp.double.refuse_order(said.code, said.message, status=said.status)
    error = await refused(gcp)
    assert (error.kind, error.code) == (said.kind, said.code)
    assert gcp.double.ledger == []


async def test_a_quota_says_which_and_how_much(gcp: GcpMarket) -> None:
    quota = {"metricName": "compute.googleapis.com/cpus", "limitName": "CPUS-per-project-region", "limit": 24.0}
    gcp.double.refuse_order("QUOTA_EXCEEDED", "Quota exceeded.", status=403, quota=quota)
    error = await refused(gcp)
    assert "CPUS-per-project-region: compute.googleapis.com/cpus, limit 24" in error.message


async def test_google_says_when_to_come_back(gcp: GcpMarket) -> None:
    gcp.double.refuse_call(HttpError(429, "rateLimitExceeded", "Slowly", {"Retry-After": "17"}))
    assert (await refused(gcp)).retry_after_seconds == 17.0


async def test_nobody_listens(gcp: GcpMarket) -> None:
    gcp.double.close()
    error = await refused(gcp)
    assert (error.kind, error.fate_known) == (K.UNAVAILABLE, False)

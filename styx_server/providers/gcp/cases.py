"""Google's words for no, and what each means: the table. Values only; `errors.py` reads it.

Codes of operations are in capitals, reasons of HTTP errors in camel case; a few words of our own say what broke off.
Stock-outs and most quotas come as the end of an operation that had been accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from styx_server.core.machines.refusal import RefusalKind, Scope

_K = RefusalKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table: what Google says, and what that means.

    Attributes:
        code: an operation's error code or an HTTP error's reason, any case; empty: whichever.
        says: a pattern that the message must contain, any case; empty: whatever it says.
        plain: in plain words.
        remedy: what a person can do; `{project}` is filled in.
        scope: how much it speaks of, when that is not what the rule for `kind` says.
    """

    code: str = ""
    says: str = ""
    kind: RefusalKind
    plain: str
    remedy: str = ""
    scope: Scope | None = None


_NO_MACHINE = "there is no such machine to be had there now"
_ELSEWHERE = "Styx tries other places and comes back later; allowing more zones or types helps."
_ASK_QUOTA = "Ask for more at https://console.cloud.google.com/iam-admin/quotas?project={project}."
_LOG_IN = (
    "Run `gcloud auth application-default login` as the user who runs the server, or point "
    "GOOGLE_APPLICATION_CREDENTIALS at a key of a service account."
)
_ENABLE = "Run `gcloud services enable compute.googleapis.com --project {project}` and wait a minute."
_GRANT = (
    "Give the identity the role: `gcloud projects add-iam-policy-binding {project} "
    "--member=<identity> --role=roles/compute.instanceAdmin.v1`."
)
_SEE_TYPES = "`gcloud compute machine-types list --project {project}` shows what there is."
_SEE_IMAGES = "`gcloud compute images list` shows public images; set the provider's `image`, or the pool's."
_LATER = "The same call is made again by itself."

CASES: Final[tuple[Case, ...]] = (
    # No capacity. Always in the operation, never in the answer to the call.
    Case(code="ZONE_RESOURCE_POOL_EXHAUSTED", kind=_K.CAPACITY, plain=_NO_MACHINE, remedy=_ELSEWHERE),
    Case(code="ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", kind=_K.CAPACITY, plain=_NO_MACHINE, remedy=_ELSEWHERE),
    Case(
        code="REGION_RESOURCE_POOL_EXHAUSTED",
        kind=_K.CAPACITY,
        scope=Scope.TYPE,
        plain="there is no such machine to be had in the whole region now",
        remedy=_ELSEWHERE,
    ),
    Case(
        code="REGION_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        kind=_K.CAPACITY,
        scope=Scope.TYPE,
        plain="there is no such machine to be had in the whole region now",
        remedy=_ELSEWHERE,
    ),
    Case(code="GPU_STOCKOUT", kind=_K.CAPACITY, plain="no such accelerator is free there now", remedy=_ELSEWHERE),
    Case(code="STOCKOUT", kind=_K.CAPACITY, plain=_NO_MACHINE, remedy=_ELSEWHERE),
    Case(code="insufficientCapacity", kind=_K.CAPACITY, plain=_NO_MACHINE, remedy=_ELSEWHERE),
    Case(code="RESOURCE_POOL_EXHAUSTED", kind=_K.CAPACITY, plain=_NO_MACHINE, remedy=_ELSEWHERE),
    Case(code="VM_MIN_COUNT_NOT_REACHED", kind=_K.CAPACITY, plain=_NO_MACHINE, remedy=_ELSEWHERE),
    Case(
        code="UNSUPPORTED_OPERATION",
        says=r"preempt|terminated|stopping",
        kind=_K.CAPACITY,
        plain="the spot machine was taken back while it was made",
        remedy=_ELSEWHERE,
    ),
    Case(
        says=r"does not have enough resources available|currently unavailable in the",
        kind=_K.CAPACITY,
        plain=_NO_MACHINE,
        remedy=_ELSEWHERE,
    ),
    # Quota. Limits for accelerators and for families of processors block only the types that have them.
    Case(
        code="QUOTA_EXCEEDED",
        says=r"\bCPUS_ALL_REGIONS\b",
        kind=_K.QUOTA,
        scope=Scope.PROVIDER,
        plain="the project's limit over all regions is reached",
        remedy=_ASK_QUOTA,
    ),
    Case(
        code="QUOTA_EXCEEDED",
        says=r"GPUS|CPUS_PER_|\b(?!PREEMPTIBLE_CPUS)[A-Z0-9_]+_CPUS\b",
        kind=_K.QUOTA,
        scope=Scope.TYPE,
        plain="the project may not have more machines of this kind",
        remedy=_ASK_QUOTA,
    ),
    Case(code="QUOTA_EXCEEDED", kind=_K.QUOTA, plain="the project's limit in the region is reached", remedy=_ASK_QUOTA),
    Case(code="quotaExceeded", kind=_K.QUOTA, plain="the project's limit is reached", remedy=_ASK_QUOTA),
    Case(code="LIMIT_EXCEEDED", kind=_K.QUOTA, plain="a limit of the project is reached", remedy=_ASK_QUOTA),
    Case(code="limitExceeded", kind=_K.QUOTA, plain="a limit of the project is reached", remedy=_ASK_QUOTA),
    Case(
        code="IP_SPACE_EXHAUSTED",
        kind=_K.QUOTA,
        plain="the subnet has no address left",
        remedy="Make the subnet larger (`gcloud compute networks subnets expand-ip-range`) or use another.",
    ),
    Case(
        code="IP_SPACE_EXHAUSTED_WITH_DETAILS",
        kind=_K.QUOTA,
        plain="the subnet has no address left",
        remedy="Make the subnet larger (`gcloud compute networks subnets expand-ip-range`) or use another.",
    ),
    # Too many calls. Google says it with 403 as well as with 429.
    Case(code="rateLimitExceeded", kind=_K.THROTTLED, plain="too many calls", remedy=_LATER),
    Case(code="RATE_LIMIT_EXCEEDED", kind=_K.THROTTLED, plain="too many calls", remedy=_LATER),
    Case(code="userRateLimitExceeded", kind=_K.THROTTLED, plain="too many calls", remedy=_LATER),
    Case(code="RESOURCE_OPERATION_RATE_EXCEEDED", kind=_K.THROTTLED, plain="too many changes at once", remedy=_LATER),
    Case(code="operationRateExceeded", kind=_K.THROTTLED, plain="too many changes at once", remedy=_LATER),
    # Who one is.
    Case(code="authError", kind=_K.CREDENTIALS, plain="Google does not believe the credentials", remedy=_LOG_IN),
    Case(code="CREDENTIALS_MISSING", kind=_K.CREDENTIALS, plain="there are no credentials", remedy=_LOG_IN),
    Case(code="ACCESS_TOKEN_EXPIRED", kind=_K.CREDENTIALS, plain="the credentials have expired", remedy=_LOG_IN),
    Case(code="NO_CREDENTIALS", kind=_K.CREDENTIALS, plain="there are no credentials", remedy=_LOG_IN),
    Case(code="REFRESH_FAILED", kind=_K.CREDENTIALS, plain="the credentials are no longer good", remedy=_LOG_IN),
    # What one may do. The table is read from the top, so the exact cases come first.
    Case(
        says=r"Cloud Billing API",
        kind=_K.PERMISSION,
        plain="the API of the price list is not switched on in the project",
        remedy="Run `gcloud services enable cloudbilling.googleapis.com --project {project}` and wait a minute.",
    ),
    Case(
        code="accessNotConfigured",
        kind=_K.PERMISSION,
        plain="the API is not switched on in the project",
        remedy=_ENABLE,
    ),
    Case(
        code="SERVICE_DISABLED", kind=_K.PERMISSION, plain="the API is not switched on in the project", remedy=_ENABLE
    ),
    Case(
        code="BILLING_DISABLED",
        kind=_K.PERMISSION,
        plain="the project has no billing account",
        remedy="Link one: `gcloud billing projects link {project} --billing-account=<account>`.",
    ),
    Case(
        says=r"billing (account|to be enabled)|billing .*disabled",
        kind=_K.PERMISSION,
        plain="the project has no billing account that is open",
        remedy="Link one: `gcloud billing projects link {project} --billing-account=<account>`.",
    ),
    Case(
        says=r"constraints/compute\.vmExternalIpAccess",
        kind=_K.PERMISSION,
        plain="a rule of the organisation forbids public addresses",
        remedy="Set `external_ip` of the provider to false, and give the network Cloud NAT.",
    ),
    Case(
        says=r"constraint constraints/",
        kind=_K.PERMISSION,
        plain="a rule of the organisation forbids it",
        remedy="Ask who administers the organisation; the rule is named below.",
    ),
    Case(
        says=r"iam\.serviceAccounts\.actAs|service account .*(act|use)",
        kind=_K.PERMISSION,
        plain="the identity may not hand out the service account of the machines",
        remedy="Give it roles/iam.serviceAccountUser on that account, or leave `service_account` empty.",
    ),
    Case(code="forbidden", kind=_K.PERMISSION, plain="the identity may not do this", remedy=_GRANT),
    Case(
        code="insufficientPermissions",
        kind=_K.PERMISSION,
        plain="the credentials are for less than this",
        remedy="Use credentials with the scope https://www.googleapis.com/auth/cloud-platform.",
    ),
    Case(
        code="ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        kind=_K.PERMISSION,
        plain="the credentials are for less than this",
        remedy="Use credentials with the scope https://www.googleapis.com/auth/cloud-platform.",
    ),
    Case(code="IAM_PERMISSION_DENIED", kind=_K.PERMISSION, plain="the identity may not do this", remedy=_GRANT),
    Case(code="PERMISSIONS_ERROR", kind=_K.PERMISSION, plain="the identity may not do this", remedy=_GRANT),
    Case(
        code="CONSUMER_INVALID",
        kind=_K.PERMISSION,
        plain="there is no such project, or not for this identity",
        remedy="`gcloud projects list` shows those that there are; set the provider's `project`.",
    ),
    Case(
        says=r"resource 'projects/[^/']+' was not found|failed to find project",
        kind=_K.PERMISSION,
        plain="there is no such project, or not for this identity",
        remedy="`gcloud projects list` shows those that there are; set the provider's `project`.",
    ),
    # The image.
    Case(
        says=r"architecture.*(match|compatible|support)|(match|compatible|support).*architecture",
        kind=_K.BAD_IMAGE,
        plain="the image is for another processor than the machine's",
        remedy="Set `image_arm64` for ARM types and `image` for the others.",
    ),
    Case(
        says=r"sourceimage|/images/|\bimages?\b.*(not found|deprecated|obsolete|does not exist)",
        kind=_K.BAD_IMAGE,
        plain="the image does not exist, or not for this identity",
        remedy=_SEE_IMAGES,
    ),
    Case(
        says=r"disk size.*smaller than",
        kind=_K.BAD_IMAGE,
        plain="the disk is smaller than the image needs",
        remedy="Ask for a larger disk, or for none, which takes the image's own size.",
    ),
    Case(
        says=r"uefi",
        kind=_K.BAD_IMAGE,
        plain="the image cannot boot as a shielded machine",
        remedy=_SEE_IMAGES,
    ),
    # The type.
    Case(
        says=r"machine ?type.*(not (found|exist|support|available)|invalid|does not)|/machinetypes/|"
        r"field 'resource\.machinetype'",
        kind=_K.BAD_TYPE,
        plain="the type does not exist there",
        remedy=_SEE_TYPES,
    ),
    Case(
        says=r"accelerator",
        kind=_K.BAD_TYPE,
        plain="the type cannot have these accelerators there",
        remedy="`gcloud compute accelerator-types list --project {project}` shows what there is.",
    ),
    Case(
        says=r"(spot|preemptible|provisioning ?model).*(not|un)\s?support|not.* support.*(spot|preemptible)",
        kind=_K.BAD_TYPE,
        plain="the type is not to be had as a spot machine",
        remedy="Ask for it on demand, or for another type.",
    ),
    Case(
        says=r"disk ?type.*(not|cannot|incompatible|invalid)|/disktypes/|(pd-|hyperdisk).*(not|cannot)",
        kind=_K.BAD_TYPE,
        plain="the type cannot boot from this type of disk",
        remedy="Leave the provider's `disk_type` empty, or set one that the type takes.",
    ),
    # The rest of the request.
    Case(
        says=r"subnetwork",
        kind=_K.BAD_REQUEST,
        scope=Scope.REGION,
        plain="the subnet does not exist in the region, or does not fit",
        remedy="`gcloud compute networks subnets list --project {project}` shows them; set the provider's `subnet`.",
    ),
    Case(
        says=r"/networks/|field 'resource\.networkinterfaces",
        kind=_K.BAD_REQUEST,
        scope=Scope.PROVIDER,
        plain="the network does not exist, or does not fit",
        remedy="`gcloud compute networks list --project {project}` shows them; set the provider's `network`.",
    ),
    Case(
        says=r"service ?account",
        kind=_K.BAD_REQUEST,
        scope=Scope.PROVIDER,
        plain="the service account of the machines does not exist",
        remedy="`gcloud iam service-accounts list --project {project}` shows them; set `service_account`.",
    ),
    Case(
        says=r"unknown (zone|region)|/zones/[^/' ]+' was not found|/regions/[^/' ]+' was not found|"
        r"field '(zone|region)'",
        kind=_K.BAD_REQUEST,
        scope=Scope.REGION,
        plain="there is no such zone",
        remedy="`gcloud compute zones list --project {project}` shows them.",
    ),
    Case(
        code="RESOURCE_NOT_READY",
        kind=_K.UNAVAILABLE,
        plain="something that it needs is not ready",
        remedy=_LATER,
    ),
    Case(
        code="resourceNotReady",
        kind=_K.UNAVAILABLE,
        plain="something that it needs is not ready",
        remedy=_LATER,
    ),
    # Google's own trouble.
    Case(code="INTERNAL_ERROR", kind=_K.UNAVAILABLE, plain="Google failed", remedy=_LATER),
    Case(code="backendError", kind=_K.UNAVAILABLE, plain="Google failed", remedy=_LATER),
    Case(code="internalError", kind=_K.UNAVAILABLE, plain="Google failed", remedy=_LATER),
    Case(code="UNREACHABLE", kind=_K.UNAVAILABLE, plain="a part of Google could not be asked", remedy=_LATER),
    Case(code="CONNECTION", kind=_K.UNAVAILABLE, plain="the connection to Google broke", remedy=_LATER),
    Case(code="NO_ANSWER", kind=_K.TIMEOUT, plain="Google did not answer in time", remedy=_LATER),
    Case(code="OPERATION_PENDING", kind=_K.TIMEOUT, plain="Google is still at it", remedy=_LATER),
)
"""Read from the top; the first that fits is meant."""

STATUSES: Final[dict[int, Case]] = {
    401: Case(kind=_K.CREDENTIALS, plain="Google does not believe the credentials", remedy=_LOG_IN),
    403: Case(kind=_K.PERMISSION, plain="the identity may not do this", remedy=_GRANT),
    408: Case(kind=_K.TIMEOUT, plain="Google did not answer in time", remedy=_LATER),
    429: Case(kind=_K.THROTTLED, plain="too many calls", remedy=_LATER),
    504: Case(kind=_K.TIMEOUT, plain="Google did not answer in time", remedy=_LATER),
}
WRONG: Final = Case(kind=_K.BAD_REQUEST, plain="the request is wrong", remedy="The reason is named below.")
FAILED: Final = Case(kind=_K.UNAVAILABLE, plain="Google failed", remedy=_LATER)

"""What Amazon's refusals mean: one table from its codes, one from its library's exceptions. Data only.

Source of the codes: the EC2 API reference, "Error codes for the Amazon EC2 API". Next: `errors.py`, which reads this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from styx_server.core.machines.refusal import RefusalKind, Scope

_K = RefusalKind


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means. `words`: for people, with what to do; `scope`: None: as the rule for the kind says."""

    kind: RefusalKind
    words: str
    scope: Scope | None = None


_NO_CAPACITY = "Amazon has no such machine free there now; other zones and types are tried"
_VCPUS = (
    "the account's limit for this family of machines is reached; ask for more under Service Quotas > Amazon EC2, "
    "or name other machine types"
)
_SPOT_QUOTA = "the account's limit for spot machines is reached; ask for more under Service Quotas > Amazon EC2"
_DISK_QUOTA = "the account's limit for disks in the region is reached; ask for more under Service Quotas > Amazon EBS"
_CREDENTIALS = (
    "the credentials are not valid, or the region is not enabled for the account; "
    "`aws sts get-caller-identity --region REGION` shows which"
)
_EXPIRED = "the credentials have expired; renew them (`aws sso login`, or a role that renews itself)"
_DENIED = "the identity may not do this; compare its policy with docs/providers/aws.md"
_THROTTLED = "too many calls for the account and region; the call is repeated a little later"
_NO_IMAGE = "the image does not exist in the region or may not be used; see aws.images and the image of the pool"
_FAILED = "Amazon failed; whether it did something is not known, and the same call is made again"
_BUG = "Amazon cannot read the request; this is a fault of Styx, please report it"

CODES: Final[Mapping[str, Meaning]] = {
    # No such machine free. InsufficientInstanceCapacity comes with status 500 and means nevertheless that nothing was
    # rented.
    "InsufficientInstanceCapacity": Meaning(_K.CAPACITY, _NO_CAPACITY),
    "InsufficientHostCapacity": Meaning(_K.CAPACITY, _NO_CAPACITY),
    "InsufficientCapacity": Meaning(_K.CAPACITY, _NO_CAPACITY),
    "InsufficientCapacityOnHost": Meaning(_K.CAPACITY, _NO_CAPACITY),
    "InsufficientReservedInstanceCapacity": Meaning(_K.CAPACITY, _NO_CAPACITY),
    "UnfulfillableCapacity": Meaning(_K.CAPACITY, _NO_CAPACITY),
    "SpotMaxPriceTooLow": Meaning(_K.CAPACITY, "spot machines cost more there now than was offered"),
    "InsufficientVolumeCapacity": Meaning(_K.CAPACITY, "the zone has no room for disks now", Scope.ZONE),
    "InsufficientAddressCapacity": Meaning(_K.CAPACITY, "the zone has no free addresses now", Scope.ZONE),
    # The account may not have more. Limits count families of machines, so other types may still be had.
    "VcpuLimitExceeded": Meaning(_K.QUOTA, _VCPUS, Scope.TYPE),
    "InstanceLimitExceeded": Meaning(_K.QUOTA, _VCPUS, Scope.TYPE),
    "MaxSpotInstanceCountExceeded": Meaning(_K.QUOTA, _SPOT_QUOTA, Scope.TYPE),
    "VolumeLimitExceeded": Meaning(_K.QUOTA, _DISK_QUOTA),
    "MaxIOPSLimitExceeded": Meaning(_K.QUOTA, _DISK_QUOTA),
    "NetworkInterfaceLimitExceeded": Meaning(_K.QUOTA, "the region's limit for network interfaces is reached"),
    "AddressLimitExceeded": Meaning(_K.QUOTA, "the region's limit for addresses is reached"),
    "InsufficientFreeAddressesInSubnet": Meaning(
        _K.QUOTA, "the subnet has no free address; add a larger one to aws.subnets", Scope.ZONE
    ),
    # Too fast.
    "RequestLimitExceeded": Meaning(_K.THROTTLED, _THROTTLED),
    "Throttling": Meaning(_K.THROTTLED, _THROTTLED),
    "ThrottlingException": Meaning(_K.THROTTLED, _THROTTLED),
    "ThrottledException": Meaning(_K.THROTTLED, _THROTTLED),
    "RequestThrottled": Meaning(_K.THROTTLED, _THROTTLED),
    "TooManyRequestsException": Meaning(_K.THROTTLED, _THROTTLED),
    "EC2ThrottledException": Meaning(_K.THROTTLED, _THROTTLED),
    # Nobody whom Amazon believes. A region that is not enabled says AuthFailure too, hence the region.
    "AuthFailure": Meaning(_K.CREDENTIALS, _CREDENTIALS, Scope.REGION),
    "InvalidClientTokenId": Meaning(_K.CREDENTIALS, _CREDENTIALS, Scope.REGION),
    "UnrecognizedClientException": Meaning(_K.CREDENTIALS, _CREDENTIALS, Scope.REGION),
    "SignatureDoesNotMatch": Meaning(_K.CREDENTIALS, "the secret key is wrong"),
    "IncompleteSignature": Meaning(_K.CREDENTIALS, "the secret key is wrong"),
    "MissingAuthenticationToken": Meaning(_K.CREDENTIALS, "there are no credentials"),
    "ExpiredToken": Meaning(_K.CREDENTIALS, _EXPIRED),
    "ExpiredTokenException": Meaning(_K.CREDENTIALS, _EXPIRED),
    "RequestExpired": Meaning(_K.CREDENTIALS, "the clock of this machine is wrong, or the credentials have expired"),
    # Somebody who may not.
    "UnauthorizedOperation": Meaning(_K.PERMISSION, _DENIED),
    "AccessDenied": Meaning(_K.PERMISSION, _DENIED),
    "AccessDeniedException": Meaning(_K.PERMISSION, _DENIED),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": Meaning(
        _K.PERMISSION,
        "the account has no role for spot machines yet; once: "
        "`aws iam create-service-linked-role --aws-service-name spot.amazonaws.com`",
    ),
    "OperationNotPermitted": Meaning(_K.PERMISSION, "the machine is protected; lift its termination protection"),
    "OptInRequired": Meaning(
        _K.PERMISSION,
        "the account has not subscribed: enable the region, or accept the terms of the Marketplace image",
        Scope.REGION,
    ),
    "Blocked": Meaning(_K.PERMISSION, "the account is blocked; ask Amazon's support"),
    "PendingVerification": Meaning(
        _K.PERMISSION, "Amazon is still verifying the account for this region; it takes up to four hours", Scope.REGION
    ),
    # The image.
    "InvalidAMIID.NotFound": Meaning(_K.BAD_IMAGE, _NO_IMAGE),
    "InvalidAMIID.Malformed": Meaning(_K.BAD_IMAGE, _NO_IMAGE),
    "InvalidAMIID.Unavailable": Meaning(_K.BAD_IMAGE, _NO_IMAGE),
    "ParameterNotFound": Meaning(_K.BAD_IMAGE, "the SSM parameter of the image does not exist in the region"),
    "ParameterVersionNotFound": Meaning(_K.BAD_IMAGE, "the SSM parameter of the image has no such version"),
    "InvalidBlockDeviceMapping": Meaning(_K.BAD_IMAGE, "the image does not take such a root disk"),
    # The type. "Unsupported" names a zone: the type may well exist in another.
    "InvalidInstanceType": Meaning(_K.BAD_TYPE, "the region has no such machine type"),
    "Unsupported": Meaning(_K.BAD_TYPE, "the zone has no such machine type; other zones are tried", Scope.OFFER),
    "UnsupportedTenancy": Meaning(_K.BAD_TYPE, "the type is not to be had in the VPC's tenancy"),
    # The request.
    "InvalidParameterValue": Meaning(_K.BAD_REQUEST, "a value of the request is wrong"),
    "InvalidParameterCombination": Meaning(_K.BAD_REQUEST, "two values of the request do not go together"),
    "InvalidParameter": Meaning(_K.BAD_REQUEST, "a value of the request is wrong"),
    "MissingParameter": Meaning(_K.BAD_REQUEST, _BUG),
    "UnsupportedOperation": Meaning(_K.BAD_REQUEST, "EC2 does not do this"),
    "InvalidUserData.Malformed": Meaning(_K.BAD_REQUEST, "the first-boot script is not readable"),
    "InvalidInput": Meaning(_K.BAD_REQUEST, "a value of the request is wrong"),
    "IdempotentParameterMismatch": Meaning(_K.UNAVAILABLE, "an earlier order under this key is not on the list yet"),
    "IdempotentInstanceTerminated": Meaning(
        _K.BAD_REQUEST, "the machine of this order has already ended", Scope.NOTHING
    ),
    "InvalidSubnetID.NotFound": Meaning(_K.BAD_REQUEST, "the subnet does not exist; see aws.subnets", Scope.ZONE),
    "InvalidSubnet": Meaning(_K.BAD_REQUEST, "the subnet cannot be used; see aws.subnets", Scope.ZONE),
    "InvalidGroup.NotFound": Meaning(
        _K.BAD_REQUEST,
        "a security group does not exist, or not in the subnet's VPC; see aws.security_groups",
        Scope.REGION,
    ),
    "VPCIdNotSpecified": Meaning(
        _K.BAD_REQUEST, "the region has no default VPC; `aws ec2 create-default-vpc`, or set aws.subnets", Scope.REGION
    ),
    "MissingInput": Meaning(
        _K.BAD_REQUEST,
        "the zone has no default subnet; `aws ec2 create-default-subnet`, or set aws.subnets",
        Scope.ZONE,
    ),
    # Amazon's own faults.
    "InternalError": Meaning(_K.UNAVAILABLE, _FAILED),
    "InternalFailure": Meaning(_K.UNAVAILABLE, _FAILED),
    "ServerInternal": Meaning(_K.UNAVAILABLE, _FAILED),
    "Unavailable": Meaning(_K.UNAVAILABLE, _FAILED),
    "ServiceUnavailable": Meaning(_K.UNAVAILABLE, _FAILED),
    "RequestTimeout": Meaning(_K.TIMEOUT, _FAILED),
    "RequestTimeoutException": Meaning(_K.TIMEOUT, _FAILED),
}
"""From EC2's code, as it is written in its answers."""

DETAILS: Final[tuple[tuple[str, str, Meaning], ...]] = (
    ("InvalidParameterValue", "User data is limited", Meaning(_K.BAD_REQUEST, "the first-boot script is over 16 KB")),
    (
        "InvalidParameterValue",
        "IAM Instance Profile",
        Meaning(_K.BAD_REQUEST, "the role does not exist, or is too new; see aws.instance_profile", Scope.PROVIDER),
    ),
    ("InvalidParameterValue", "availability zone", Meaning(_K.BAD_REQUEST, "no such zone", Scope.ZONE)),
    ("InvalidParameterValue", "architecture", Meaning(_K.BAD_IMAGE, "the image does not run on that type", Scope.TYPE)),
    (
        "InvalidParameterCombination",
        "Free Tier",
        Meaning(
            _K.PERMISSION, "the account is on the free plan, which has few types; leave it, or name types", Scope.TYPE
        ),
    ),
    ("InvalidParameterCombination", "not supported in", Meaning(_K.BAD_TYPE, "the type is not to be had so")),
)
"""Codes that mean several things: what the message has in it, and what it means then."""

_NO_CREDENTIALS = Meaning(
    _K.CREDENTIALS, "there are no credentials; set aws.profile, AWS_ACCESS_KEY_ID, or give the server's machine a role"
)
_LOST = Meaning(_K.UNAVAILABLE, "the connection to Amazon broke; whether it did something is not known")

EXCEPTIONS: Final[Mapping[str, Meaning]] = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "TokenRetrievalError": Meaning(_K.CREDENTIALS, _EXPIRED),
    "SSOError": Meaning(_K.CREDENTIALS, _EXPIRED),
    "ProfileNotFound": Meaning(_K.CREDENTIALS, "aws.profile is not in the credentials file"),
    "InvalidRegionError": Meaning(_K.BAD_REQUEST, "there is no such region; see aws.regions", Scope.REGION),
    "ParamValidationError": Meaning(_K.BAD_REQUEST, _BUG),
    "ReadTimeoutError": Meaning(_K.TIMEOUT, "Amazon did not answer in time; whether it did something is not known"),
    "ConnectTimeoutError": Meaning(_K.TIMEOUT, "Amazon could not be reached in time"),
    "EndpointConnectionError": Meaning(
        _K.UNAVAILABLE, "Amazon could not be reached; is there a way out to the internet, and is the region real?"
    ),
    "SSLError": Meaning(_K.UNAVAILABLE, "Amazon's certificate is not believed; is there a proxy between?"),
    "ProxyConnectionError": Meaning(_K.UNAVAILABLE, "the proxy could not be reached"),
    "ConnectionClosedError": _LOST,
    "HTTPClientError": _LOST,
    "IncompleteReadError": _LOST,
    "ResponseParserError": _LOST,
    "BotoCoreError": Meaning(_K.BAD_REQUEST, "Amazon's library refused the call"),
}
"""From the library's exceptions; the first class that is here, from the exception's own up to its parents."""

STATUSES: Final[Mapping[int, Meaning]] = {
    401: Meaning(_K.CREDENTIALS, _CREDENTIALS, Scope.REGION),
    403: Meaning(_K.PERMISSION, _DENIED),
    408: Meaning(_K.TIMEOUT, _FAILED),
    429: Meaning(_K.THROTTLED, _THROTTLED),
    504: Meaning(_K.TIMEOUT, _FAILED),
}
"""For a code that nobody knows: from the status of the answer. Other statuses go by their hundred."""

SERVER_FAILED: Final = Meaning(_K.UNAVAILABLE, _FAILED)
REQUEST_WRONG: Final = Meaning(_K.BAD_REQUEST, "Amazon does not take the request")

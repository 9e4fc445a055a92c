"""What EC2's refusals mean to Styx: every code that is known, some that are not, and what never reached Amazon."""

from __future__ import annotations

import pytest
from botocore import exceptions

from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.aws.codes import CODES
from styx_server.providers.aws.errors import is_refusal, refusal

K = RefusalKind
S = Scope
WHAT = "m5.large in aws/us-east-1/us-east-1a"


def client_error(code: str, message: str, status: int, **headers: str) -> exceptions.ClientError:
    """As boto3 raises it."""
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return exceptions.ClientError(answer, "RunInstances")


CASES = [
    ("InsufficientInstanceCapacity", 500, "We currently do not have sufficient m5.large", K.CAPACITY, S.OFFER),
    ("InsufficientHostCapacity", 500, "", K.CAPACITY, S.OFFER),
    ("InsufficientCapacityOnHost", 400, "", K.CAPACITY, S.OFFER),
    ("InsufficientReservedInstanceCapacity", 500, "", K.CAPACITY, S.OFFER),
    ("UnfulfillableCapacity", 400, "", K.CAPACITY, S.OFFER),
    ("SpotMaxPriceTooLow", 400, "Your Spot request price of 0.1 is lower than the minimum", K.CAPACITY, S.OFFER),
    ("InsufficientVolumeCapacity", 500, "", K.CAPACITY, S.ZONE),
    ("InsufficientAddressCapacity", 500, "", K.CAPACITY, S.ZONE),
    ("VcpuLimitExceeded", 400, "You have requested more vCPU capacity than your current limit of 0", K.QUOTA, S.TYPE),
    ("InstanceLimitExceeded", 400, "Your quota allows for 0 more running instance(s)", K.QUOTA, S.TYPE),
    ("MaxSpotInstanceCountExceeded", 400, "Max spot instance count exceeded", K.QUOTA, S.TYPE),
    ("VolumeLimitExceeded", 400, "", K.QUOTA, S.REGION),
    ("MaxIOPSLimitExceeded", 400, "", K.QUOTA, S.REGION),
    ("NetworkInterfaceLimitExceeded", 400, "", K.QUOTA, S.REGION),
    ("InsufficientFreeAddressesInSubnet", 400, "", K.QUOTA, S.ZONE),
    ("RequestLimitExceeded", 503, "Request limit exceeded.", K.THROTTLED, S.NOTHING),
    ("Throttling", 400, "Rate exceeded", K.THROTTLED, S.NOTHING),
    ("ThrottlingException", 400, "Rate exceeded", K.THROTTLED, S.NOTHING),
    ("EC2ThrottledException", 400, "", K.THROTTLED, S.NOTHING),
    ("AuthFailure", 401, "AWS was not able to validate the provided access credentials", K.CREDENTIALS, S.REGION),
    ("InvalidClientTokenId", 403, "The security token included in the request is invalid", K.CREDENTIALS, S.REGION),
    ("UnrecognizedClientException", 400, "", K.CREDENTIALS, S.REGION),
    ("SignatureDoesNotMatch", 403, "", K.CREDENTIALS, S.PROVIDER),
    ("ExpiredToken", 400, "The provided token has expired.", K.CREDENTIALS, S.PROVIDER),
    ("ExpiredTokenException", 400, "The security token included in the request is expired", K.CREDENTIALS, S.PROVIDER),
    ("RequestExpired", 400, "Request has expired.", K.CREDENTIALS, S.PROVIDER),
    ("UnauthorizedOperation", 403, "You are not authorized to perform this operation.", K.PERMISSION, S.PROVIDER),
    ("AccessDeniedException", 400, "not authorized to perform: pricing:GetProducts", K.PERMISSION, S.PROVIDER),
    ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", 403, "", K.PERMISSION, S.PROVIDER),
    ("OptInRequired", 401, "You are not subscribed to this service.", K.PERMISSION, S.REGION),
    ("InvalidParameterCombination", 400, "The type is not eligible for Free Tier.", K.PERMISSION, S.TYPE),
    ("InvalidParameterCombination", 400, "The type is not supported in this combination", K.BAD_TYPE, S.TYPE),
    ("PendingVerification", 400, "Your request for accessing resources is being validated", K.PERMISSION, S.REGION),
    ("Blocked", 403, "This account is currently blocked", K.PERMISSION, S.PROVIDER),
    ("InvalidAMIID.NotFound", 400, "The image id '[ami-0]' does not exist", K.BAD_IMAGE, S.REGION),
    ("InvalidAMIID.Malformed", 400, "", K.BAD_IMAGE, S.REGION),
    ("InvalidAMIID.Unavailable", 400, "", K.BAD_IMAGE, S.REGION),
    ("ParameterNotFound", 400, "", K.BAD_IMAGE, S.REGION),
    ("InvalidParameterValue", 400, "The architecture 'arm64' of the type does not match", K.BAD_IMAGE, S.TYPE),
    ("InvalidInstanceType", 400, "Invalid value 'm5.huge' for InstanceType", K.BAD_TYPE, S.TYPE),
    ("Unsupported", 400, "Your requested instance type is not supported in us-east-1e", K.BAD_TYPE, S.OFFER),
    ("InvalidParameterValue", 400, "User data is limited to 16384 bytes", K.BAD_REQUEST, S.TYPE),
    (
        "InvalidParameterValue",
        400,
        "Value (r) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        K.BAD_REQUEST,
        S.PROVIDER,
    ),
    ("InvalidParameterValue", 400, "Invalid availability zone: [us-east-1z]", K.BAD_REQUEST, S.ZONE),
    ("InvalidParameterValue", 400, "Volume of size 4GB is smaller than snapshot", K.BAD_REQUEST, S.TYPE),
    ("InvalidSubnetID.NotFound", 400, "The subnet ID 'subnet-0' does not exist", K.BAD_REQUEST, S.ZONE),
    ("InvalidGroup.NotFound", 400, "The security group 'sg-0' does not exist", K.BAD_REQUEST, S.REGION),
    ("VPCIdNotSpecified", 400, "No default VPC for this user.", K.BAD_REQUEST, S.REGION),
    ("MissingInput", 400, "No default subnet for availability zone: 'us-east-1e'.", K.BAD_REQUEST, S.ZONE),
    ("IdempotentInstanceTerminated", 400, "", K.BAD_REQUEST, S.NOTHING),
    ("InternalError", 500, "An internal error has occurred", K.UNAVAILABLE, S.ZONE),
    ("InternalFailure", 500, "", K.UNAVAILABLE, S.ZONE),
    ("Unavailable", 503, "The service is unavailable. Please try again shortly.", K.UNAVAILABLE, S.ZONE),
    ("ServiceUnavailable", 503, "", K.UNAVAILABLE, S.ZONE),
    # Nobody has heard of these; the status has to do.
    ("SomethingNew", 400, "Amazon has invented something", K.BAD_REQUEST, S.TYPE),
    ("SomethingNew", 401, "", K.CREDENTIALS, S.REGION),
    ("SomethingNew", 403, "", K.PERMISSION, S.PROVIDER),
    ("SomethingNew", 429, "", K.THROTTLED, S.NOTHING),
    ("SomethingNew", 500, "", K.UNAVAILABLE, S.ZONE),
    ("SomethingNew", 504, "", K.TIMEOUT, S.ZONE),
    ("SomethingNew", 0, "", K.UNAVAILABLE, S.ZONE),
]


@pytest.mark.parametrize(("code", "status", "message", "kind", "scope"), CASES)
def test_a_code_has_one_meaning(code: str, status: int, message: str, kind: RefusalKind, scope: Scope) -> None:
    error = refusal(client_error(code, message, status), WHAT)
    assert (error.kind, error.scope, error.code) == (kind, scope, code)
    assert error.message.startswith(WHAT)
    assert message in error.message


BROKEN = [
    (exceptions.NoCredentialsError(), K.CREDENTIALS),
    (exceptions.PartialCredentialsError(provider="env", cred_var="secret"), K.CREDENTIALS),
    (exceptions.CredentialRetrievalError(provider="process", error_msg="exit 1"), K.CREDENTIALS),
    (exceptions.UnauthorizedSSOTokenError(), K.CREDENTIALS),
    (exceptions.TokenRetrievalError(provider="sso", error_msg="expired"), K.CREDENTIALS),
    (exceptions.ProfileNotFound(profile="work"), K.CREDENTIALS),
    (exceptions.EndpointConnectionError(endpoint_url="https://ec2", error="refused"), K.UNAVAILABLE),
    (exceptions.ConnectionClosedError(endpoint_url="https://ec2", error="closed"), K.UNAVAILABLE),
    (exceptions.ProxyConnectionError(proxy_url="http://proxy", error="refused"), K.UNAVAILABLE),
    (exceptions.SSLError(endpoint_url="https://ec2", error="self signed"), K.UNAVAILABLE),
    (exceptions.HTTPClientError(error="broken pipe"), K.UNAVAILABLE),
    (exceptions.ConnectTimeoutError(endpoint_url="https://ec2", error="time"), K.TIMEOUT),
    (exceptions.ReadTimeoutError(endpoint_url="https://ec2", error="time"), K.TIMEOUT),
    (exceptions.ParamValidationError(report="KeyName must be text"), K.BAD_REQUEST),
    (exceptions.InvalidRegionError(region_name="us east 1"), K.BAD_REQUEST),
]


@pytest.mark.parametrize(("raised", "kind"), BROKEN, ids=lambda value: type(value).__name__)
def test_what_never_reached_amazon_has_a_meaning_too(raised: Exception, kind: RefusalKind) -> None:
    assert is_refusal(raised)
    error = refusal(raised, WHAT)
    assert error.kind is kind
    assert error.code == type(raised).__name__
    assert str(raised) in error.message


def test_a_fault_of_our_own_is_not_blamed_on_amazon() -> None:
    assert not is_refusal(KeyError("State"))


def test_a_lack_of_machines_is_a_known_fate_though_the_server_says_500() -> None:
    assert refusal(client_error("InsufficientInstanceCapacity", "", 500), WHAT).fate_known
    assert not refusal(client_error("InternalError", "", 500), WHAT).fate_known


def test_prefixes_of_old_answers_make_no_difference() -> None:
    error = refusal(client_error("Client.InvalidAMIID.NotFound", "", 400), WHAT)
    assert (error.kind, error.code) == (K.BAD_IMAGE, "InvalidAMIID.NotFound")


def test_a_sealed_denial_comes_with_the_command_that_opens_it() -> None:
    sealed = "You are not authorized to perform this operation. Encoded authorization failure message: aBc-123_x"
    message = refusal(client_error("UnauthorizedOperation", sealed, 403), WHAT).message
    assert "aws sts decode-authorization-message --encoded-message aBc-123_x" in message
    assert "Encoded authorization" not in message
    assert "docs/providers/aws.md" in message


def test_the_wait_that_amazon_asks_for_is_passed_on() -> None:
    raised = client_error("RequestLimitExceeded", "", 503, **{"retry-after": "7"})
    assert refusal(raised, WHAT).retry_after_seconds == 7
    assert refusal(client_error("RequestLimitExceeded", "", 503), WHAT).retry_after_seconds is None


def test_every_kind_has_a_code_and_every_code_has_words() -> None:
    assert {meaning.kind for meaning in CODES.values()} == set(RefusalKind)
    assert [code for code, meaning in CODES.items() if " " not in meaning.words] == []

"""What a provider's refusal means: what it blocks, for how long, and whether the same may be asked again.

Every provider translates its own error codes to a `RefusalKind`; from there on all are treated alike. Next:
`failover.py`, which remembers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class RefusalKind(StrEnum):
    """Why a provider did not do what was asked."""

    CAPACITY = "capacity"
    """It has no such machine there now."""
    QUOTA = "quota"
    """The account may not have more of them there."""
    PERMISSION = "permission"
    """The identity may not do this."""
    CREDENTIALS = "credentials"
    """There is no identity, or it is not believed."""
    THROTTLED = "throttled"
    """Too many calls; the same call is good a little later."""
    BAD_IMAGE = "bad_image"
    """The image does not exist there, or does not run on that type."""
    BAD_TYPE = "bad_type"
    """The type does not exist there, or not so (as spot, with that accelerator)."""
    BAD_REQUEST = "bad_request"
    """Anything else that is wrong with the request; the same again gives the same."""
    UNAVAILABLE = "unavailable"
    """The provider failed (5xx, connection refused); whether it did something is not known."""
    TIMEOUT = "timeout"
    """No answer in time; whether it did something is not known."""


class Scope(StrEnum):
    """How much of a provider a refusal speaks of."""

    NOTHING = "nothing"
    OFFER = "offer"
    """This type, as spot or not, in this zone (or region, where the provider picks the zone)."""
    TYPE = "type"
    """This type, as spot or not, in the whole region."""
    ZONE = "zone"
    REGION = "region"
    """All that is rented alike (spot or not) in the region."""
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What follows from a refusal.

    Attributes:
        scope: what is not tried for a while.
        seconds: for how long, the first time; doubles each time that it happens again.
        most_seconds: never longer than this.
        repeats: the same call, with the same idempotency key, is to be made again.
        fate_known: it is sure that nothing was rented.
        tells_user: a person has to do something; the words reach whoever waits.
    """

    scope: Scope
    seconds: float
    most_seconds: float
    repeats: bool = False
    fate_known: bool = True
    tells_user: bool = False


RULES: Final[dict[RefusalKind, Rule]] = {
    RefusalKind.CAPACITY: Rule(scope=Scope.OFFER, seconds=120, most_seconds=3600),
    RefusalKind.QUOTA: Rule(scope=Scope.REGION, seconds=900, most_seconds=7200, tells_user=True),
    RefusalKind.PERMISSION: Rule(scope=Scope.PROVIDER, seconds=600, most_seconds=3600, tells_user=True),
    RefusalKind.CREDENTIALS: Rule(scope=Scope.PROVIDER, seconds=300, most_seconds=3600, tells_user=True),
    RefusalKind.THROTTLED: Rule(scope=Scope.NOTHING, seconds=2, most_seconds=60, repeats=True),
    RefusalKind.BAD_IMAGE: Rule(scope=Scope.REGION, seconds=3600, most_seconds=86_400, tells_user=True),
    RefusalKind.BAD_TYPE: Rule(scope=Scope.TYPE, seconds=21_600, most_seconds=86_400),
    RefusalKind.BAD_REQUEST: Rule(scope=Scope.TYPE, seconds=3600, most_seconds=86_400, tells_user=True),
    RefusalKind.UNAVAILABLE: Rule(scope=Scope.ZONE, seconds=5, most_seconds=300, repeats=True, fate_known=False),
    RefusalKind.TIMEOUT: Rule(scope=Scope.ZONE, seconds=5, most_seconds=300, repeats=True, fate_known=False),
}
"""The one table; providers only classify."""

"""The port: what Styx asks of who rents out machines. `tests/providers` has the behaviour that all must show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from styx_server.core.machines.instance import CloudMachine, RentOrder
from styx_server.core.machines.offer import CatalogEntry, Place
from styx_server.core.machines.refusal import RULES, RefusalKind, Scope


class ProviderError(Exception):
    """A provider did not do what was asked.

    Attributes:
        kind: what it means to Styx.
        code: the provider's own word for it, for people and for the issue tracker.
        message: for people, in plain words: what, where, and what to do about it.
        scope: how much it speaks of, when the provider was more exact than the rule for `kind`.
        retry_after_seconds: when the provider said so.
    """

    def __init__(
        self,
        kind: RefusalKind,
        message: str,
        *,
        code: str = "",
        scope: Scope | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message
        self.scope = scope or RULES[kind].scope
        self.retry_after_seconds = retry_after_seconds

    @property
    def fate_known(self) -> bool:
        """Whether it is sure that nothing was rented."""
        return RULES[self.kind].fate_known


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that `styx check` says. `remedy`: what to do when it is not good, as a command where there is one."""

    good: bool
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Whether a provider can be used, and by whom.

    Attributes:
        identity: who Styx is to the provider, for example an ARN; empty: nobody.
        findings: credentials, regions, each permission that is needed, image, network.
    """

    provider: str
    identity: str
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether machines can be rented."""
        return all(finding.good for finding in self.findings)


class Provider(Protocol):
    """Who rents out machines. Every method may raise ProviderError, and nothing else on purpose.

    Methods may be called at the same time. None holds the event loop: libraries that block run in threads.
    """

    @property
    def name(self) -> str:
        """`aws`, `gcp`, `kubernetes`, `local`, `fake`: the first part of its places."""
        ...

    async def offers(self) -> Sequence[CatalogEntry]:
        """All that it rents out to this account, with today's prices. May take a minute."""
        ...

    async def rent(self, order: RentOrder) -> CloudMachine:
        """Makes the machine, or finds the one that an earlier call with the same key made.

        Tags are on it from birth. Where the provider accepts a request first and refuses it later (Google Cloud), the
        call waits for that answer.
        """
        ...

    async def release(self, place: Place, cloud_id: str) -> None:
        """Ends a machine, its disks and all that came with it. One that is gone already is no error.

        Returns when the provider has accepted it; `list` tells when it is done.
        """
        ...

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """All machines in a region that carry the tag of this deployment, those that ended lately too.

        Complete or an error: a page that cannot be read is not left out.
        """
        ...

    async def check(self) -> CheckReport:
        """Whether it can be used. Asks the provider; changes nothing."""
        ...

    async def close(self) -> None:
        """Lets go of connections and threads."""
        ...

"""Understands Google's refusals, and says them in a sentence for people.

Google refuses in three ways: with an HTTP status and a `reason`; with the `code` of an operation that it had accepted
before; or not at all, when the call breaks off. All three become a `Refused` here; `cases.py` is the table of what they
mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from styx_server.core.machines.refusal import RULES
from styx_server.providers.gcp.cases import CASES, FAILED, STATUSES, WRONG, Case
from styx_server.providers.ports import ProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What Google said, before it is understood.

    Attributes:
        code: its own word.
        status: of HTTP, 0 when there was no answer.
        final: the end of an operation, so that it is sure that nothing was made.
    """

    code: str
    message: str
    status: int = 0
    final: bool = False
    retry_after_seconds: float | None = None


def understand(refused: Refused) -> Case:
    """Which row of the table is meant."""
    for case in CASES:
        if _fits(case, refused):
            return case
    if refused.status in STATUSES:
        return STATUSES[refused.status]
    return WRONG if refused.final or 400 <= refused.status < 500 else FAILED


def _fits(case: Case, refused: Refused) -> bool:
    if case.code and case.code.casefold() != refused.code.casefold():
        return False
    if not case.code and refused.status >= 500 and not refused.final:
        # Whatever words it has, Google failed, and nobody knows what it did before.
        return False
    return re.search(case.says, refused.message, re.IGNORECASE) is not None


def explain(refused: Refused, doing: str, project: str) -> ProviderError:
    """The error for whoever asked.

    Args:
        refused: what Google said.
        doing: what was being done, with its place: `renting n2-standard-4 in gcp/us-central1/us-central1-a`.
        project: for the remedy.
    """
    case = understand(refused)
    remedy = case.remedy.format(project=project or "<project>")
    said = " ".join(refused.message.split())
    words = f"{doing}: {case.plain}. {remedy}".rstrip() + (f" Google says: {said}" if said else "")
    return ProviderError(
        case.kind,
        words,
        code=refused.code or str(refused.status),
        scope=case.scope or RULES[case.kind].scope,
        retry_after_seconds=refused.retry_after_seconds,
    )


def refused_by(error: Exception) -> Refused | None:
    """What an exception of Google's libraries says; None when it is none of theirs."""
    import requests
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.protobuf.json_format import ParseError

    if isinstance(error, api.GoogleAPICallError):
        return _by_status(error)
    if isinstance(error, auth.DefaultCredentialsError):
        return Refused(code="NO_CREDENTIALS", message=str(error))
    if isinstance(error, auth.TransportError):
        return Refused(code="CONNECTION", message=str(error))
    if isinstance(error, auth.GoogleAuthError):
        return Refused(code="REFRESH_FAILED", message=str(error.args[0] if error.args else error))
    if isinstance(error, requests.Timeout):
        return Refused(code="NO_ANSWER", message=str(error))
    if isinstance(error, (requests.RequestException, api.RetryError, ParseError)):
        # A body that cannot be parsed: something between here and Google has answered.
        return Refused(code="CONNECTION", message=str(error))
    return None


def _by_status(error: Any) -> Refused:
    """Of an HTTP error: Google's `ErrorInfo` is more exact than its older `reason`, where there is one."""
    reasons = [each.get("reason", "") for each in error.errors if isinstance(each, dict)]
    response = error.response
    wait = response.headers.get("Retry-After", "") if response is not None else ""
    return Refused(
        code=error.reason or next((reason for reason in reasons if reason), ""),
        # Not with the address that was called, which the libraries put in front.
        message=re.sub(r"^[A-Z]+ http\S+: ", "", str(error.message)),
        status=int(error.code or 0),
        retry_after_seconds=float(wait) if wait.isdecimal() else None,
    )

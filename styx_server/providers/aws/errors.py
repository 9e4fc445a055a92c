"""Reads what Amazon's library raised, and says what it means. Knows no boto3: exceptions are told by their class names.

Next: `codes.py`, the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.aws.codes import (
    CODES,
    DETAILS,
    EXCEPTIONS,
    REQUEST_WRONG,
    SERVER_FAILED,
    STATUSES,
    Meaning,
)
from styx_server.providers.ports import ProviderError

_LIBRARIES: Final = ("boto3", "botocore")
_ENCODED: Final = re.compile(r"\s*Encoded authorization failure message:\s*(\S+)")


def is_refusal(error: BaseException) -> bool:
    """Whether Amazon or the way to it is at fault, and not a program here."""
    return any(kind.__module__.split(".")[0] in _LIBRARIES for kind in type(error).__mro__)


def code_of(error: BaseException) -> str:
    """Amazon's own word for an error; for what never reached Amazon, the name of the exception."""
    code: str = _answer(error).get("Code", "")
    # Some documents and some old endpoints write "Client.InvalidAMIID.NotFound".
    return code.removeprefix("Client.").removeprefix("Server.") or type(error).__name__


def refusal(error: BaseException, what: str) -> ProviderError:
    """The error as every part of Styx understands it.

    Args:
        error: of boto3.
        what: who was asked for, for people: a type and a place, or a region.
    """
    code, answer = code_of(error), _answer(error)
    meaning = _meaning(error, code, answer.get("Message", ""))
    return ProviderError(
        meaning.kind,
        f"{what}: {meaning.words} ({_quote(code, answer.get('Message') or str(error))})",
        code=code,
        scope=meaning.scope,
        retry_after_seconds=_retry_after(error),
    )


def _meaning(error: BaseException, code: str, message: str) -> Meaning:
    if not getattr(error, "response", None):
        names = (kind.__name__ for kind in type(error).__mro__)
        return next((EXCEPTIONS[name] for name in names if name in EXCEPTIONS), SERVER_FAILED)
    for wanted, part, meaning in DETAILS:
        if code == wanted and part.casefold() in message.casefold():
            return meaning
    return CODES.get(code) or _by_status(_metadata(error).get("HTTPStatusCode", 0))


def _by_status(status: int) -> Meaning:
    # An answer without a status is no answer: nothing is known.
    return STATUSES.get(status) or (REQUEST_WRONG if 400 <= status < 500 else SERVER_FAILED)


def _quote(code: str, message: str) -> str:
    """Amazon's words, with the sealed reason of a denial turned into the command that opens it."""
    encoded = _ENCODED.search(message)
    if encoded is None:
        return f"{code}: {message}" if message else code
    plain = _ENCODED.sub("", message).strip()
    return f"{code}: {plain} Why: `aws sts decode-authorization-message --encoded-message {encoded.group(1)}`"


def _answer(error: BaseException) -> Mapping[str, Any]:
    """What Amazon said; empty for what never reached it, or never came back."""
    answer: Mapping[str, Any] = (getattr(error, "response", None) or {}).get("Error", {})
    return answer


def _metadata(error: BaseException) -> Mapping[str, Any]:
    metadata: Mapping[str, Any] = (getattr(error, "response", None) or {}).get("ResponseMetadata", {})
    return metadata


def _retry_after(error: BaseException) -> float | None:
    value = str(_metadata(error).get("HTTPHeaders", {}).get("retry-after", ""))
    return float(value) if value.isdigit() else None


def not_yet_listed(what: str, key: str) -> ProviderError:
    """The key was used before, and its machine is not on the list: EC2's list lags behind its answers."""
    return ProviderError(
        RefusalKind.UNAVAILABLE,
        f"{what}: {CODES['IdempotentParameterMismatch'].words} ({key}); the same call is made again",
        code="IdempotentParameterMismatch",
    )

"""What an error of a cluster means to Styx. One table by status, a few words that tell alike ones apart.

The API server says `reason` and `message` in a Status object; some reasons cover what has to be told apart (a quota and
a missing permission are both `Forbidden`), and then only the words help. Next: `cluster.py`, which raises these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.ports import ProviderError

_K = RefusalKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAnswer:
    """What a cluster said instead of doing it.

    Attributes:
        doing: what was asked, for people: `make pod styx-1 in namespace styx`.
        status: of HTTP.
        body: the Status object; empty when something in between answered.
        retry_after: of the header, as it was written.
    """

    region: str
    doing: str
    status: int
    body: Mapping[str, Any]
    retry_after: str = ""

    @property
    def reason(self) -> str:
        """The API server's word for it: `Forbidden`, `AlreadyExists`, ..."""
        return str(self.body.get("reason") or "")

    @property
    def message(self) -> str:
        """The API server's sentence."""
        return str(self.body.get("message") or "")

    @property
    def fields(self) -> tuple[str, ...]:
        """What of the request was wrong."""
        causes = (self.body.get("details") or {}).get("causes") or ()
        return tuple(str(cause.get("field") or "") for cause in causes)


class ClusterError(ProviderError):
    """A refusal, with the answer behind it for callers that expect some of them."""

    def __init__(self, answer: ClusterAnswer, meaning: _Meaning) -> None:
        said = answer.message or f"HTTP {answer.status}"
        remedy = f"; {meaning.remedy}" if meaning.remedy else ""
        super().__init__(
            meaning.kind,
            f"cluster {answer.region} did not {answer.doing}: {said}{remedy}",
            code=f"{answer.status} {answer.reason}".strip(),
            scope=meaning.scope,
            retry_after_seconds=_seconds(answer),
        )
        self.status = answer.status
        self.reason = answer.reason


def refusal(answer: ClusterAnswer) -> ClusterError:
    """The error to raise for an answer."""
    for applies, meaning in _WORDS:
        if applies(answer):
            return ClusterError(answer, meaning)
    kind = _BY_STATUS.get(answer.status) or (_K.UNAVAILABLE if answer.status >= 500 else _K.BAD_REQUEST)
    return ClusterError(answer, _Meaning(kind=kind, remedy=_REMEDIES.get(kind, "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    kind: RefusalKind
    scope: Scope | None = None
    remedy: str = ""


def _says(status: int, words: str) -> Callable[[ClusterAnswer], bool]:
    pattern = re.compile(words, re.IGNORECASE)
    return lambda answer: answer.status == status and pattern.search(answer.message) is not None


def _wrong_image(answer: ClusterAnswer) -> bool:
    return answer.status == 422 and any(field.endswith(".image") for field in answer.fields)


_WORDS: Final[tuple[tuple[Callable[[ClusterAnswer], bool], _Meaning], ...]] = (
    (
        _says(403, r"exceeded quota|exceeds? quota|insufficient quota"),
        _Meaning(
            kind=_K.QUOTA,
            remedy="look at `kubectl get resourcequota` there, and have it raised or give machines back",
        ),
    ),
    # A LimitRange speaks of one size; others may be had.
    (
        _says(403, r"(maximum|minimum) \S+ usage per|limit to request ratio"),
        _Meaning(
            kind=_K.QUOTA,
            scope=Scope.TYPE,
            remedy="look at `kubectl get limitrange` there, and ask for a size within it",
        ),
    ),
    (
        _says(403, r"violates PodSecurity"),
        _Meaning(
            kind=_K.PERMISSION,
            remedy="set `run_as_user` of kubernetes to a number above 0, or label the namespace for less",
        ),
    ),
    (
        _says(403, r"being terminated"),
        _Meaning(
            kind=_K.BAD_REQUEST,
            scope=Scope.REGION,
            remedy="the namespace is going away: choose another, or make it anew",
        ),
    ),
    (
        _says(404, r"namespaces? .*not found"),
        _Meaning(kind=_K.BAD_REQUEST, scope=Scope.REGION, remedy="make the namespace with `kubectl create namespace`"),
    ),
    # Two pods at once under one quota: the cluster itself says to try again.
    (_says(409, r"object has been modified"), _Meaning(kind=_K.THROTTLED)),
    (_wrong_image, _Meaning(kind=_K.BAD_IMAGE, remedy="name an image as `registry/name:tag`")),
    # Of a webhook or a policy: what it decides holds for the same request again.
    (_says(400, r"admission webhook .* denied"), _Meaning(kind=_K.PERMISSION, remedy="ask who runs that webhook")),
)

_BY_STATUS: Final = {
    400: _K.BAD_REQUEST,
    401: _K.CREDENTIALS,
    403: _K.PERMISSION,
    404: _K.BAD_REQUEST,
    408: _K.TIMEOUT,
    409: _K.BAD_REQUEST,
    410: _K.UNAVAILABLE,
    413: _K.BAD_REQUEST,
    422: _K.BAD_REQUEST,
    429: _K.THROTTLED,
    500: _K.UNAVAILABLE,
    502: _K.UNAVAILABLE,
    503: _K.UNAVAILABLE,
    504: _K.TIMEOUT,
}
_REMEDIES: Final = {
    _K.PERMISSION: "see what is missing with `styx check kubernetes`",
    _K.CREDENTIALS: "log in to the cluster again, or name another kubeconfig",
}


class BadKubeconfig(Exception):
    """The kubeconfig cannot be read, has no such context, or its program for tokens failed."""


def unreachable(region: str, doing: str, error: BaseException) -> ProviderError:
    """The error to raise when no answer came at all."""
    kind, hint = _no_answer(error)
    return ProviderError(kind, f"cluster {region} did not {doing}: {hint}", code=type(error).__name__)


def _no_answer(error: BaseException) -> tuple[RefusalKind, str]:
    if isinstance(error, TimeoutError):
        return _K.TIMEOUT, "it did not answer in time"
    if isinstance(error, BadKubeconfig):
        return _K.CREDENTIALS, f"the kubeconfig is not usable: {error}; see `kubectl config view`"
    # By name, because the library that raises it is not loaded where this is.
    if any(kind.__name__ in {"ClientSSLError", "SSLError"} for kind in type(error).__mro__):
        return _K.CREDENTIALS, f"no trusted connection: {error}; see `kubectl config view`"
    return _K.UNAVAILABLE, f"it cannot be reached: {str(error) or type(error).__name__}"


def _seconds(answer: ClusterAnswer) -> float | None:
    """How long the cluster wants to be left alone."""
    told = (answer.body.get("details") or {}).get("retryAfterSeconds") or answer.retry_after
    try:
        return float(told) or None
    except (TypeError, ValueError):
        return None

"""When a call is tried again: after a failure that says so, after a random wait, within a budget of time.

Repeating is always safe, because reads change nothing and every change carries a request id that stays the same. Knows
errors and clocks; knows no method and no message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from styx import clock, ids
from styx.errors import Final, Retryable, ServerStopping, ServerUnreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How patient a client is.

    Attributes:
        connect_timeout_seconds: how long a server may take to accept a connection.
        call_timeout_seconds: how long one try of a call may take.
        budget_seconds: how long after the first failure a call is still tried again; 0: never.
        first_wait_seconds: upper bound of the first random wait; it doubles each time.
        longest_wait_seconds: the waits never grow past this.
    """

    connect_timeout_seconds: float = 3.0
    call_timeout_seconds: float = 30.0
    budget_seconds: float = 60.0
    first_wait_seconds: float = 0.1
    longest_wait_seconds: float = 5.0


def told_by_environment(env: Mapping[str, str] = os.environ) -> RetrySettings:
    """The usual patience, with the budget that STYX_RETRY_SECONDS gives.

    Raises:
        Final: the variable is not a number of seconds.
    """
    text = env.get("STYX_RETRY_SECONDS", "").strip()
    if not text:
        return RetrySettings()
    if not re.fullmatch(r"\d{1,9}(\.\d+)?", text, re.ASCII):
        raise Final(f"STYX_RETRY_SECONDS is not a number of seconds: {text!r}", reason="BAD_ENVIRONMENT")
    return RetrySettings(budget_seconds=float(text))


class Backoff:
    """The waits of one call, or of one stream that is resumed; `progressed` starts them over.

    Args:
        settings: how patient to be.
        now: seconds on a clock that only goes forward.
    """

    def __init__(self, settings: RetrySettings, *, now: Callable[[], float] = clock.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._failures = 0
        self._since = 0.0
        self._open_since: float | None = None

    def opened(self) -> None:
        """A stream goes to a server. If it lasts, the server was there, though nothing may have been said."""
        self._open_since = self._now()

    def progressed(self) -> None:
        """Something arrived: the next failure is the first of its kind again."""
        self._failures = 0

    async def after(self, failure: Retryable) -> None:
        """Waits before the next try; raises `failure` when the budget does not reach that far."""
        now, open_since = self._now(), self._open_since
        self._open_since = None
        lasted = open_since is not None and now - open_since > self._settings.longest_wait_seconds
        if lasted and isinstance(failure, ServerUnreachable | ServerStopping):
            self.progressed()
        if not self._failures:
            self._since = now
        wait = wait_seconds(self._settings, self._failures, ids.fraction(), failure.retry_after_seconds)
        if now - self._since + wait > self._settings.budget_seconds:
            raise failure
        self._failures += 1
        await clock.sleep(wait)


def wait_seconds(settings: RetrySettings, failures: int, fraction: float, asked: float | None) -> float:
    """The wait after `failures` earlier ones: full jitter under a doubling bound, on top of what the server asked."""
    bound = min(settings.longest_wait_seconds, settings.first_wait_seconds * 2.0 ** min(failures, 30))
    return max(asked or 0.0, 0.0) + fraction * bound

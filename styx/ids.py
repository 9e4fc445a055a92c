"""The SDK's one home for dice: request ids and the jitter of retries."""

from __future__ import annotations

import random
import secrets


def request_id() -> str:
    """An id for one request, never used before: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def fraction() -> float:
    """A random number in [0, 1), to spread retries over time."""
    return random.random()  # noqa: S311 - jitter is no secret

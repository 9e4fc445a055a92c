"""The one home of randomness in the server: ids, secrets and jitter are drawn here."""

from __future__ import annotations

import random
import secrets
from uuid import UUID, uuid4


def new_uuid() -> UUID:
    """An identity for something that has no sequence: a replica, a deployment."""
    return uuid4()


def new_secret() -> str:
    """256 bits as URL-safe text, for tokens."""
    return secrets.token_urlsafe(32)


def jitter() -> float:
    """A fraction in [0, 1) to spread work that would otherwise happen all at once."""
    return random.random()  # noqa: S311 - spreading load needs no cryptography


def new_suffix() -> str:
    """40 bits as hexadecimal text, to tell apart what would have the same name by accident."""
    return secrets.token_hex(5)

"""The one home of dice in the link. Next: `journal.py`, which keeps the secret made here."""

from __future__ import annotations

import random
import secrets


def new_secret() -> str:
    """A secret that nobody guesses: 32 random bytes as 64 characters."""
    return secrets.token_hex(32)


def within(seconds: float) -> float:
    """Some time between 0 and that many seconds (full jitter)."""
    return random.uniform(0, seconds)  # noqa: S311 - spreads load, protects nothing


def around(seconds: float, share: float = 0.1) -> float:
    """That many seconds, give or take a share of them."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311

"""Page tokens: where a list goes on, bound to the list that made them. They carry no authority.

A position is a number, or a text where a list is in the order of names.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from styx_server.core.errors import InvalidRequest, Violation

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000

_MAX_DIGITS: Final = 19


def page_size(wanted: int) -> int:
    """The size that is meant.

    Raises:
        InvalidRequest: it is negative.
    """
    if wanted < 0:
        raise InvalidRequest([Violation(field="page_size", description="is negative; leave it out for the default")])
    return min(wanted or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def make_token(position: int | str, *scope: str) -> str:
    """A token for the page behind `position`, good only for a list with the same `scope`."""
    return base64.urlsafe_b64encode(f"{position}.{_mark(scope)}".encode()).decode().rstrip("=")


def read_token(token: str, *scope: str) -> int | None:
    """The position in a token; None when there is no token.

    Raises:
        InvalidRequest: it is not of this list; reason PAGE_TOKEN_INVALID.
    """
    position = read_text_token(token, *scope)
    if position is None:
        return None
    if not (position.isascii() and position.isdigit() and len(position) <= _MAX_DIGITS):
        raise _foreign()
    return int(position)


def read_text_token(token: str, *scope: str) -> str | None:
    """The same, when the position is a text."""
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (ValueError, binascii.Error):
        raise _foreign() from None
    position, _, mark = text.rpartition(".")
    if mark != _mark(scope):
        raise _foreign()
    return position


def _foreign() -> InvalidRequest:
    text = "does not belong to this list with this filter; start over without one"
    return InvalidRequest([Violation(field="page_token", description=text)], reason="PAGE_TOKEN_INVALID")


def _mark(scope: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(scope).encode("utf-8", "surrogatepass")).hexdigest()[:12]

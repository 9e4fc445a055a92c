"""Asks the metadata service of a cloud: one GET or PUT at a time, no proxy, no redirect, no retry."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_MAX_BYTES = 64 << 10
SECONDS = 2.0
"""The service is on this machine or next to it: what is not answered by then is asked again."""


class MetadataError(Exception):
    """There is no answer, or none that can be used."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said."""

    status: int
    text: str
    etag: str = ""


def ask(base: str, path: str, headers: Mapping[str, str], *, method: str = "GET", seconds: float = SECONDS) -> Answer:
    """One question.

    Args:
        base: such as `http://169.254.169.254`.
        path: what is asked for, with its query.
        headers: as the service wants them.
        method: GET or PUT.
        seconds: for how long nothing may come.

    Raises:
        MetadataError: no answer came.
    """
    place = urlsplit(base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=seconds)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        text = response.read(_MAX_BYTES).decode("utf-8", "replace")
        return Answer(response.status, text, response.headers.get("ETag", ""))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MetadataError(f"{base}{path}: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()

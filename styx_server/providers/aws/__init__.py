"""Rents machines from Amazon's EC2, on demand and as spot.

Knows `core`, the port, and boto3, which is imported by the first call and never by importing this package: a server
that rents nothing there does not load it. Every call runs in a thread of the provider's own.

Read `provider.py` first, the four verbs; then `instances.py` (making, ending and listing), `request.py` (in which
words), `errors.py` and `codes.py` (what a refusal means), `catalog.py` (what there is, and for how much), `check.py`
(what is missing).
"""

from __future__ import annotations

from styx_server.providers.aws.provider import AwsProvider
from styx_server.providers.aws.settings import AwsSettings

__all__ = ["AwsProvider", "AwsSettings"]

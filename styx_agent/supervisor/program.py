"""Which program a supervisor is: so that a link can tell whether the running one is the installed one.

A digest of the sources of this package, not a version number: most releases leave the supervisor alone, and then there
is nothing to replace. Used from both sides, so it knows neither. Next: `styx_agent/renewal.py`, which compares.
"""

from __future__ import annotations

import hashlib
import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def digest() -> str:
    """Of the sources as they are on disk now; to be asked when a program starts, before they can be replaced."""
    found = hashlib.sha256()
    for name in sorted(name for name in os.listdir(_PACKAGE) if name.endswith(".py")):
        with open(os.path.join(_PACKAGE, name), "rb") as file:
            content = file.read()
        found.update(f"{name} {len(content)} ".encode())
        found.update(content)
    return found.hexdigest()[:16]

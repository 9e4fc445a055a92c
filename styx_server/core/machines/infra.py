"""Places as people write them: `aws`, `aws/us-east-1`, `gcp/*/us-central1-a`. Next: `offer.py`, what a place is."""

from __future__ import annotations

import difflib
import re
from typing import Final

from styx_server.core.machines.offer import Place

PROVIDERS: Final = ("aws", "fake", "gcp", "kubernetes", "local", "static")
_ALIASES: Final = {"k8s": "kubernetes", "google": "gcp", "ec2": "aws"}
_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:@-]{0,126}[A-Za-z0-9])?")


def parse_infra(text: str) -> Place:
    """Reads one place; `*`, or nothing, stands for any.

    Raises:
        ValueError: it is none; says what is wrong and what may be meant.
    """
    parts = [part.strip() for part in text.split("/")]
    if len(parts) > 3 or not text.strip():
        forms = "provider, provider/region or provider/region/zone"
        raise ValueError(f"is {text[:80]!r}, which is no place; write {forms}")
    provider, region, zone = ["" if part == "*" else part for part in parts] + [""] * (3 - len(parts))
    for part in (region, zone):
        if part and not _PART.fullmatch(part):
            raise ValueError(f"is {text[:80]!r}, of which {part[:40]!r} is no region and no zone; write * for any")
    provider = _ALIASES.get(provider.casefold(), provider.casefold())
    if provider and provider not in PROVIDERS:
        close = difflib.get_close_matches(provider, (*PROVIDERS, *_ALIASES), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(PROVIDERS)}"
        raise ValueError(f"names the provider {provider[:40]!r}, which Styx does not know; {hint}")
    return Place(provider=provider, region=region, zone=zone)

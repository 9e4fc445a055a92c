"""When an accelerator is the one that was asked for: one rule for agents that are there and machines to be rented.

Names come from drivers (`NVIDIA A100-SXM4-80GB`), price lists (`A100-80GB`) and people (`a100`). Were there two rules,
a machine could be rented for a task that then does not run on it.
"""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def is_meant(name: str, wanted: str) -> bool:
    """Whether the accelerator `name` is one that `wanted` means: each word of `wanted` is a word of `name`.

    Case does not matter, and neither does what stands between words. An empty wish means every accelerator.
    """
    return _words(wanted) <= _words(name)


def _words(name: str) -> frozenset[str]:
    return frozenset(name.casefold().replace("-", " ").replace("_", " ").split())

"""Several things failed together: which one to tell about. Pure."""

from __future__ import annotations


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error of a group, however deep; the others are its consequences more often than not."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

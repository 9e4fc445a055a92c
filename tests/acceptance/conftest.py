"""Stacks for the acceptance tests: one that all share, and one of one's own for those who kill."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running Styx that all tests of the session share; leave it as you found it."""
    with tempfile.TemporaryDirectory(prefix="styx-shared-") as folder, running_stack(Path(folder) / "data") as up:
        yield up


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A running Styx of one's own, to be treated badly."""
    with tempfile.TemporaryDirectory(prefix="styx-own-") as folder, running_stack(Path(folder) / "data") as up:
        yield up

"""Text for spans, sizes and accelerators."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx.units import parse_cpus, parse_duration, parse_exact, parse_gpus, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("500ms", 0.5), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), ("3", 3), ("0", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "x", "5 m", "-1s", "1h 30m", "m", "1.s", "1e5", "9" * 400, "٣s"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000", 1000),
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("2gi", 2 << 30),
        ("2GB", 2 * 10**9),
        ("2G", 2 * 10**9),
        ("1.5Ti", 3 << 39),
        ("100B", 100),
        (" 1 KiB ", 1024),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1XB", "1e9", "9" * 30, "99999999PiB", "1..5G"])
def test_other_text_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A100:2", ("A100", 2)), ("A100", ("A100", 1)), ("3", ("", 3)), ("H100 SXM:8", ("H100 SXM", 8))],
)
def test_accelerators_are_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_gpus(text) == expected


@pytest.mark.parametrize("text", ["", ":2", "A100:", "A100:x", "0", "A100:0", "A100:-1"])
def test_other_text_is_no_accelerator(text: str) -> None:
    with pytest.raises(ValueError, match="accelerators"):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("text", "amount", "exact"),
    [("4", "4", False), ("4+", "4", False), ("=4", "4", True), (" = 2GiB ", "2GiB", True), ("", "", False)],
)
def test_an_amount_is_meant_at_least_or_exactly(text: str, amount: str, exact: bool) -> None:
    assert parse_exact(text) == (amount, exact)


def test_an_amount_is_not_meant_both_ways() -> None:
    with pytest.raises(ValueError, match="says both"):
        parse_exact("=4+")


@pytest.mark.parametrize(("text", "cpus"), [("4", 4.0), ("0.5", 0.5), (".5", 0.5), (" 64 ", 64.0), ("0", 0.0)])
def test_cores_are_read(text: str, cpus: float) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "-1", "many", "1e3", "nan", "1.", "4 cores"])
def test_other_text_is_no_number_of_cores(text: str) -> None:
    with pytest.raises(ValueError, match="number of cores"):
        parse_cpus(text)


@given(st.text())
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    for read in (parse_duration, parse_size, parse_gpus, parse_exact, parse_cpus):
        try:
            read(text)
        except ValueError:
            continue

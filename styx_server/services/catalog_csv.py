"""Reads catalogs in the format of SkyPilot's `vms.csv`, versions 7 and 8, for AWS and Google Cloud.

Columns are found by name: their order differs between clouds. Bytes in, entries out; knows no database. Next:
`catalog.py`, which keeps them.

What the format leaves to its reader:

- AWS has a row for each zone, by its zone id: `use1-az2` is the same place for all, but another `us-east-1a` for each
  account. Offers are for the whole region, where EC2 picks the zone, at the highest spot price of its zones.
- Google Cloud has prices of machines and of accelerators in separate rows; an offer costs the sum. Which belong
  together is not in the file: families that come with accelerators are known here, other accelerators go with N1.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.offer import MICROS, CatalogEntry, MachineSize, Place

CLOUDS: Final = ("aws", "gcp")
MAX_BYTES: Final = 64 * 2**20
"""Unpacked. Such files have 2 to 4 MiB."""

_FAULTS_TOLD: Final = 5
_COLUMNS: Final = (
    "InstanceType",
    "AcceleratorName",
    "AcceleratorCount",
    "vCPUs",
    "MemoryGiB",
    "GpuInfo",
    "Price",
    "SpotPrice",
    "Region",
    "AvailabilityZone",
)
_MOST: Final = Decimal(10_000_000)
_GIB: Final = 2**30
_GPU_MIB: Final = re.compile(r"['\"]sizeInMiB['\"]\s*:\s*(\d+)", re.IGNORECASE)
# Of each, for files that do not say it.
_GPU_GIB: Final = {
    "P4": 8,
    "T4": 16,
    "V100": 16,
    "P100": 16,
    "L4": 24,
    "A100": 40,
    "A100-80GB": 80,
    "H100": 80,
    "H100-MEGA": 80,
    "H200": 141,
    "B200": 180,
}
_ARCHES: Final = {"i386": "x86_64", "x86_64": "x86_64", "arm64": "arm64"}

# Families of Google Cloud that come with accelerators, and how the format calls these. Their number is in the name of
# the type, but for G2.
_BUILT_IN: Final = (
    (re.compile(r"a2-(?:high|mega)gpu-(\d+)g"), "A100"),
    (re.compile(r"a2-ultragpu-(\d+)g"), "A100-80GB"),
    (re.compile(r"a3-(?:high|edge)gpu-(\d+)g(?:-nolssd)?"), "H100"),
    (re.compile(r"a3-megagpu-(\d+)g"), "H100-MEGA"),
    (re.compile(r"a3-ultragpu-(\d+)g(?:-nolssd)?"), "H200"),
    (re.compile(r"a4-highgpu-(\d+)g(?:-nolssd)?"), "B200"),
)
_G2: Final = {"24": 2, "48": 4, "96": 8}
_WITH_UNKNOWN: Final = re.compile(r"(a\d+x?|g\d+|ct\w+)-.*")
# The most cores that an N1 machine may have beside so many accelerators.
_ATTACHED: Final[dict[str, dict[int, int]]] = {
    "T4": {1: 48, 2: 48, 4: 96},
    "P4": {1: 24, 2: 48, 4: 96},
    "V100": {1: 12, 2: 24, 4: 48, 8: 96},
    "P100": {1: 16, 2: 32, 4: 64},
}
_TAKES_GPUS: Final = re.compile(r"n1-(standard|highmem|highcpu)-\d+")
# Of Google Cloud, and of AWS (`a1`, `m7g`, `im4gn`, but not `g5`), in files without a column for it.
_ARM: Final = re.compile(r"(t2a|c4a|n4a|a4x)-.*|a1\..*|[a-z]+\d+g[a-z]*\..*")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvCatalog:
    """What a file has.

    Attributes:
        skipped: how many rows were left out, by reason in words.
    """

    entries: tuple[CatalogEntry, ...]
    skipped: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One row of the file, as values. Prices are in millionths; None: not to be had so."""

    machine_type: str
    cpus_milli: int
    memory_bytes: int
    gpu_name: str
    gpu_count: int
    gpu_memory_bytes: int
    price: int | None
    spot_price: int | None
    region: str
    zone: str
    arch: str


class _Skip(Exception):
    """A row that is good but of no use here; the text is the reason."""


class _Fault(Exception):
    """A row that cannot be read."""


def read_csv(cloud: str, data: bytes, fetch_time: datetime) -> CsvCatalog:
    """The entries in a file, plain or packed with gzip.

    Args:
        cloud: whose file it is: `aws` or `gcp`.
        data: the file.
        fetch_time: for the entries: the file does not say when its prices were looked up.

    Raises:
        InvalidRequest: it is no such file, or has rows that cannot be read; names the first of them by line.
    """
    if cloud not in CLOUDS:
        raise _refused(
            f"files of {cloud or 'no provider'} cannot be read; those of {' and '.join(CLOUDS)} can", "provider"
        )
    skipped: Counter[str] = Counter()
    lines = _lines(_unpacked(data), skipped)
    found = _of_aws(lines) if cloud == "aws" else _of_gcp(lines, skipped)
    entries = tuple(_entry(cloud, line, attached, fetch_time) for line, attached in found)
    if not entries:
        raise _refused("has no row that can be used; is it the vms.csv of another cloud?")
    return CsvCatalog(entries=entries, skipped=dict(skipped))


def _unpacked(data: bytes) -> str:
    if data[:2] == b"\x1f\x8b":
        stream = zlib.decompressobj(wbits=31)
        try:
            data = stream.decompress(data, MAX_BYTES + 1)
        except zlib.error as error:
            raise _refused("is packed with gzip, and damaged; get it again") from error
        if not stream.eof and len(data) <= MAX_BYTES:
            raise _refused("is packed with gzip, and its end is missing; get it again")
    if len(data) > MAX_BYTES:
        raise _refused(f"has more than {MAX_BYTES // 2**20} MiB; take the file of one cloud")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(f"is no text: byte {error.start} is not UTF-8") from error


def _lines(text: str, skipped: Counter[str]) -> list[_Line]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise _refused(
            f"has no column {', '.join(missing)} in its first line; SkyPilot's vms.csv of version 7 or 8 does"
        )
    lines, faults = [], []
    try:
        for row in reader:
            try:
                lines.append(_line(row))
            except _Skip as reason:
                skipped[str(reason)] += 1
            except _Fault as fault:
                faults.append(f"line {reader.line_num}: {fault}")
    except csv.Error as error:
        faults.append(f"line {reader.reader.line_num}: {error}")
    if faults:
        more = f"; and {len(faults) - _FAULTS_TOLD:,} more lines" if len(faults) > _FAULTS_TOLD else ""
        raise _refused("; ".join(faults[:_FAULTS_TOLD]) + more)
    return lines


def _line(row: Mapping[str, str]) -> _Line:
    if None in row or None in row.values():
        raise _Fault("has more or fewer values than the first line has names")
    machine_type, gpu_name = row["InstanceType"].strip(), row["AcceleratorName"].strip()
    if not machine_type and not gpu_name:
        raise _Fault("has neither an InstanceType nor an AcceleratorName")
    if gpu_name.casefold().startswith("tpu"):
        raise _Skip("TPUs")
    count = _number(row, "AcceleratorCount") or Decimal(0)
    if count != int(count):
        raise _Skip("parts of an accelerator")
    if not count:
        gpu_name = ""
    price, spot_price = _number(row, "Price"), _number(row, "SpotPrice")
    if price is None and spot_price is None:
        raise _Skip("without a price")
    if not row["Region"].strip():
        raise _Fault("Region is empty")
    usual = "arm64" if _ARM.fullmatch(machine_type) else "x86_64"
    arch = _ARCHES.get((row.get("Arch") or "").strip() or usual)
    if arch is None:
        raise _Skip(f"{row['Arch'][:20]} machines")
    memory = _GPU_MIB.search(row["GpuInfo"])
    gpu_memory_bytes = int(memory[1]) * 2**20 if memory else _GPU_GIB.get(gpu_name, 0) * _GIB
    return _Line(
        machine_type=machine_type,
        cpus_milli=_cpus(row, machine_type),
        memory_bytes=int((_number(row, "MemoryGiB") or 0) * _GIB),
        gpu_name=gpu_name,
        gpu_count=int(count),
        gpu_memory_bytes=gpu_memory_bytes,
        price=None if price is None else round(price * MICROS),
        spot_price=None if spot_price is None else round(spot_price * MICROS),
        region=row["Region"].strip(),
        zone=row["AvailabilityZone"].strip(),
        arch=arch,
    )


def _cpus(row: Mapping[str, str], machine_type: str) -> int:
    cpus = _number(row, "vCPUs")
    if machine_type and not cpus:
        raise _Skip("without cores")
    return int((cpus or 0) * 1000)


def _number(row: Mapping[str, str], column: str) -> Decimal | None:
    """A number that is not negative; None when there is none."""
    text = row[column].strip()
    if not text:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise _Fault(f"{column} is {text[:40]!r}, not a number") from None
    if not number.is_finite() or not 0 <= number < _MOST:
        raise _Fault(f"{column} is {text[:40]}, which cannot be")
    return number


def _of_aws(lines: Iterable[_Line]) -> Iterator[tuple[_Line, bool]]:
    """One line for each type and region."""
    merged: dict[tuple[str, str, str, int], list[_Line]] = {}
    for line in lines:
        if line.machine_type:
            merged.setdefault((line.region, line.machine_type, line.gpu_name, line.gpu_count), []).append(line)
    for zones in merged.values():
        price = max((line.price for line in zones if line.price is not None), default=None)
        spot_price = max((line.spot_price for line in zones if line.spot_price is not None), default=None)
        yield replace(zones[0], price=price, spot_price=spot_price, zone=""), False


def _of_gcp(lines: Iterable[_Line], skipped: Counter[str]) -> Iterator[tuple[_Line, bool]]:
    """Machines with the accelerators that belong to them, and N1 machines with those that may."""
    hosts: dict[tuple[str, str], _Line] = {}
    gpus: dict[tuple[str, str, int], _Line] = {}
    attachable: dict[str, list[_Line]] = {}
    for line in lines:
        if line.machine_type:
            hosts[line.zone, line.machine_type] = line
        elif gpus.setdefault((line.zone, line.gpu_name, line.gpu_count), line) is line:
            attachable.setdefault(line.zone, []).append(line)
    for host in hosts.values():
        wanted = _built_in(host.machine_type)
        if wanted is None:
            skipped["with accelerators that are not known"] += 1
        elif wanted[1]:
            gpu = gpus.get((host.zone, *wanted))
            if gpu is None:
                skipped["without a price of their accelerators"] += 1
            else:
                yield _sum(host, gpu), False
        else:
            yield host, False
            if _TAKES_GPUS.fullmatch(host.machine_type):
                yield from ((_sum(host, gpu), True) for gpu in attachable.get(host.zone, ()) if _goesreplace(host, gpu))


def _built_in(machine_type: str) -> tuple[str, int] | None:
    """Name and number of what comes with a type; number 0: nothing does; None: something that is not known."""
    for pattern, name in _BUILT_IN:
        found = pattern.fullmatch(machine_type)
        if found:
            return name, int(found[1])
    if machine_type.startswith("g2-standard-"):
        return "L4", _G2.get(machine_type.removeprefix("g2-standard-"), 1)
    return None if _WITH_UNKNOWN.fullmatch(machine_type) else ("", 0)


def _goesreplace(host: _Line, gpu: _Line) -> bool:
    return host.cpus_milli <= _ATTACHED.get(gpu.gpu_name, {}).get(gpu.gpu_count, 0) * 1000


def _sum(host: _Line, gpu: _Line) -> _Line:
    return replace(
        host,
        gpu_name=gpu.gpu_name,
        gpu_count=gpu.gpu_count,
        gpu_memory_bytes=gpu.gpu_memory_bytes,
        price=None if host.price is None or gpu.price is None else host.price + gpu.price,
        spot_price=None if host.spot_price is None or gpu.spot_price is None else host.spot_price + gpu.spot_price,
    )


def _entry(cloud: str, line: _Line, attached: bool, fetch_time: datetime) -> CatalogEntry:
    return CatalogEntry(
        place=Place(provider=cloud, region=line.region, zone=line.zone),
        machine_type=line.machine_type,
        size=MachineSize(
            cpus_milli=line.cpus_milli,
            memory_bytes=line.memory_bytes,
            gpu_name=line.gpu_name,
            gpu_count=line.gpu_count,
            gpu_memory_bytes=line.gpu_memory_bytes,
            arch=line.arch,
        ),
        price_micros=line.price,
        spot_price_micros=line.spot_price,
        gpus_attached=attached,
        fetch_time=fetch_time,
    )


def _refused(text: str, field: str = "data") -> InvalidRequest:
    return InvalidRequest([Violation(field=field, description=text)])

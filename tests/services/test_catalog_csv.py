"""Files in the format of SkyPilot's catalogs are read as they are, or refused with the lines that are wrong."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

import pytest

from styx_server.core.errors import InvalidRequest
from styx_server.core.machines.offer import CatalogEntry, Place
from styx_server.services import catalog_csv
from styx_server.services.catalog_csv import read_csv

NOW = datetime(2026, 1, 5, tzinfo=UTC)
GIB = 2**30
AWS = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone,Arch"
)
GCP = "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice"
T4_INFO = (
    "\"{'Gpus': [{'Name': 'T4', 'Count': 1.0, 'MemoryInfo': {'SizeInMiB': 16384}}], 'TotalGpuMemoryInMiB': 16384}\""
)


def a_file(head: str, *rows: str) -> bytes:
    return "\n".join((head, *rows, "")).encode()


def found(cloud: str, *rows: str) -> list[CatalogEntry]:
    return list(read_csv(cloud, a_file(AWS if cloud == "aws" else GCP, *rows), NOW).entries)


def prices(entries: list[CatalogEntry]) -> dict[str, tuple[int | None, int | None]]:
    return {
        f"{entry.machine_type} {entry.size.gpu_name}:{entry.size.gpu_count} {entry.place.zone}": (
            entry.price_micros,
            entry.spot_price_micros,
        )
        for entry in entries
    }


def test_zones_of_aws_become_one_offer_for_the_region_at_the_highest_spot_price() -> None:
    (entry,) = found(
        "aws",
        f"g4dn.xlarge,T4,1.0,4.0,16.0,{T4_INFO},0.526,0.210100,us-east-1,use1-az1,x86_64",
        f"g4dn.xlarge,T4,1.0,4.0,16.0,{T4_INFO},0.526,0.230000,us-east-1,use1-az2,x86_64",
        f"g4dn.xlarge,T4,1.0,4.0,16.0,{T4_INFO},0.526,,us-east-1,use1-az3,x86_64",
    )
    assert entry.place == Place(provider="aws", region="us-east-1")
    assert (entry.price_micros, entry.spot_price_micros) == (526_000, 230_000)
    size = entry.size
    assert (size.cpus_milli, size.memory_bytes, size.arch) == (4000, 16 * GIB, "x86_64")
    assert (size.gpu_name, size.gpu_count, size.gpu_memory_bytes) == ("T4", 1, 16 * GIB)
    assert (entry.estimate, entry.fetch_time, entry.gpus_attached) == (False, NOW, False)


def test_old_and_other_machines_of_aws() -> None:
    entries = found(
        "aws",
        "c1.medium,,,2.0,1.69921875,,0.13,0.0435,us-east-1,use1-az1,i386",
        "a1.large,,,2.0,4.0,,0.051,,us-east-1,use1-az1,arm64",
        "mac1.metal,,,12.0,32.0,,1.083,,us-east-1,use1-az1,x86_64_mac",
    )
    assert [(entry.machine_type, entry.size.arch, entry.spot_price_micros) for entry in entries] == [
        ("c1.medium", "x86_64", 43_500),
        ("a1.large", "arm64", None),
    ]


@pytest.mark.parametrize(
    ("machine_type", "arch"),
    [
        ("a1.large", "arm64"),
        ("m7g.large", "arm64"),
        ("c6gn.xlarge", "arm64"),
        ("im4gn.large", "arm64"),
        ("g5g.xlarge", "arm64"),
        ("g5.xlarge", "x86_64"),
        ("g4dn.xlarge", "x86_64"),
        ("m6i.large", "x86_64"),
        ("p4de.24xlarge", "x86_64"),
    ],
)
def test_older_files_of_aws_do_not_say_the_architecture_but_the_name_does(machine_type: str, arch: str) -> None:
    file = a_file(AWS.replace(",Arch", ""), f"{machine_type},,,2.0,8.0,,0.1,0.04,us-east-1,use1-az1")
    (entry,) = read_csv("aws", file, NOW).entries
    assert entry.size.arch == arch


def test_machines_of_google_cost_what_they_and_their_accelerators_cost_together() -> None:
    assert prices(
        found(
            "gcp",
            "a2-highgpu-1g,12.0,85.0,,,,us-central1,us-central1-a,0.73948,0.36975",
            "a2-highgpu-1g,12.0,85.0,,,,us-central1,us-central1-b,0.73948,0.36975",
            "g2-standard-24,24.0,96.0,,,,us-central1,us-central1-a,0.8,0.3",
            "n2-standard-2,2.0,8.0,,,,us-central1,us-central1-a,0.09712,0.03175",
            ",,,A100,1.0,,us-central1,us-central1-a,2.93391,1.10",
            ",,,L4,2.0,,us-central1,us-central1-a,1.12,",
        )
    ) == {
        "a2-highgpu-1g A100:1 us-central1-a": (3_673_390, 1_469_750),
        "g2-standard-24 L4:2 us-central1-a": (1_920_000, None),
        "n2-standard-2 :0 us-central1-a": (97_120, 31_750),
    }


def test_other_accelerators_of_google_go_with_n1_machines_that_are_not_too_large() -> None:
    entries = found(
        "gcp",
        "n1-standard-8,8.0,30.0,,,,us-central1,us-central1-a,0.38,0.08",
        "n1-standard-16,16.0,60.0,,,,us-central1,us-central1-a,0.76,0.16",
        "n1-standard-8,8.0,30.0,,,,us-central1,us-central1-b,0.38,0.08",
        f",,,T4,1,{T4_INFO},us-central1,us-central1-a,0.35,0.14",
        ",,,V100,1,,us-central1,us-central1-a,2.48,0.99",
    )
    assert prices(entries) == {
        "n1-standard-8 :0 us-central1-a": (380_000, 80_000),
        "n1-standard-8 T4:1 us-central1-a": (730_000, 220_000),
        "n1-standard-8 V100:1 us-central1-a": (2_860_000, 1_070_000),
        "n1-standard-16 :0 us-central1-a": (760_000, 160_000),
        "n1-standard-16 T4:1 us-central1-a": (1_110_000, 300_000),
        "n1-standard-8 :0 us-central1-b": (380_000, 80_000),
    }
    # What the file does not say of well-known ones is known.
    assert {entry.size.gpu_memory_bytes for entry in entries if entry.size.gpu_name == "V100"} == {16 * GIB}
    assert [entry.gpus_attached for entry in entries] == [bool(entry.size.gpu_count) for entry in entries]


def test_what_is_of_no_use_is_counted_not_refused() -> None:
    file = a_file(
        GCP,
        "n2-standard-2,2.0,8.0,,,,us-central1,us-central1-a,0.09712,0.03175",
        "t2a-standard-1,1.0,4.0,,,,us-central1,us-central1-a,0.0385,",
        ",,,tpu-v6e-32,1,tpu-v6e-32,us-central1,us-central1-a,86.4,17.41466",
        "g2-standard-4,4.0,16.0,,,,us-central1,us-central1-a,0.1,0.1",
        "a9-hugegpu-1g,4.0,16.0,,,,us-central1,us-central1-a,0.1,0.1",
        ",,,L4,0.5,,us-central1,us-central1-a,0.1,0.1",
        "n2-standard-4,4.0,16.0,,,,us-central1,us-central1-a,,",
    )
    catalog = read_csv("gcp", file, NOW)
    assert [(entry.machine_type, entry.size.arch) for entry in catalog.entries] == [
        ("n2-standard-2", "x86_64"),
        ("t2a-standard-1", "arm64"),
    ]
    assert catalog.skipped == {
        "TPUs": 1,
        "parts of an accelerator": 1,
        "without a price": 1,
        "without a price of their accelerators": 1,
        "with accelerators that are not known": 1,
    }


def test_a_packed_file_is_the_same_file() -> None:
    file = a_file(AWS, "m5.large,,,2.0,8.0,,0.096,0.04,us-east-1,use1-az1,x86_64")
    assert read_csv("aws", gzip.compress(file), NOW) == read_csv("aws", b"\xef\xbb\xbf" + file, NOW)


GOOD = "m5.large,,,2.0,8.0,,0.096,0.04,us-east-1,use1-az1,x86_64"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "has no column InstanceType, AcceleratorName"),
        (b"a,b\n1,2\n", "has no column InstanceType"),
        (a_file(AWS.replace("Price,", "", 1), GOOD), "has no column Price in its first line"),
        (a_file(AWS), "has no row that can be used"),
        (a_file(AWS, GOOD, GOOD.replace("0.096", "cheap")), "line 3: Price is 'cheap', not a number"),
        (a_file(AWS, GOOD.replace("0.096", "-1")), "line 2: Price is -1, which cannot be"),
        (a_file(AWS, GOOD.replace("0.096", "NaN")), "line 2: Price is NaN, which cannot be"),
        (a_file(AWS, GOOD.replace("0.096", "1e300")), "line 2: Price is 1e300, which cannot be"),
        (a_file(AWS, GOOD, "", GOOD + ",more"), "line 4: has more or fewer values"),
        (a_file(AWS, "m5.large,,,2.0"), "line 2: has more or fewer values"),
        (a_file(AWS, GOOD.replace("us-east-1,", ",")), "line 2: Region is empty"),
        (a_file(AWS, GOOD.replace("m5.large", "")), "line 2: has neither an InstanceType nor"),
        (a_file(AWS, '"m5.large'), "line 2: unexpected end of data"),
        (a_file(AWS, *["x"] * 9), "and 4 more lines"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (gzip.compress(a_file(AWS, GOOD))[:-10], "its end is missing"),
        (b"\x1f\x8bnonsense", "damaged"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(file: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_csv("aws", file, NOW)
    assert words in caught.value.message
    assert caught.value.violations[0].field == "data"


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused() -> None:
    bomb = gzip.compress(bytes(catalog_csv.MAX_BYTES + 1))
    with pytest.raises(InvalidRequest, match="has more than 64 MiB"):
        read_csv("aws", bomb, NOW)


def test_files_of_other_clouds_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="files of azure cannot be read; those of aws and gcp can"):
        read_csv("azure", a_file(AWS, GOOD), NOW)

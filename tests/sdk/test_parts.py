"""The small pure parts: ids, specs, places, errors, waits."""

from __future__ import annotations

import json
import os
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import styx
from styx import errors, names
from styx.locate import Address, locate
from styx.models import GpuRequest, MachineWish, Resources, RetryPolicy, SpotUse, TaskSpec
from styx.retry import Backoff, RetrySettings, wait_seconds
from styx.spec import task_spec
from styx.v1.errors_pb2 import ErrorReason


@pytest.mark.parametrize("value", ["t42", "42", 42, " t42 ", "t0042"])
def test_an_id_may_be_written_with_or_without_its_letter(value: str | int) -> None:
    assert names.task_id(value) == "t42"


@pytest.mark.parametrize("value", ["", "a42", "t", "t-1", "t4 2", "T42", True, "t" + "9" * 30, "t٣", "\x1b[31m"])
def test_what_is_no_id_is_refused_before_it_is_sent(value: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        names.task_id(value)


def test_text_is_a_shell_line_and_a_sequence_is_a_program() -> None:
    assert task_spec("echo a b") == TaskSpec(command="echo a b")
    assert task_spec(["echo", "a b"]) == TaskSpec(argv=("echo", "a b"))


def test_a_spec_is_built_from_what_people_write() -> None:
    spec = task_spec("x", cpus=0.5, memory="2GiB", gpus="A100:2", timeout="1h30m", retry=3, disconnect_timeout="never")
    assert spec.resources == Resources(cpus=0.5, memory_bytes=2 << 30, gpus=GpuRequest(name="A100", count=2))
    assert spec.timeout == timedelta(minutes=90)
    assert spec.retry == RetryPolicy(max_retries=3)
    assert spec.disconnect_timeout == "never"


def test_what_is_said_of_a_machine_is_built_from_what_people_write() -> None:
    spec = task_spec(
        "x",
        cpus="=4",
        memory="16GiB+",
        gpus="L4",
        gpu_memory="20GB",
        infra="gcp/us-central1",
        machine_type=["g2-standard-4"],
        spot=True,
        max_hourly_cost=1.5,
        arch="x86_64",
    )
    assert spec.resources == Resources(
        cpus=4.0,
        memory_bytes=16 << 30,
        gpus=GpuRequest(name="L4", count=1, memory_bytes=20 * 10**9),
        machine=MachineWish(
            infra=("gcp/us-central1",),
            machine_types=("g2-standard-4",),
            spot=SpotUse.SPOT,
            max_hourly_cost=1.5,
            cpus_exact=True,
            arch="x86_64",
        ),
    )


def test_alternatives_are_built_like_the_rest() -> None:
    spec = task_spec("x", cpus=8, any_of=[{"gpus": "A100:8"}, {"gpus": "H100:8", "spot": False}])
    assert spec.resources == Resources(
        cpus=8,
        any_of=(
            Resources(gpus=GpuRequest(name="A100", count=8)),
            Resources(gpus=GpuRequest(name="H100", count=8), machine=MachineWish(spot=SpotUse.ON_DEMAND)),
        ),
    )
    assert task_spec("x", ordered=[{"memory": "=1GiB"}]).resources == Resources(
        ordered=(Resources(memory_bytes=1 << 30, machine=MachineWish(memory_exact=True)),)
    )


@pytest.mark.parametrize(
    ("word", "use"),
    [
        (True, SpotUse.SPOT),
        (False, SpotUse.ON_DEMAND),
        ("spot-with-fallback", SpotUse.SPOT_WITH_FALLBACK),
        ("any", SpotUse.ANY),
        (SpotUse.ON_DEMAND, SpotUse.ON_DEMAND),
    ],
)
def test_spot_is_said_in_several_ways(word: bool | str, use: SpotUse) -> None:
    spec = task_spec("x", spot=word)
    assert spec.resources == Resources(machine=MachineWish(spot=use))


def test_what_is_wrong_in_an_alternative_is_named_with_its_place() -> None:
    with pytest.raises(errors.InvalidRequest) as refusal:
        task_spec("x", any_of=[{}, {"memory": "lots"}])
    assert refusal.value.violations[0].field == "any_of[1].memory"
    with pytest.raises(TypeError, match=r"ordered\[0\]\.'timeout'"):
        task_spec("x", ordered=[{"timeout": 3}])  # type: ignore[typeddict-unknown-key]


def test_without_needs_a_spec_leaves_them_to_the_server() -> None:
    assert task_spec("x", name="n", cpus=None).resources is None


@pytest.mark.parametrize(
    "options",
    [{"memory": "lots"}, {"timeout": "soon"}, {"gpus": "x:y"}, {"cpus": "few"}, {"spot": "yes"}, {"gpu_memory": "?"}],
)
def test_an_option_that_cannot_be_read_is_named(options: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidRequest) as refusal:
        task_spec("x", **options)  # type: ignore[arg-type]
    assert refusal.value.violations[0].field == next(iter(options))


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="memroy"):
        task_spec("x", memroy=1)  # type: ignore[call-arg]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "admin.token").write_text("styx_admin_1_x\n")
    endpoint = {"http": "http://127.0.0.1:8080", "grpc": "127.0.0.1:50051", "pid": 1, "version": "0.1.0"}
    (tmp_path / "endpoint.json").write_text(json.dumps(endpoint))
    return tmp_path


def test_without_any_word_the_server_of_this_machine_is_meant(folder: Path) -> None:
    target = locate(env={"STYX_DATA_DIR": str(folder)})
    assert target.addresses == (Address(url="http://127.0.0.1:8080", grpc_address="127.0.0.1:50051"),)
    assert target.token == "styx_admin_1_x"


def test_a_local_address_gets_the_local_token_and_needs_no_discovery(folder: Path) -> None:
    target = locate("http://localhost:8080", env={"STYX_DATA_DIR": str(folder)})
    assert target.addresses[0].grpc_address == "127.0.0.1:50051"
    assert target.token == "styx_admin_1_x"


def test_the_local_token_is_never_sent_to_another_machine(folder: Path) -> None:
    for url in ("http://example.com:8080", "http://localhost:8080,http://example.com", "http://127.0.0.1.example.com"):
        assert locate(url, env={"STYX_DATA_DIR": str(folder)}).token == ""


def test_arguments_go_before_the_environment(folder: Path) -> None:
    env = {"STYX_DATA_DIR": str(folder), "STYX_SERVER_URL": "http://a:1", "STYX_TOKEN": "from-env"}
    assert locate(env=env).addresses[0].url == "http://a:1"
    assert locate(env=env).token == "from-env"
    assert locate("http://b:2", "mine", env=env) == locate("http://b:2", "mine", env={})
    assert locate(data_dir=folder, env=env).addresses[0].url == "http://127.0.0.1:8080"
    assert locate(data_dir=folder, env=env).token == "styx_admin_1_x"


def test_several_addresses_keep_their_order(folder: Path) -> None:
    target = locate(" http://a:1 , http://b:2 ", "x", data_dir=folder)
    assert [address.url for address in target.addresses] == ["http://a:1", "http://b:2"]


def test_addresses_may_come_as_a_sequence(folder: Path) -> None:
    target = locate(["http://a:1", "http://b:2,http://a:1"], "x", data_dir=folder)
    assert [address.url for address in target.addresses] == ["http://a:1", "http://b:2"]


def test_replicas_of_this_machine_are_all_found(folder: Path) -> None:
    old = json.loads((folder / "endpoint.json").read_text())
    new = old | {"replicas": [{"any": "thing"}], "http_addresses": [old["http"], "http://127.0.0.1:8081"]}
    (folder / "endpoint.json").write_text(json.dumps(new))
    target = locate(data_dir=folder, env={})
    assert target.addresses == (
        Address(url="http://127.0.0.1:8080", grpc_address="127.0.0.1:50051"),
        Address(url="http://127.0.0.1:8081"),
    )
    assert target.token == "styx_admin_1_x"


def test_without_a_server_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(errors.NoServer) as refusal:
        locate(env={"STYX_DATA_DIR": str(tmp_path)})
    assert "styx up" in refusal.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", '{"http": 1}', '{"http": "x", "grpc": "y", "pid": "z"}', "\x00\xff"])
def test_a_broken_endpoint_file_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoint.json").write_text(text, encoding="latin-1")
    with pytest.raises(errors.NoServer):
        locate(data_dir=tmp_path, env={})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_token_that_may_not_be_read_is_its_own_error(folder: Path) -> None:
    (folder / "admin.token").chmod(0)
    with pytest.raises(errors.TokenUnreadable):
        locate(data_dir=folder, env={})


def test_a_token_never_shows_in_a_representation(folder: Path) -> None:
    assert "styx_admin" not in repr(locate(data_dir=folder, env={}))


def test_every_reason_of_the_contract_has_a_class() -> None:
    reasons = set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert set(errors.BY_REASON) == reasons


def test_every_error_is_in_one_family_and_in_the_drawing() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StyxError)}
    drawn = errors.__doc__ or ""
    for kind in kinds - {errors.StyxError}:
        assert issubclass(kind, errors.Retryable) != issubclass(kind, errors.Final), kind
        assert f"- {kind.__name__}" in drawn
        assert kind in (errors.Retryable, errors.Final) or kind.remedy, f"{kind} has no remedy"


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_stays_within_its_bound(failures: int, fraction: float) -> None:
    settings = RetrySettings()
    assert 0 <= wait_seconds(settings, failures, fraction, None) <= settings.longest_wait_seconds
    assert wait_seconds(settings, failures, fraction, 7.0) >= 7.0


CUT = errors.ServerUnreachable("http://a", "the connection is gone")
AWAY = errors.StoreUnavailable("the database is away")


async def fails(failure: errors.Retryable, *, after_seconds: float) -> None:
    """A stream that says nothing fails twice: at once, and after so long."""
    times = iter([0.0, 1.0, 1.0, 1.0 + after_seconds])
    settings = RetrySettings(first_wait_seconds=0.0, longest_wait_seconds=5.0, budget_seconds=60.0)
    backoff = Backoff(settings, now=lambda: next(times))
    for _ in range(2):
        backoff.opened()
        await backoff.after(failure)


async def test_a_quiet_stream_may_be_cut_again_after_an_hour() -> None:
    await fails(CUT, after_seconds=3600)


async def test_the_patience_with_a_server_that_says_it_cannot_is_spent() -> None:
    await fails(AWAY, after_seconds=50)
    with pytest.raises(errors.StoreUnavailable):
        await fails(AWAY, after_seconds=70)


def test_the_version_is_the_one_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert styx.__version__ == project["project"]["version"]


def test_the_public_names_are_these() -> None:
    assert styx.__all__ == [
        "Agent",
        "AsyncClient",
        "Client",
        "Final",
        "LogChunk",
        "Resources",
        "RetryPolicy",
        "Retryable",
        "StyxError",
        "Task",
        "TaskSpec",
        "TaskState",
        "TaskStatus",
        "__version__",
    ]
    for name in styx.__all__:
        assert getattr(styx, name) is not None
    with pytest.raises(AttributeError):
        _ = styx.Nothing

"""Which specs are good: every bound from both sides, every field by its path, every mistake by its remedy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core import limits
from styx_server.core.errors import InvalidRequest
from styx_server.core.task import Resources, RetryPolicy, TaskSpec
from tests.support.builders import a_spec


def faults(spec: TaskSpec, path: str = "spec") -> dict[str, str]:
    """Fields and what is wrong with each."""
    try:
        limits.admit(spec, b"body", path)
    except InvalidRequest as error:
        return {violation.field: violation.description for violation in error.violations}
    return {}


def needs(**need: Any) -> dict[str, Any]:
    return {"resources": Resources(**need)}


def retries(**policy: Any) -> dict[str, Any]:
    return {"retry": RetryPolicy(**policy)}


GOOD: list[dict[str, Any]] = [
    {},
    {"command": "", "argv": ("ls", "", "-l")},
    {"command": "x" * 131_071},
    {"command": "é" * 65_535},
    {"command": "", "argv": ("ls", "x" * 131_071)},
    {"setup": "x" * 131_071},
    {"env": {"A": "x" * 131_069}},
    {"env": {"_a1": "", "PATH": "/bin", "styx_x": "1"}},
    {"name": "n" * 200},
    {"name": "Trainingslauf № 7 日本語 ✓"},
    {"workdir": "/"},
    {"workdir": "/" + "d" * 4094},
    {"pool": "a"},
    {"pool": "a-1" + "b" * 60},
    {"labels": {f"k{index}": "v" for index in range(64)}},
    {"labels": {"a" * 128: "v" * 256, "app.example/part_1-x": ""}},
    {"cpus": 0.0},
    {"cpus": 100_000.0},
    needs(memory_bytes=2**60, disk_bytes=2**60),
    needs(gpu_count=1024, gpu_name="A100"),
    needs(gpu_count=1),
    needs(labels=(("zone", "eu"),)),
    {"timeout_seconds": 0.001},
    {"timeout_seconds": 315_576_000.0},
    {"stop_grace_seconds": 0.0},
    {"disconnect_seconds": 60.0},
    {"disconnect_seconds": None},
    {"priority": 1000},
    {"priority": -1000},
    retries(max_retries=1000, backoff_seconds=0, max_backoff_seconds=0),
    retries(on_exit_codes=tuple(range(256))),
    {"at_most_once": True},
    {"spool_bytes": 0},
    {"spool_bytes": 1 << 16},
    {"spool_bytes": 1 << 40},
    {"size_bytes": 262_144},
]

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"command": ""}, "command", "is empty"),
    ({"command": " \t\n "}, "command", "is empty"),
    ({"argv": ("ls",)}, "command", "exactly one"),
    ({"command": "", "argv": ("", "x")}, "argv[0]", "name a program"),
    ({"command": "x" * 131_072}, "command", "131,071"),
    ({"command": "é" * 65_536}, "command", "131,072 bytes"),
    ({"command": "x" * 2**20}, "command", "put it into a file"),
    ({"command": "", "argv": ("ls", "x" * 131_072)}, "argv[1]", "131,071"),
    ({"command": "", "argv": ("ls", "a\0b")}, "argv[1]", "NUL"),
    ({"command": "echo \0"}, "command", "NUL"),
    ({"setup": "echo \0"}, "setup", "NUL"),
    ({"setup": "x" * 131_072}, "setup", "131,071"),
    ({"env": {"A": "x" * 131_070}}, "env['A']", "131,071"),
    ({"env": {"A": "\0"}}, "env['A']", "NUL"),
    ({"env": {"1A": ""}}, "env['1A']", "not a variable name"),
    ({"env": {"": "x"}}, "env['']", "not a variable name"),
    ({"env": {"A=B": ""}}, "env['A=B']", "not a variable name"),
    ({"env": {"ÄB": ""}}, "env['ÄB']", "not a variable name"),
    ({"env": {"A\n": ""}}, "env['A\\n']", "not a variable name"),
    ({"env": {"STYX_TASK_ID": "1"}}, "env['STYX_TASK_ID']", "STYX_"),
    ({"name": "n" * 201}, "name", "at most 200"),
    ({"workdir": "relative"}, "workdir", "absolute"),
    ({"workdir": "/a\0b"}, "workdir", "absolute"),
    ({"workdir": "/" + "d" * 4095}, "workdir", "4,095"),
    ({"pool": "Upper"}, "pool", "a-z"),
    ({"pool": "-a"}, "pool", "a-z"),
    ({"pool": "a-"}, "pool", "a-z"),
    ({"pool": "a" * 64}, "pool", "63"),
    ({"pool": "a\n"}, "pool", "a-z"),
    ({"labels": {f"k{index}": "v" for index in range(65)}}, "labels", "at most 64"),
    ({"labels": {"": "v"}}, "labels['']", "no good key"),
    ({"labels": {"a b": "v"}}, "labels['a b']", "no good key"),
    ({"labels": {"-a": "v"}}, "labels['-a']", "no good key"),
    ({"labels": {"a" * 129: "v"}}, f"labels['{'a' * 40}']", "no good key"),
    ({"labels": {"a": "v" * 257}}, "labels['a']", "at most 256"),
    ({"labels": {"a": "\x1b[31m"}}, "labels['a']", "control"),
    ({"cpus": -0.5}, "resources.cpus", "from 0"),
    ({"cpus": 100_000.5}, "resources.cpus", "100,000"),
    ({"cpus": float("nan")}, "resources.cpus", "nan"),
    ({"cpus": float("inf")}, "resources.cpus", "inf"),
    ({"cpus": float("-inf")}, "resources.cpus", "inf"),
    (needs(memory_bytes=2**60 + 1), "resources.memory_bytes", "unit is bytes"),
    (needs(memory_bytes=2**64 - 1), "resources.memory_bytes", "unit is bytes"),
    (needs(disk_bytes=2**60 + 1), "resources.disk_bytes", "unit is bytes"),
    (needs(gpu_name="A100"), "resources.gpus.count", "at least 1"),
    (needs(gpu_count=1025), "resources.gpus.count", "1,024"),
    (needs(gpu_count=1, gpu_name="A\x9b"), "resources.gpus.name", "control"),
    (needs(gpu_count=1, gpu_name="g" * 201), "resources.gpus.name", "200"),
    (needs(labels=(("a b", "x"),)), "resources.labels['a b']", "no good key"),
    (needs(labels=(("a", "\0"),)), "resources.labels['a']", "control"),
    ({"timeout_seconds": 0.0}, "timeout", "0.001"),
    ({"timeout_seconds": -1.0}, "timeout", "0.001"),
    ({"timeout_seconds": 315_576_001.0}, "timeout", "ten years"),
    ({"stop_grace_seconds": -0.001}, "stop_grace", "from 0"),
    ({"disconnect_seconds": 59.9}, "disconnect_timeout", "60"),
    (retries(backoff_seconds=-1), "retry.backoff", "from 0"),
    (retries(max_backoff_seconds=1e12), "retry.max_backoff", "ten years"),
    ({"priority": 1001}, "priority", "1000"),
    ({"priority": -1001}, "priority", "-1000"),
    (retries(max_retries=1001), "retry.max_retries", "1000"),
    ({"at_most_once": True, **retries(max_retries=1)}, "retry.max_retries", "at_most_once"),
    (retries(on_exit_codes=(256,)), "retry.on_exit_codes", "0 to 255"),
    (retries(on_exit_codes=(-1,)), "retry.on_exit_codes", "0 to 255"),
    (retries(on_exit_codes=(1,) * 257), "retry.on_exit_codes", "256"),
    ({"spool_bytes": 65_535}, "logs.spool_bytes", "64 KiB"),
    ({"spool_bytes": (1 << 40) + 1}, "logs.spool_bytes", "1 TiB"),
    ({"size_bytes": 262_145}, "", "262,144"),
]

UNSAFE = [
    "\x00",
    "\x07",
    "\n",
    "\r",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\x9b",
    "\u061c",
    "\u200b",
    "\u200e",
    "\u200f",
    "\u2028",
    "\u2029",
    "\u202a",
    "\u202e",
    "\u2060",
    "\u2066",
    "\u2069",
    "\ufeff",
    "\ud800",
]


@pytest.mark.parametrize("changes", GOOD, ids=[str(index) for index in range(len(GOOD))])
def test_what_is_within_every_bound_is_admitted(changes: dict[str, Any]) -> None:
    assert faults(a_spec(**changes)) == {}


@pytest.mark.parametrize(("changes", "field", "text"), BAD, ids=[f"{index}-{bad[1]}" for index, bad in enumerate(BAD)])
def test_what_is_beyond_a_bound_is_named_with_its_field_and_remedy(
    changes: dict[str, Any], field: str, text: str
) -> None:
    found = faults(a_spec(**changes), "specs[3]")
    assert list(found) == [f"specs[3].{field}" if field else "specs[3]"]
    assert text in next(iter(found.values()))


@pytest.mark.parametrize("mark", UNSAFE, ids=[f"U+{ord(mark[0]):04X}" for mark in UNSAFE])
def test_text_that_could_deceive_a_terminal_is_refused_in_names(mark: str) -> None:
    assert list(faults(a_spec(name=f"a{mark}b"))) == ["spec.name"]
    assert list(faults(a_spec(labels={"k": f"a{mark}b"}))) == ["spec.labels['k']"]


@pytest.mark.parametrize("mark", UNSAFE, ids=[f"U+{ord(mark[0]):04X}" for mark in UNSAFE])
def test_a_name_made_from_a_command_is_safe_to_show(mark: str) -> None:
    spec = a_spec(command=f"echo {mark}x") if mark != "\x00" else a_spec(command="", argv=("echo", "x"))
    assert faults(a_spec(name=limits.admit(spec, b"").name)) == {}


def test_every_wrong_field_is_named_at_once() -> None:
    spec = a_spec(command="", cpus=-1.0, priority=5000, pool="NO", env={"1": ""}, timeout_seconds=0.0)
    assert set(faults(spec)) == {
        "spec.command",
        "spec.pool",
        "spec.env['1']",
        "spec.resources.cpus",
        "spec.timeout",
        "spec.priority",
    }


def test_descriptions_never_carry_control_characters() -> None:
    evil = "\x1b]0;x\x07\n" * 20
    spec = a_spec(name=evil, pool=evil, env={evil: evil}, labels={evil: evil}, workdir=evil)
    for field, text in faults(spec).items():
        assert field.isprintable()
        assert text.isprintable()


@pytest.mark.parametrize("fields", [("image",), ("image", "secrets", "depends_on", "deadline")])
def test_what_comes_later_is_refused_with_its_own_reason(fields: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        limits.admit(a_spec(unsupported=fields), b"")
    assert caught.value.reason == "NOT_SUPPORTED"
    assert [violation.field for violation in caught.value.violations] == [f"spec.{field}" for field in fields]


def test_a_plain_mistake_beside_what_comes_later_keeps_the_plain_reason() -> None:
    with pytest.raises(InvalidRequest) as caught:
        limits.admit(a_spec(unsupported=("image",), priority=9999), b"")
    assert caught.value.reason == "INVALID_ARGUMENT_FIELD"


def test_what_is_admitted_carries_the_defaults_and_the_body_unread() -> None:
    task = limits.admit(a_spec(command="  python   train.py\n--fast "), b"\x00\xffbody")
    assert (task.name, task.shape.pool, task.body) == ("python train.py --fast", "default", b"\x00\xffbody")
    assert limits.admit(a_spec(name="x", pool="p"), b"").name == "x"
    assert len(limits.admit(a_spec(command="y" * 5000), b"").name) == 60
    assert limits.admit(a_spec(command="", argv=("ls", "-l")), b"").name == "ls -l"


@pytest.mark.parametrize("value", ["", "x" * 64, "3fa85f64-5717-4562-b3fc-2c963f66afa6", "!~"])
def test_good_request_ids_pass(value: str) -> None:
    limits.check_request_id(value)


@pytest.mark.parametrize("value", ["x" * 65, "a b", "é", "\n", "\x7f", "\0"])
def test_bad_request_ids_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="request_id"):
        limits.check_request_id(value)


@pytest.mark.parametrize(("count", "good"), [(0, False), (1, True), (10_000, True), (10_001, False)])
def test_batches_have_both_bounds(count: int, good: bool) -> None:
    if good:
        limits.check_batch("specs", count)
        return
    with pytest.raises(InvalidRequest, match="10,000"):
        limits.check_batch("specs", count)


@pytest.mark.parametrize("value", ["", "A", "a_b", "a.b", "-a", "a-", "a" * 64, "a\n", "../x"])
def test_bad_slugs_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="namespace"):
        limits.check_slug("namespace", value)


def test_labels_of_a_join_token_are_judged_like_those_of_a_task() -> None:
    limits.check_labels("labels", {"zone": "eu"})
    with pytest.raises(InvalidRequest, match="labels"):
        limits.check_labels("labels", {"zo ne": "eu"})


specs = st.builds(
    TaskSpec,
    name=st.text(max_size=210),
    command=st.text(max_size=50),
    argv=st.lists(st.text(max_size=10), max_size=3).map(tuple),
    setup=st.text(max_size=10),
    env=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    workdir=st.text(max_size=5),
    cpus=st.none() | st.floats(),
    pool=st.text(max_size=5),
    priority=st.integers(-(2**31), 2**31 - 1),
    timeout_seconds=st.none() | st.floats(allow_nan=False),
    labels=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    spool_bytes=st.integers(0, 2**64 - 1),
)


@given(specs)
def test_any_spec_is_either_admitted_or_refused_with_violations(spec: TaskSpec) -> None:
    wrong = faults(spec)
    assert all(field.isprintable() and text for field, text in wrong.items())
    if not wrong:
        task = limits.admit(spec, b"")
        assert faults(a_spec(name=task.name)) == {}

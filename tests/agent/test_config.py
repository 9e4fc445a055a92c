"""What the agent understands of flags, variables and files, and how it refuses the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from styx_agent.config import load, parse_size
from styx_agent.errors import BadSettings

URL = ["--server-url", "http://localhost:8080"]


def test_defaults_are_those_of_this_machine() -> None:
    settings = load(URL, {"XDG_DATA_HOME": "/data"})
    assert settings.data_dir == Path("/data/styx-agent")
    assert settings.name
    assert (settings.cpus, settings.memory_bytes, settings.gpus, settings.on_exit) == (None, None, None, "keep")


def test_flags_win_over_variables_and_those_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('server_url = "http://file"\nname = "file"\ncpus = 1\nmemory = "1GiB"\n[labels]\nzone = "f"\n')
    environment = {"STYX_AGENT_NAME": "variable", "STYX_AGENT_CPUS": "2", "STYX_AGENT_CONFIG": str(file)}
    settings = load(["--cpus", "3.5"], environment)
    assert (settings.server_urls, settings.name, settings.cpus) == (("http://file",), "variable", 3.5)
    assert (settings.memory_bytes, dict(settings.labels)) == (1 << 30, {"zone": "f"})


def test_lists_can_be_said_in_every_place(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[gpus]\n"A100" = 2\nT4 = 1\n')
    by_file = load([*URL, "--config", str(file)], {})
    by_flag = load([*URL, "--gpus", "A100:2", "--gpus", "T4:1", "--label", "a=1", "--label", "b=x=y"], {})
    by_variable = load(URL, {"STYX_AGENT_GPUS": "A100:2,T4:1", "STYX_AGENT_LABELS": "a=1,b=x=y"})
    assert by_file.gpus == by_flag.gpus == by_variable.gpus == ("A100", "A100", "T4")
    assert by_flag.labels == by_variable.labels == {"a": "1", "b": "x=y"}


def test_replicas_can_be_named_in_every_place(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('server_url = ["http://a:1", "http://b:2"]\n')
    by_file = load(["--config", str(file)], {})
    by_flag = load(["--server-url", "http://a:1, http://b:2,"], {})
    by_variable = load([], {"STYX_SERVER_URL": "http://a:1,http://b:2,http://a:1"})
    assert by_file.server_urls == by_flag.server_urls == by_variable.server_urls == ("http://a:1", "http://b:2")


def test_a_join_token_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("styx_join_1_x\n")
    assert load([*URL, "--join-token-file", str(file)], {}).join_token == "styx_join_1_x"
    with pytest.raises(BadSettings, match="cannot be read"):
        load([*URL, "--join-token-file", str(file) + "x"], {})


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("512MiB", 512 << 20), ("2GiB", 2 << 30), ("2gib", 2 << 30), ("1.5G", 1_500_000_000)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size("memory", text) == size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no server is named"),
        (["--cpsu", "3", *URL], "did you mean --cpus"),
        ([*URL, "--cpus", "many"], "number of cores"),
        ([*URL, "--cpus", "-1"], "number of cores"),
        ([*URL, "--cpus", "nan"], "number of cores"),
        ([*URL, "--memory", "lots"], "such as 512MiB"),
        ([*URL, "--memory", "5XB"], "such as 512MiB"),
        ([*URL, "--gpus", "A100"], "NAME:COUNT"),
        ([*URL, "--gpus", "A100:x"], "NAME:COUNT"),
        ([*URL, "--label", "novalue"], "KEY=VALUE"),
        ([*URL, "--label", "styx/spot=false"], "only the server sets; take another key"),
        ([*URL, "--on-exit", "explode"], "invalid choice"),
        ([*URL, "--name", "a\x1b[31m"], "without control characters"),
        ([*URL, "--name", "x" * 201], "at most 200"),
        ([*URL, "--config", "/no/such/file"], "cannot be read"),
        (["--server-url", " , "], "names no server"),
        (["--server-url", "http://a,ftp://b"], "ftp://"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], words: str) -> None:
    with pytest.raises(BadSettings, match=words):
        load(arguments, {})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sever_url = 'x'", "did you mean server_url"),
        ("cpus = ", "is not TOML"),
        ("die_with_parent = 'yes'", "true or false"),
        ("on_exit = 'explode'", "one of keep, stop"),
        ("name = 5", "is a text"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(content)
    with pytest.raises(BadSettings, match=words):
        load([*URL, "--config", str(file)], {})

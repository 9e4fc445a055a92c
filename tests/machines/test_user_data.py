"""The words that a new machine is given: valid, small, the same each time, and true whatever characters are in them."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from styx_agent import config
from styx_server.core.errors import InvalidRequest
from styx_server.core.machines.boot_script import HEAD
from styx_server.core.machines.instance import Boot
from styx_server.core.machines.offer import MachineSize
from styx_server.core.machines.user_data import MAX_USER_DATA_BYTES, boot_script, user_data

BOOT = Boot(
    server_urls=("https://styx.example.com", "http://10.0.0.7:8080"),
    join_token="styxj_4_c2VjcmV0IG9mIHRoZSBqb2luIHRva2Vu",
    agent_name="i9",
    bundle_sha256="ab" * 32,
)
SIZE = MachineSize(cpus_milli=96_000, memory_bytes=1152 << 30, gpu_name="A100-80GB", gpu_count=8)
PRINTABLE = st.characters(exclude_categories=("C", "Z"))
LINE = st.text(PRINTABLE | st.just(" "), min_size=1, max_size=60)
HOST = st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True)
TAIL = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=","), max_size=60)
URL = st.builds(lambda host, port, tail: f"http://{host}:{port}/{tail}", HOST, st.integers(1, 65535), TAIL)


def commands(text: str) -> dict[str, str]:
    """The two scripts in user-data, as cloud-init reads it."""
    found = yaml.safe_load(text)
    assert set(found) == {"bootcmd", "runcmd"}
    scripts = {}
    for stage, (command,) in found.items():
        assert command[:2] == ["sh", "-c"]
        assert len(command) == 3
        scripts[stage] = command[2]
    return scripts


def test_user_data_is_two_commands_for_cloud_init() -> None:
    text = user_data(BOOT, SIZE, life_seconds=3600)
    assert text.startswith("#cloud-config\n")
    scripts = commands(text)
    assert "systemctl start --no-block styx-dead-man.timer" in scripts["bootcmd"]
    assert BOOT.join_token not in scripts["bootcmd"]
    assert "systemctl start --no-block styx-agent.service" in scripts["runcmd"]
    assert BOOT.join_token in scripts["runcmd"]


def test_both_forms_say_the_same() -> None:
    scripts = commands(user_data(BOOT, SIZE, life_seconds=60))
    script = boot_script(BOOT, SIZE, life_seconds=60)
    assert script == scripts["bootcmd"] + scripts["runcmd"].removeprefix(HEAD)


def test_the_dead_man_comes_before_everything_that_can_fail() -> None:
    script = boot_script(BOOT, SIZE)
    assert script.index("start --no-block styx-dead-man.timer") < script.index("import hashlib")
    assert script.index("start --no-block styx-dead-man.timer") < script.index(BOOT.join_token)


def test_the_same_values_give_the_same_bytes() -> None:
    assert user_data(BOOT, SIZE) == user_data(dataclasses.replace(BOOT), dataclasses.replace(SIZE))
    assert user_data(BOOT, SIZE) != user_data(BOOT, SIZE, life_seconds=1)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox"])
def test_every_shell_can_read_it(shell: str) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed here")
    words = [found, "sh", "-n"] if shell == "busybox" else [found, "-n"]
    for script in (boot_script(BOOT, SIZE), *commands(user_data(BOOT, SIZE)).values()):
        subprocess.run(words, input=script.encode(), check=True)


def test_it_leaves_room_below_what_a_cloud_takes() -> None:
    urls = tuple(f"https://styx-{number}.a-rather-long-name.example.com:8443" for number in range(20))
    boot = dataclasses.replace(BOOT, server_urls=urls, agent_name="n" * 200, join_token="t" * 300)
    assert len(user_data(boot, SIZE).encode()) < MAX_USER_DATA_BYTES


def test_what_is_too_large_is_refused_with_both_sizes() -> None:
    urls = tuple(f"https://{number}.example.com/{'x' * 100}" for number in range(100))
    with pytest.raises(InvalidRequest, match=r"user-data is \d+ bytes, and clouds take 16384"):
        user_data(dataclasses.replace(BOOT, server_urls=urls), SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent_name": "a\nb"}, "agent_name"),
        ({"agent_name": ""}, "agent_name"),
        ({"preemption_notice": "aws\nx"}, "preemption_notice"),
        ({"join_token": "a\x1b[0m"}, "join_token"),
        ({"server_urls": ("http://a\u2028b",)}, "server_urls"),
        ({"server_urls": ("http://a, http://b",)}, "neither commas nor spaces"),
        ({"server_urls": ()}, "one http:// or https:// address"),
        ({"server_urls": ("grpc://a:1",)}, "one http:// or https:// address"),
        ({"bundle_sha256": "AB" * 32}, "64 digits"),
        ({"bundle_sha256": "ab; rm -rf /"}, "64 digits"),
    ],
)
def test_what_cannot_be_written_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        boot_script(dataclasses.replace(BOOT, **change), SIZE)  # type: ignore[arg-type]


def test_a_name_of_an_accelerator_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="gpu_name"):
        boot_script(BOOT, dataclasses.replace(SIZE, gpu_name="A100\n"))


def agent_words(script: str, folder: Path) -> list[str]:
    """The flags of the agent, as a shell understands the file that the script writes."""
    start = script.index('cat >"$root/etc/styx/machine.conf"')
    end = script.index("\nSTYX_END\n", start) + len("\nSTYX_END\n")
    (folder / "etc/styx").mkdir(parents=True, exist_ok=True)
    asks = f'root={folder}\n{script[start:end]}. "$root/etc/styx/machine.conf"\nstyx_agent printf "%s\\0"\n'
    done = subprocess.run(["sh", "-c", asks], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@settings(max_examples=30, deadline=None)
@given(name=LINE, urls=st.lists(URL, min_size=1, max_size=3), gpu=LINE, cpus=st.integers(1, 10**7))
def test_odd_characters_reach_the_agent_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, name: str, urls: list[str], gpu: str, cpus: int
) -> None:
    boot = dataclasses.replace(BOOT, agent_name=name, server_urls=tuple(urls))
    size = MachineSize(cpus_milli=cpus, memory_bytes=5, gpu_name=gpu, gpu_count=2)
    words = agent_words(boot_script(boot, size), tmp_path_factory.getbasetemp() / "words")
    assert words[:2] == [f"--server-url={','.join(urls)}", f"--name={name}"]
    assert words[3:] == ["--memory=5", f"--gpus={gpu}:2"]
    assert float(words[2].removeprefix("--cpus=")) == cpus / 1000
    scripts = commands(user_data(boot, size))
    assert boot_script(boot, size).startswith(scripts["bootcmd"])


def test_the_agent_is_told_who_announces_the_end_of_its_machine(tmp_path: Path) -> None:
    told = agent_words(boot_script(dataclasses.replace(BOOT, preemption_notice="aws"), SIZE), tmp_path)
    assert "--preemption-notice=aws" in told
    assert not any("preemption" in word for word in agent_words(boot_script(BOOT, SIZE), tmp_path))


@settings(max_examples=30, deadline=None)
@given(token=LINE)
def test_odd_characters_of_a_token_reach_its_file(tmp_path_factory: pytest.TempPathFactory, token: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "token"
    (folder / "etc/styx").mkdir(parents=True, exist_ok=True)
    script = commands(user_data(dataclasses.replace(BOOT, join_token=token), SIZE))["runcmd"]
    start = script.index('[ -e "$root/var/lib/styx-agent/lease.json" ]')
    writes = script[start : script.index(' >"$root/etc/styx/join.token"', start)]
    done = subprocess.run(["sh", "-c", f"root={folder}\n{writes}"], capture_output=True, check=True)
    assert done.stdout.decode() == f"{token}\n"


def test_the_agent_understands_its_flags(tmp_path: Path) -> None:
    words = agent_words(boot_script(BOOT, SIZE), tmp_path)
    found = config.load([*words, f"--data-dir={tmp_path}"], {})
    assert found.server_urls == BOOT.server_urls
    assert (found.name, found.cpus, found.memory_bytes) == ("i9", 96.0, SIZE.memory_bytes)
    assert found.gpus == ("A100-80GB",) * 8


def test_memory_that_nobody_knows_is_left_to_the_agent(tmp_path: Path) -> None:
    words = agent_words(boot_script(BOOT, MachineSize(cpus_milli=500, memory_bytes=0)), tmp_path)
    assert [word.partition("=")[0] for word in words] == ["--server-url", "--name", "--cpus"]


def test_cloud_init_accepts_it(tmp_path: Path) -> None:
    path = tmp_path / "user-data"
    path.write_text(user_data(BOOT, SIZE))
    rootfs = os.environ.get("STYX_TEST_ROOTFS", "")
    words = ["cloud-init", "schema", "--config-file"]
    if shutil.which("cloud-init"):
        done = subprocess.run([*words, str(path)], capture_output=True, text=True, check=False)
    elif rootfs and os.geteuid() == 0:
        inside = Path(rootfs) / "tmp" / tmp_path.name
        shutil.copy(path, inside)
        asks = ["unshare", "--mount", "chroot", rootfs, *words, f"/tmp/{tmp_path.name}"]
        done = subprocess.run(asks, capture_output=True, text=True, check=False)
        inside.unlink()
    else:
        pytest.skip("cloud-init is not installed here, and STYX_TEST_ROOTFS names no folder with it (root only)")
    assert done.returncode == 0, done.stdout + done.stderr

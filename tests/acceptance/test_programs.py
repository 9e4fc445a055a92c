"""The server and the agent on their own, with their three sources of settings, and how small they are when idle."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from tests.support.stack import BIN, Stack, memory_of
from tests.support.until import until

AGENT_BOUND = 80 << 20


def test_the_agents_two_processes_are_small(stack: Stack) -> None:
    assert stack.styx("run", "--", "true").code == 0
    parts = [pid for pid, line in stack.processes().items() if "styx_agent" in line or "styx-guardian" in line]
    assert sum(memory_of(pid) for pid in parts) < AGENT_BOUND


def test_the_http_port_tells_health_metrics_and_where_grpc_is(stack: Stack) -> None:
    http = json.loads((stack.folder / "endpoint.json").read_text())["http"]
    assert _get(f"{http}/health") == {"live": True, "ready": True, "reasons": []}
    assert _get(f"{http}/.well-known/styx.json")["grpc_port"] > 0
    with urllib.request.urlopen(f"{http}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
        assert b"styx_rpc_calls_total" in answer.read()


def test_server_and_agent_run_alone_and_stop_in_order() -> None:
    with tempfile.TemporaryDirectory(prefix="styx-alone-") as folder:
        stack = Stack(Path(folder) / "data")
        settings = Path(folder) / "server.toml"
        settings.write_text(f'data_dir = "{stack.folder}"\ngrpc_port = 0\nhttp_port = 9\n')
        server = _start(stack, "styx-server", "--config", str(settings), STYX_HTTP_PORT="0")
        endpoint = stack.folder / "endpoint.json"
        until(endpoint.exists, "the server is ready")
        url = json.loads(endpoint.read_text())["http"]
        words = stack.good("agent", "join").split()
        token = next(word for word in words if word.startswith("styx_join_"))
        agent = _start(
            stack, "styx-agent", "--data-dir", f"{folder}/agent", "--label", "zone=here",
            STYX_SERVER_URL=url, STYX_JOIN_TOKEN=token,
        )  # fmt: skip
        assert stack.styx("run", "--require-label", "zone=here", "--", "echo", "hi").out == b"hi\n"
        agent.terminate()
        assert agent.wait(30) == 0
        server.terminate()
        assert server.wait(30) == 0
        assert not endpoint.exists()
        until(lambda: not stack.processes(folder), "everything is gone")


def test_check_config_says_where_each_setting_came_from() -> None:
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "STYX_GRPC_PORT": "7001"}
    words = [str(BIN / "styx-server"), "check-config", "--http-port", "7002"]
    shown = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert lines["grpc_port"] == ["7001", "environment"]
    assert lines["http_port"] == ["7002", "flag"]
    assert lines["host"][-1] == "default"


def test_addresses_of_servers_come_with_commas_or_as_a_list_and_are_checked(tmp_path: Path) -> None:
    settings = tmp_path / "server.toml"
    settings.write_text('http_addresses = ["http://a:1", "https://b"]')
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}

    def check(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "styx-server"), "check-config", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    for words in (("--config", str(settings)), ("--http-addresses", "http://a:1, https://b")):
        (line,) = [line for line in check(*words).stdout.splitlines() if line.startswith("http_addresses ")]
        assert line.split()[1] == "http://a:1,https://b"
    for wrong in ("grpc://a:1", "a:1", "http://a:b"):
        refused = check("--http-addresses", wrong)
        assert (refused.returncode, "http_addresses (flag) is" in refused.stderr) == (2, True)


def test_the_database_runs_alone_and_stops_in_order() -> None:
    with tempfile.TemporaryDirectory(prefix="styx-alone-") as folder:
        stack = Stack(Path(folder) / "data")
        place = stack.folder / "database.json"
        database = _start(stack, "styx-server", "database", "--data-dir", str(stack.folder))
        until(place.exists, "the database is ready")
        found = json.loads(place.read_text())
        assert (found["pid"], place.stat().st_mode & 0o777) == (database.pid, 0o600)
        words = ("--data-dir", f"{folder}/server", "--grpc-port", "0", "--http-port", "0")
        server = _start(stack, "styx-server", *words, STYX_DATABASE_URL=found["url"])
        until((Path(folder) / "server" / "endpoint.json").exists, "a server uses it")
        for program in (server, database):
            program.terminate()
            assert program.wait(60) == 0
        assert not place.exists()
        until(lambda: not stack.processes(folder), "everything is gone")


def test_a_server_refuses_a_public_address_without_tls() -> None:
    done = subprocess.run([str(BIN / "styx-server"), "--host", "0.0.0.0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--insecure" in done.stderr


def _start(stack: Stack, program: str, *words: str, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(BIN / program), *words], env=stack.env | env, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )


def _get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own address
        found: dict[str, object] = json.loads(answer.read())
        return found

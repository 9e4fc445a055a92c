"""What is shipped for containers and for systemd: every command in it is a program of ours with flags that it knows."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
OURS = {"styx", "styx-cli", "styx-server", "styx-agent"}


@cache
def help_of(*words: str) -> str:
    said = subprocess.run([BIN / words[0], *words[1:], "--help"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


def check_command(command: list[str]) -> None:
    """Fails unless `command` is a program of ours, with flags from its help."""
    program, *arguments = command
    assert program in OURS, command
    flags = [word.split("=")[0] for word in arguments if word.startswith("-")]
    words = [word for word in arguments[: 4 if program == "styx" else 0] if re.fullmatch(r"[a-z]+", word)]
    known = help_of(program, *words) if program == "styx" else help_of(program)
    missing = [flag for flag in flags if not re.search(rf"(^|[\s,]){re.escape(flag)}\b", known, re.MULTILINE)]
    assert missing == [], f"{command}: the help of {program} does not know {missing}"


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def stages() -> dict[str, list[tuple[str, str]]]:
    """The stages of the Dockerfile by name, each a list of (instruction, rest)."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    found: dict[str, list[tuple[str, str]]] = {}
    current = "before"
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            current = rest.split(" AS ")[1]
        found.setdefault(current, []).append((instruction, rest.strip()))
    return found


def last(stage: str, instruction: str) -> str:
    return [rest for name, rest in stages()[stage] if name == instruction][-1]


def entrypoint(target: str) -> list[str]:
    words: list[str] = ast.literal_eval(last(target, "ENTRYPOINT"))
    return words


def test_the_compose_file_has_a_database_a_server_and_two_agents() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "server", "join", "agent-1", "agent-2"}
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services, name
            assert (
                condition["condition"] != "service_healthy"
                or "test" in services[other].get("healthcheck", {})
                or (service_target(services[other]) and has_healthcheck(services[other]))
            )


def service_target(service: dict[str, Any]) -> str | None:
    target: str | None = service.get("build", {}).get("target")
    return target


def has_healthcheck(service: dict[str, Any]) -> bool:
    return any(name == "HEALTHCHECK" for name, _ in stages()[service["build"]["target"]])


def test_every_volume_that_is_used_is_declared() -> None:
    document = compose()
    used = {volume.split(":")[0] for service in document["services"].values() for volume in service.get("volumes", [])}
    assert used == set(document["volumes"])


def test_every_build_names_a_stage_that_exists() -> None:
    for name, service in compose()["services"].items():
        if target := service_target(service):
            assert service["build"]["dockerfile"] == "deploy/docker/Dockerfile", name
            assert target in stages(), name


@pytest.mark.parametrize("name", ["server", "agent-1", "agent-2"])
def test_the_containers_run_programs_of_ours_with_flags_that_exist(name: str) -> None:
    service = compose()["services"][name]
    check_command([*entrypoint(service["build"]["target"]), *service.get("command", [])])


def test_the_one_time_service_uses_commands_that_exist() -> None:
    (script,) = compose()["services"]["join"]["command"]
    lines = [line.replace("$$", "$").split(" > ")[0] for line in script.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("styx ")]
    assert len(commands) == 1
    check_command(commands[0])
    assert subprocess.run(["sh", "-n", "-c", script.replace("$$", "$")], check=False).returncode == 0


def test_the_images_default_commands_have_flags_that_exist() -> None:
    check_command([*entrypoint("server"), *ast.literal_eval(last("server", "CMD"))])
    check_command(entrypoint("agent"))


@pytest.mark.parametrize("target", ["server", "agent"])
def test_no_image_runs_as_root(target: str) -> None:
    assert last(target, "USER") == "styx"
    instructions = [name for name, _ in stages()[target]]
    assert instructions.index("USER") < instructions.index("ENTRYPOINT")


def test_the_servers_health_is_asked_of_the_server_itself() -> None:
    check = last("server", "HEALTHCHECK")
    program: list[str] = ast.literal_eval(check[check.index("CMD ") + 4 :])
    assert program[:2] == ["python", "-c"]
    assert "/health/ready" in program[2]
    compile(program[2], "healthcheck", "exec")


def test_what_the_builder_copies_exists_and_is_not_ignored() -> None:
    copied = [word for name, rest in stages()["builder"] if name == "COPY" for word in rest.split()[:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    kept = (ROOT / "deploy/docker/Dockerfile.dockerignore").read_text().splitlines()
    assert [path for path in copied if f"!{path}" not in kept] == []


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy/systemd").glob("*.service")), ids=lambda path: path.name)
def test_the_units_start_programs_of_ours_with_flags_that_exist(unit: Path) -> None:
    (start,) = re.findall(r"^ExecStart=(.+)$", unit.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(start)
    check_command([Path(program).name, *arguments])


def test_restarting_the_agents_unit_leaves_tasks_alone() -> None:
    unit = (ROOT / "deploy/systemd/styx-agent.service").read_text()
    assert "KillMode=process" in unit
    assert "--on-exit keep" in unit
    assert "Delegate=yes" in unit

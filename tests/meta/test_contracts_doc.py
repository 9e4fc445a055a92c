"""Settings, metrics and log events are contracts: each is on its page, and the page names nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from styx_agent import config as agent_config
from styx_server import config as server_config
from styx_server.telemetry import Metrics

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def section(page: str, title: str) -> str:
    """The text under a heading of the second or third level."""
    text = (DOCS / page).read_text()
    start = re.search(rf"^##+ {re.escape(title)}\n", text, re.MULTILINE)
    assert start is not None, f"{page} has no section {title}"
    rest = text[start.end() :]
    end = re.search(r"^##+ ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without titles and rules."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def events(package: str) -> Iterator[tuple[str, str]]:
    """Name and level of every event that a package logs."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in ("log", "_log") and node.args:
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}: an event has no fixed name"
                yield str(name.value), {"exception": "error"}.get(node.func.attr, node.func.attr)


# Tables of the file, one for each provider; what is in them is on the page of the provider.
_TABLES = "provider_tables"


def test_every_setting_of_the_server_is_on_its_page() -> None:
    written = {row[0]: row[1:3] for row in rows(section("configuration.md", "styx-server"))}
    names = [field.name for field in fields(server_config.Settings) if field.name != _TABLES]
    wanted = {"--" + name.replace("_", "-"): [f"STYX_{name.upper()}", name] for name in names}
    assert written == {**wanted, "--config": ["STYX_CONFIG", ""]}


def test_every_setting_of_the_agent_is_on_its_page() -> None:
    written = {row[0]: row[1:3] for row in rows(section("configuration.md", "styx-agent"))}
    flags = {
        action.dest: action.option_strings[0] for action in agent_config._parser()._actions if action.dest != "help"
    }
    wanted = {flag: agent_config._VARIABLES.get(name, "") for name, flag in flags.items()}
    assert {flag: cells[0] for flag, cells in written.items()} == wanted
    keys = {flag: set(re.findall(r"\w+", cells[1])) - {"or"} for flag, cells in written.items()}
    assert keys == {
        flag: ({name} & set(agent_config._READERS))
        | {alias for alias, of in agent_config._ALIASES.items() if of == name}
        for name, flag in flags.items()
    }


def test_the_output_of_check_config_names_every_setting() -> None:
    text = (DOCS / "configuration.md").read_text()
    shown = re.findall(r"^(\w+) .+ (?:default|flag)$", text, re.MULTILINE)
    assert shown == [field.name for field in fields(server_config.Settings) if field.name != _TABLES]


def test_every_metric_is_on_its_page_with_its_labels() -> None:
    written = {row[0]: (row[1], set(re.findall(r"\w+", row[2]))) for row in rows(section("telemetry.md", "Metrics"))}
    # A metric with labels has no samples yet, so its names are looked up where it is kept.
    made = Metrics()
    kept = [value for value in vars(made).values() if hasattr(value, "_labelnames")]
    wanted = {
        metric._name + ("_total" if metric._type == "counter" else ""): (metric._type, set(metric._labelnames))
        for metric in kept
    }
    assert written == wanted


def test_every_log_event_is_on_its_page_with_its_level() -> None:
    for title, package in (("Server", "styx_server"), ("Agent", "styx_agent")):
        written = {(row[0], row[1]) for row in rows(section("telemetry.md", title))}
        assert written == set(events(package))


def test_every_word_of_a_timeline_is_on_its_page() -> None:
    sql = (ROOT / "styx_server" / "store" / "sql" / "tasks.sql").read_text()
    inserts = re.findall(r"insert into task_events \([^)]*kind[^)]*\)\n(.*?)\n\)?", sql + "\n", re.DOTALL)
    assert inserts
    words = set(re.findall(r"'([a-z_]+)'", " ".join(inserts)))
    words |= set(re.findall(r"(?:when \d then|else) '([a-z]+ing|started)'", sql))
    written = set(re.findall(r"`([a-z_]+)`", section("telemetry.md", "The timeline of a task"))) - {"task_events"}
    assert words == written

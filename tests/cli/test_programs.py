"""The commands as processes in pipes, against a service in memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
from pathlib import Path

import pytest
import yaml

from styx.v1 import tasks_pb2
from tests.support.memory_service import Fault, Running, serving
from tests.support.programs import start, styx
from tests.support.until import soon


async def test_run_passes_both_streams_and_the_exit_code(here: Path) -> None:
    done = await styx(here, "run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, b"out\n", b"err\n")


async def test_run_passes_bytes_untouched(here: Path) -> None:
    done = await styx(here, "run", "-c", r"head -c 3000000 /dev/urandom | tee /dev/stderr")
    assert len(done.out) == 3000000
    assert hashlib.sha256(done.out).digest() == hashlib.sha256(done.err).digest()


async def test_run_without_a_shell_does_not_touch_the_arguments(here: Path) -> None:
    done = await styx(here, "run", "--", "printf", "%s|", "a b", "$HOME", "-n", "--name", "*")
    assert done.out == b"a b|$HOME|-n|--name|*|"


@pytest.mark.parametrize(
    ("words", "code", "talk"),
    [
        (["--timeout", "200ms", "--", "sleep", "50"], 121, "TIMED_OUT"),
        (["--", "no-such-program"], 123, "no-such-program"),
        (["--", "sh", "-c", "kill -9 $$"], 137, "FAILED"),
        (["--cpus", "-1", "--", "true"], 120, "cpus"),
        (["-c", ""], 120, "empty"),
        ([], 120, "there is no command"),
        (["--frobnicate", "--", "true"], 120, "No such option"),
        (["--priority", "99999999999", "--", "true"], 120, "priority"),
    ],
)
async def test_run_says_how_it_ended(here: Path, words: list[str], code: int, talk: str) -> None:
    done = await styx(here, "run", *words)
    assert done.code == code
    assert talk in done.talk
    assert "Traceback" not in done.talk


async def test_a_command_that_is_too_large_is_refused(here: Path, running: Running) -> None:
    done = await styx(here, "submit", "-f", "-", stdin=b"echo " + b"x" * (1 << 20))
    assert done.code == 2
    assert "larger than" in done.talk
    assert not running.service.tasks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_without_a_terminal_cancels_and_waits(
    here: Path, running: Running, number: signal.Signals
) -> None:
    process = await start(
        here, "run", "-c", "trap 'echo stopping; exit 0' TERM; echo begun; while :; do sleep 0.05; done"
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    out, _ = await process.communicate()
    assert process.returncode == 122
    assert out == b"stopping\n"
    assert running.service.tasks["t1"].cancelled


async def test_a_second_interrupt_while_it_stops_leaves(here: Path, running: Running) -> None:
    process = await start(here, "run", "-c", "trap '' TERM; echo begun; while :; do sleep 0.05; done")
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    await soon(lambda: running.service.tasks["t1"].cancelled, "the cancel arrives")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"may still be stopping" in err


async def test_run_says_when_a_task_can_never_start(here: Path, running: Running) -> None:
    running.service.hold = True
    process = await start(here, "run", "--memory", "900GiB", "--", "true")
    assert process.stderr is not None
    assert await process.stderr.readline() == b"styx: t1 waits: no agent can ever fit this\n"
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 122


async def test_run_goes_on_through_a_broken_stream(here: Path, running: Running) -> None:
    running.service.cut_logs_after.extend([1, 0, 2])
    done = await styx(here, "run", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.05; done; exit 3")
    assert (done.code, done.out) == (3, b"1\n2\n3\n4\n5\n")


async def test_a_reader_that_leaves_ends_the_program_quietly(here: Path) -> None:
    process = await start(here, "run", "--", "yes")
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    await process.wait()
    assert process.stderr is not None
    assert process.returncode == 141
    assert await process.stderr.read() == b""


async def test_submit_prints_the_id_and_options_arrive(here: Path, running: Running) -> None:
    words = [
        "submit",
        "--name",
        "n",
        "-e",
        "A=1",
        "-e",
        "HOME",
        "--label",
        "team=nlp",
        "--retries",
        "2",
        "--backoff",
        "5s",
    ]
    words += ["--retry-on-exit-code", "9", "--cpus", "0.5", "--memory", "2GiB", "--gpus", "A100:2", "--disk", "1G"]
    words += ["--require-label", "zone=a", "--timeout", "1h30m", "--stop-grace", "2s", "--disconnect-timeout", "never"]
    words += ["--at-most-once", "--priority", "-5", "--workdir", "/tmp", "--setup", "true", "--pool", "p", "--", "true"]
    done = await styx(here, *words)
    assert (done.code, done.out, done.err) == (0, b"t1\n", b"")
    spec = running.service.tasks["t1"].task.spec
    assert dict(spec.env) == {"A": "1", "HOME": str(here)}
    assert dict(spec.labels) == {"team": "nlp"}
    assert (spec.retry.max_retries, spec.retry.backoff.seconds, list(spec.retry.on_exit_codes)) == (2, 5, [9])
    needs = spec.resources
    assert (needs.cpus, needs.memory_bytes, needs.gpus.name, needs.gpus.count) == (0.5, 2 << 30, "A100", 2)
    assert (needs.disk_bytes, dict(needs.labels)) == (10**9, {"zone": "a"})
    assert (spec.timeout.seconds, spec.stop_grace.seconds, spec.disconnect_timeout.never) == (5400, 2, True)
    assert (spec.at_most_once, spec.priority, spec.workdir, spec.setup, spec.pool) == (True, -5, "/tmp", "true", "p")


async def test_the_machine_is_described_word_by_word(here: Path, running: Running) -> None:
    words = ["--cpus", "=4", "--memory", "16GiB+", "--gpus", "L4:1", "--gpu-memory", "20GB", "--spot"]
    words += ["--provider", "gcp", "--zone", "us-central1-a", "--machine-type", "g2-standard-4"]
    words += ["--max-hourly-cost", "1.5", "--arch", "x86_64"]
    assert (await styx(here, "submit", *words, "--", "true")).text == "t1\n"
    needs = running.service.tasks["t1"].task.spec.resources
    assert (needs.cpus, needs.memory_bytes, needs.gpus.memory_bytes) == (4, 16 << 30, 20 * 10**9)
    machine = needs.machine
    assert (list(machine.infra), list(machine.machine_types)) == (["gcp/*/us-central1-a"], ["g2-standard-4"])
    assert (machine.cpus_exact, machine.memory_exact, machine.arch) == (True, False, "x86_64")
    assert (machine.spot, machine.max_hourly_cost) == (tasks_pb2.SPOT, 1.5)
    shown = (await styx(here, "status", "t1")).text
    assert "just so much cpus, in gcp/*/us-central1-a, type g2-standard-4, spot, x86_64, at most $1.5 an hour" in shown


async def test_alternatives_are_described_in_the_words_of_the_options(here: Path, running: Running) -> None:
    words = ["--cpus", "8", "--infra", "aws", "--infra", "gcp", "--ordered", "gpus=A100:8 spot", "--ordered"]
    words += ["gpus=H100:8 infra=static max-hourly-cost=9 spot=any"]
    assert (await styx(here, "submit", *words, "--", "true")).text == "t1\n"
    needs = running.service.tasks["t1"].task.spec.resources
    assert list(needs.machine.infra) == ["aws", "gcp"]
    first, second = needs.ordered
    assert (first.gpus.name, first.gpus.count, first.machine.spot) == ("A100", 8, tasks_pb2.SPOT)
    assert (list(second.machine.infra), second.machine.max_hourly_cost) == (["static"], 9)
    shown = (await styx(here, "status", "t1")).text
    assert "8 cpus, in aws or gcp, the first of: gpus A100:8, spot | gpus H100:8, in static, spot or not" in shown


@pytest.mark.parametrize(
    ("words", "talk"),
    [
        (["--infra", "aws", "--region", "us-east-1"], "the place is given twice"),
        (["--cpus", "=4+"], "says both"),
        (["--memory", "=lots"], "is not a size"),
        (["--arch", "sparc"], "x86_64"),
        (["--any-of", "gpu=A100"], "nothing that an alternative can need"),
        (["--any-of", ""], "it needs nothing"),
        (["--any-of", "max-hourly-cost=cheap"], "is not a valid float"),
        (["--any-of", "memory=lots"], "is not a size"),
    ],
)
async def test_what_cannot_be_meant_of_a_machine_is_refused(
    here: Path, running: Running, words: list[str], talk: str
) -> None:
    done = await styx(here, "submit", *words, "--", "true")
    assert (done.code, "Traceback" in done.talk) == (2, False)
    assert talk in done.talk
    assert not running.service.tasks


async def test_submit_reads_a_script_from_a_file_and_from_stdin(here: Path, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("#!/usr/bin/env python3\nimport sys\nprint('hello', sys.argv[1:])\n")
    assert (await styx(here, "submit", "-f", str(script), "--", "a b", "c")).code == 0
    assert (await styx(here, "submit", "-f", "-", stdin=b"echo from stdin\n")).text == "t2\n"
    assert (await styx(here, "wait", "-q", "t1", "t2")).code == 0
    assert (await styx(here, "logs", "t1")).text == "hello ['a b', 'c']\n"
    assert (await styx(here, "logs", "t2")).text == "from stdin\n"
    assert "job.py" in (await styx(here, "list")).text


async def test_the_same_request_id_makes_one_task(here: Path, running: Running) -> None:
    for _ in range(3):
        assert (await styx(here, "submit", "--request-id", "r1", "--", "true")).text == "t1\n"
    done = await styx(here, "submit", "--request-id", "r1", "--", "false")
    assert done.code == 1
    assert "another request" in done.talk
    assert len(running.service.tasks) == 1


async def test_logs_can_be_narrowed(here: Path) -> None:
    assert (await styx(here, "run", "-c", "seq 5; seq 6 8 >&2")).code == 0
    whole = await styx(here, "logs", "t1")
    assert (whole.out, whole.err) == (b"1\n2\n3\n4\n5\n", b"6\n7\n8\n")
    for flag, expected in (("--stdout", whole.out), ("--stderr", whole.err)):
        one = await styx(here, "logs", "t1", flag)
        assert (one.out, one.err) == (expected, b"")
    tail = await styx(here, "logs", "t1", "--tail", "2")
    assert (tail.out, tail.err) == (b"4\n5\n", b"7\n8\n")
    stamped = await styx(here, "logs", "1", "-t", "--stdout")
    assert stamped.text.splitlines()[0] == "2026-01-31T10:00:00.123Z 1"
    missing = await styx(here, "logs", "t1", "--attempt", "9")
    assert missing.code == 1
    assert "no attempt 9" in missing.talk


async def test_wait_passes_the_first_bad_code(here: Path) -> None:
    for command in ("true", "exit 3", "exit 4"):
        await styx(here, "submit", "-c", command)
    assert (await styx(here, "wait", "t1")).code == 0
    assert (await styx(here, "wait", "t1", "t2", "t3")).code == 3
    await styx(here, "submit", "--", "sleep", "100")
    assert (await styx(here, "wait", "t4", "--timeout", "100ms")).code == 124
    assert (await styx(here, "wait", "t99")).code == 127
    assert (await styx(here, "wait", "nonsense")).code == 120


async def test_cancel_and_retry_print_the_tasks(here: Path) -> None:
    await styx(here, "submit", "--", "sleep", "100")
    assert (await styx(here, "cancel", "t1", "-o", "name")).text == "t1\n"
    assert (await styx(here, "wait", "t1")).code == 122
    assert (await styx(here, "retry", "t1")).code == 0
    assert (await styx(here, "cancel", "t1", "t99")).code == 1


@pytest.mark.parametrize(("verb", "code"), [("status", 1), ("run", 125), ("wait", 125), ("list", 1)])
async def test_no_server_is_told_quickly_and_plainly(tmp_path: Path, verb: str, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    words = {"run": ["--", "true"], "wait": ["t1"]}.get(verb, [])
    for extra in ({"STYX_SERVER_URL": f"http://127.0.0.1:{port}"}, {}):
        done = await styx(tmp_path, verb, *words, env=extra)
        assert done.code == code
        assert done.talk.startswith("error: ")
        assert "hint: " in done.talk


@pytest.mark.parametrize(("verb", "code"), [("status", 1), ("run", 126)])
async def test_a_wrong_token_is_told(here: Path, verb: str, code: int) -> None:
    done = (
        await styx(here, verb, *(["--", "true"] if verb == "run" else []), "--token", "wrong")
        if verb != "run"
        else (await styx(here, "--token", "wrong", "run", "--", "true"))
    )
    assert done.code == code
    assert "STYX_TOKEN" in done.talk


async def test_unknown_ids_are_told(here: Path) -> None:
    for words in (["status", "t99"], ["logs", "t99"], ["cancel", "t99"], ["retry", "t99"], ["agent", "show", "a99"]):
        done = await styx(here, *words)
        assert done.code == 1
        assert "there is no" in done.talk
        assert done.out == b""


async def test_machines_get_the_json_of_the_wire(here: Path) -> None:
    await styx(here, "run", "--label", "a=b", "--", "sh", "-c", "exit 7")
    listed = json.loads((await styx(here, "list", "-o", "json")).text)
    assert [(task["id"], task["state"], task["exitCode"], task["labels"]) for task in listed] == [
        ("t1", "FAILED", 7, {"a": "b"})
    ]
    lines = (await styx(here, "list", "-o", "jsonl")).text.splitlines()
    assert [json.loads(line) for line in lines] == listed
    assert yaml.safe_load((await styx(here, "list", "-o", "yaml")).text) == listed
    assert (await styx(here, "list", "-o", "name")).text == "t1\n"
    one = json.loads((await styx(here, "status", "t1", "-o", "json")).text)
    assert one["spec"]["argv"] == ["sh", "-c", "exit 7"]
    whole = json.loads((await styx(here, "status", "-o", "json")).text)
    assert (set(whole), whole["agents"][0]["id"]) == ({"server", "agents", "tasks"}, "a1")
    assert json.loads((await styx(here, "agent", "list", "-o", "json")).text)[0]["capacity"]["cpus"] == 4.0
    assert json.loads((await styx(here, "submit", "-o", "json", "--", "true")).text) == {"taskId": "t2"}


async def test_empty_answers_are_still_answers(here: Path) -> None:
    assert json.loads((await styx(here, "list", "-o", "json")).text) == []
    assert (await styx(here, "list", "-o", "jsonl")).out == b""
    assert (await styx(here, "list")).text.startswith("ID")


async def test_lists_can_be_narrowed_and_say_what_they_leave_out(here: Path, running: Running) -> None:
    running.service.hold = True
    await styx(here, "submit", "--label", "team=a", "--name", 'odd "name"', "--", "true")
    for _ in range(3):
        running.service._store(running.service.tasks["t1"].task.spec)
    running.service.hold = False
    await styx(here, "run", "--", "true")
    assert (
        await styx(here, "list", "--state", "pending", "--label", "team=a", "-o", "name")
    ).text == "t4\nt3\nt2\nt1\n"
    assert (await styx(here, "list", "--name", "true", "-o", "name")).text == "t5\n"
    assert (await styx(here, "list", "-n", "2", "-o", "name")).text == "t5\nt4\n"
    for _ in range(60):
        running.service._store(running.service.tasks["t5"].task.spec)
    short = await styx(here, "list")
    assert len(short.text.splitlines()) == 51
    assert "--all" in short.talk
    assert len((await styx(here, "list", "--all")).text.splitlines()) == 66
    wrong = await styx(here, "list", "--filter", "moon=1")
    assert wrong.code == 2
    assert "moon" in wrong.talk


async def test_people_see_one_task_in_full(here: Path) -> None:
    await styx(here, "run", "--", "sh", "-c", "exit 7")
    text = (await styx(here, "status", "t1")).text
    for words in ("FAILED", "Exit code  7", "Created", "Started", "Ended", "Attempts", "EXITED with 7", "a1"):
        assert words in text


async def test_escape_sequences_in_names_never_come_out_of_a_table(here: Path) -> None:
    await styx(here, "submit", "--name", "evil\x1b[31m\x1b]0;x\x07\n", "--label", "k=\x1b[2J", "--", "true")
    for words in (["list", "-o", "wide"], ["status"], ["status", "t1"]):
        done = await styx(here, *words)
        assert b"\x1b" not in done.out
        assert b"evil" in done.out


async def test_an_invitation_is_a_command_line_that_works(here: Path, running: Running) -> None:
    done = await styx(here, "agent", "join", "--uses", "3", "--ttl", "1h", "--pool", "gpu", "--label", "rack=7")
    assert done.text == f"styx-agent --server-url {running.url} --join-token styx_join_1_joinsecret\n"
    assert "3 agents" in done.talk
    _, request = running.service.calls[-1]
    assert (request.max_uses, request.ttl.seconds, request.pool, dict(request.labels)) == (
        3,
        3600,
        "gpu",
        {"rack": "7"},
    )
    for words in (["--token-only"], ["-o", "name"]):
        assert (await styx(here, "agent", "join", *words)).text == "styx_join_1_joinsecret\n"


async def test_agents_are_drained_and_put_back(here: Path) -> None:
    assert "DRAINING" in (await styx(here, "agent", "drain", "a1")).text
    assert "READY" in (await styx(here, "agent", "drain", "1", "--undo")).text
    assert "Isolation" in (await styx(here, "agent", "show", "a1")).text
    assert (await styx(here, "agent", "drain", "a1", "--undo", "--deadline", "5m")).code == 2
    assert (await styx(here, "agent", "drain", "a1", "--undo", "--wait")).code == 2


async def test_an_agent_is_emptied_and_removed(here: Path, running: Running) -> None:
    stored = running.service.agents["a1"]
    stored.attempt_count = 2
    stored.task_ids.extend(["t7", "t8"])
    refused = await styx(here, "agent", "remove", "a1")
    assert (refused.code, "hint: drain it first" in refused.talk) == (1, True)
    draining = await start(here, "agent", "drain", "a1", "--deadline", "10m", "--wait")
    assert draining.stderr is not None
    assert await draining.stderr.readline() == b"waits for 2 attempts on a1: t7, t8\n"
    shown = (await styx(here, "agent", "show", "a1")).text
    assert ("Drained by" in shown, "2  t7 t8" in shown) == (True, True)
    stored.attempt_count = 0
    assert await draining.wait() == 0
    stored.attempt_count = 1
    forced = await styx(here, "agent", "remove", "a1", "--force")
    assert (forced.text, forced.talk.splitlines()[0]) == ("", "a1 is removed")
    assert "still held 1 attempt" in forced.talk


async def test_a_server_error_is_no_traceback(here: Path, running: Running) -> None:
    running.service.faults.append(Fault("GetServerInfo", reason="INTERNAL_ERROR", message="request r7 failed"))
    done = await styx(here, "status")
    assert done.code == 1
    assert done.talk.startswith("error: request r7 failed\nhint: report it")


async def test_watching_a_task_ends_with_it(here: Path) -> None:
    await styx(here, "submit", "--", "sleep", "0.3")
    states = [
        json.loads(line)["state"] for line in (await styx(here, "status", "t1", "-w", "-o", "jsonl")).text.splitlines()
    ]
    assert states[-1] == "SUCCEEDED"


async def test_version_knows_the_server_and_lives_without_one(here: Path, tmp_path: Path, running: Running) -> None:
    assert (await styx(here, "version")).text == "client 0.1.0\nserver 0.1.0\n"
    assert (await styx(tmp_path, "version")).text == "client 0.1.0\n"
    assert (await styx(tmp_path, "version", "--server", running.url)).text == "client 0.1.0\nserver 0.1.0\n"
    assert json.loads((await styx(here, "version", "--client", "-o", "json")).text) == {"client": "0.1.0"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_is_a_script_for_the_shell(tmp_path: Path, shell: str) -> None:
    done = await styx(tmp_path, "completion", shell)
    assert done.code == 0
    assert f"_STYX_COMPLETE={shell}_complete" in done.text


async def test_completion_completes(tmp_path: Path) -> None:
    env = {"_STYX_COMPLETE": "bash_complete", "COMP_WORDS": "styx sub", "COMP_CWORD": "1"}
    assert (await styx(tmp_path, env=env)).text == "plain,submit\n"


async def test_without_words_the_program_shows_its_help(tmp_path: Path) -> None:
    done = await styx(tmp_path)
    assert done.code == 2
    assert "Examples:" in done.text + done.talk


async def test_two_interrupts_leave_even_while_the_server_is_silent(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        process = await start(here, "run", "--server", url, "--", "true")
        silent.setblocking(False)
        connection, _ = await asyncio.get_running_loop().sock_accept(silent)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        connection.close()
    assert process.returncode == 130


async def test_when_the_server_stays_away_run_says_that_the_task_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as running:
        process = await start(running.data_dir, "run", "--", "sleep", "100", env={"STYX_RETRY_SECONDS": "0.3"})
        await soon(lambda: bool(running.service.tasks), "the task is there")
    _, err = await process.communicate()
    assert process.returncode == 125
    assert b"t1 goes on" in err

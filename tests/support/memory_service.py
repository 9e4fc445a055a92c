"""A whole Styx in memory, for tests of the SDK and the command line: `styx.v1.StyxService` over real gRPC.

Submitted commands run as plain subprocesses of this process. It keeps the contract where clients can see it (request
ids, pages, filters by state, offsets, error details) and breaks it on demand: `faults` makes calls fail,
`cut_logs_after` breaks log streams. Run as a program it serves until SIGTERM, like a server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from styx.v1 import agents_pb2, styx_service_pb2_grpc, tasks_pb2
from styx.v1 import styx_service_pb2 as pb

TOKEN = "styx_admin_1_secret"
State = tasks_pb2.Task.State
TERMINAL = {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.LOST}
LIMIT = 256 * 1024


@dataclass
class Fault:
    """The next call of `method` fails like this."""

    method: str
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    reason: str = "STORE_UNAVAILABLE"
    message: str = "the database is away"
    retry_after_seconds: float | None = None
    after_commit: bool = False


@dataclass
class Stored:
    """One task, its output and its process."""

    task: tasks_pb2.Task
    output: dict[int, bytearray] = field(default_factory=lambda: {1: bytearray(), 2: bytearray()})
    process: asyncio.subprocess.Process | None = None
    cancelled: bool = False
    drained: bool = False


class MemoryService(styx_service_pb2_grpc.StyxServiceServicer):
    def __init__(self) -> None:
        self.tasks: dict[str, Stored] = {}
        self.requests: dict[str, tuple[bytes, Any]] = {}
        self.faults: deque[Fault] = deque()
        self.cut_logs_after: deque[int] = deque()
        self.calls: list[tuple[str, Any]] = []
        self.agents = {"a1": _an_agent()}
        self.hold = False
        self.changed = asyncio.Condition()
        self.version = 0
        self._running: set[asyncio.Task[None]] = set()

    async def SubmitTask(self, request: pb.TaskRequest, context: Any) -> pb.TaskResponse:
        fault = await self._enter("SubmitTask", request, context)
        known = await self._known(request, context)
        if not known:
            await self._check(request.spec, "spec", context)
            known = pb.TaskResponse(task_id=self._store(request.spec), state=State.PENDING)
            self._remember(request, known)
        await _fail_late(fault, context)
        response: pb.TaskResponse = known
        return response

    async def SubmitTasks(self, request: pb.SubmitTasksRequest, context: Any) -> pb.SubmitTasksResponse:
        await self._enter("SubmitTasks", request, context)
        known = await self._known(request, context)
        if not known:
            for index, spec in enumerate(request.specs):
                await self._check(spec, f"specs[{index}]", context)
            known = pb.SubmitTasksResponse(task_ids=[self._store(spec) for spec in request.specs])
            self._remember(request, known)
        response: pb.SubmitTasksResponse = known
        return response

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> tasks_pb2.Task:
        await self._enter("GetTask", request, context)
        return (await self._find(request.task_id, context)).task

    async def GetStatus(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        await self._enter("GetStatus", request, context)
        task = (await self._find(request.task_id, context)).task
        return pb.StatusResponse(
            task_id=task.id,
            state=task.state,
            reason=task.reason,
            message=task.message,
            exit_code=task.exit_code if task.HasField("exit_code") else None,
            attempt_count=task.attempt_count,
            agent_id=task.agent_id,
        )

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        await self._enter("ListTasks", request, context)
        matches = await self._matching(request.filter, context)
        matches.sort(key=lambda task: -int(task.id[1:]))
        if request.page_token:
            matches = [task for task in matches if int(task.id[1:]) < int(request.page_token)]
        size = min(request.page_size or 100, 1000)
        page = [_small(task) for task in matches[:size]]
        return pb.ListTasksResponse(tasks=page, next_page_token=page[-1].id[1:] if len(matches) > size else "")

    async def WatchTasks(self, request: pb.WatchTasksRequest, context: Any) -> AsyncIterator[pb.WatchTasksResponse]:
        await self._enter("WatchTasks", request, context)
        for task_id in request.task_ids:
            await self._find(task_id, context)
        seen: dict[str, bytes] = {}
        while True:
            version = self.version
            tasks = [self.tasks[each].task for each in request.task_ids] or await self._matching(
                request.filter, context
            )
            fresh = [task for task in tasks if seen.get(task.id) != task.SerializeToString(deterministic=True)]
            seen.update((task.id, task.SerializeToString(deterministic=True)) for task in fresh)
            yield pb.WatchTasksResponse(tasks=[_small(task) for task in fresh], cursor="c1", synced=True)
            await self._news(version)

    async def CancelTasks(self, request: pb.CancelTasksRequest, context: Any) -> pb.CancelTasksResponse:
        await self._enter("CancelTasks", request, context)
        found = [await self._find(task_id, context) for task_id in request.task_ids]
        for stored in found:
            if stored.task.state in TERMINAL:
                continue
            stored.cancelled = True
            stored.task.state = State.CANCELLING if stored.process else State.CANCELLED
            stored.drained = stored.drained or stored.process is None
            if stored.process:
                os.killpg(stored.process.pid, signal.SIGTERM)
        await self._notify()
        return pb.CancelTasksResponse(tasks=[_small(stored.task) for stored in found])

    async def RetryTask(self, request: pb.RetryTaskRequest, context: Any) -> tasks_pb2.Task:
        await self._enter("RetryTask", request, context)
        stored = await self._find(request.task_id, context)
        if stored.task.state not in TERMINAL:
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "TASK_NOT_ENDED", f"{stored.task.id} is running")
        if stored.task.state == State.SUCCEEDED:
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "TASK_ENDED", f"{stored.task.id} succeeded")
        stored.task.state = State.PENDING
        self._start(stored)
        return stored.task

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Any) -> AsyncIterator[pb.StreamLogsResponse]:
        await self._enter("StreamLogs", request, context)
        stored = await self._find(request.task_id, context)
        if request.attempt > max(1, stored.task.attempt_count):
            await refuse(context, grpc.StatusCode.NOT_FOUND, "ATTEMPT_NOT_FOUND", f"no attempt {request.attempt}")
        offsets = {1: request.stdout_offset, 2: request.stderr_offset}
        if request.tail_lines:
            offsets = {key: _tail(bytes(data), request.tail_lines) for key, data in stored.output.items()}
        wanted = [request.stream] if request.stream else [1, 2]
        cut = self.cut_logs_after.popleft() if self.cut_logs_after else None
        while True:
            version, finished = self.version, stored.drained
            for stream in wanted:
                while offsets[stream] < len(stored.output[stream]):
                    chunk = _chunk(stored, stream, offsets[stream], request.timestamps)
                    if cut is not None and cut <= 0:
                        await refuse(context, grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING", "cut here")
                    yield chunk
                    cut = None if cut is None else cut - 1
                    offsets[stream] += len(chunk.data)
            if finished or not request.follow:
                break
            await self._news(version)
        for stream in wanted:
            yield pb.StreamLogsResponse(
                attempt=1, stream=tasks_pb2.LogStream.Name(stream), offset=offsets[stream], end_of_stream=True
            )

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        await self._enter("ListAgents", request, context)
        return pb.ListAgentsResponse(agents=list(self.agents.values()))

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> agents_pb2.Agent:
        await self._enter("GetAgent", request, context)
        return await self._agent(request.agent_id, context)

    async def DrainAgent(self, request: pb.DrainAgentRequest, context: Any) -> agents_pb2.Agent:
        await self._enter("DrainAgent", request, context)
        agent = await self._agent(request.agent_id, context)
        agent.state = agents_pb2.Agent.READY if request.undo else agents_pb2.Agent.DRAINING
        agent.ClearField("drain_deadline")
        if request.HasField("deadline"):
            agent.drain_deadline.GetCurrentTime()
        return agent

    async def RemoveAgent(self, request: pb.RemoveAgentRequest, context: Any) -> pb.RemoveAgentResponse:
        await self._enter("RemoveAgent", request, context)
        agent = await self._agent(request.agent_id, context)
        if agent.attempt_count and not (request.force or request.lost):
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "AGENT_IN_USE", f"agent {agent.id} is busy")
        del self.agents[agent.id]
        return pb.RemoveAgentResponse(attempt_count=agent.attempt_count)

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Any) -> pb.JoinToken:
        await self._enter("CreateJoinToken", request, context)
        token = pb.JoinToken(token="styx_join_1_joinsecret")
        token.expire_time.GetCurrentTime()
        return token

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.ServerInfo:
        await self._enter("GetServerInfo", request, context)
        counts: dict[str, int] = {}
        for stored in self.tasks.values():
            name = State.Name(stored.task.state)
            counts[name] = counts.get(name, 0) + 1
        info = pb.ServerInfo(version="0.1.0", deployment_id="d1", replica_id="r1", task_counts=counts)
        info.agent_counts["READY"] = len(self.agents)
        info.server_time.GetCurrentTime()
        info.start_time.GetCurrentTime()
        return info

    async def close(self) -> None:
        for running in self._running:
            running.cancel()
        for stored in self.tasks.values():
            if stored.process and stored.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(stored.process.pid, signal.SIGKILL)
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _enter(self, method: str, request: Any, context: Any) -> Fault | None:
        self.calls.append((method, request))
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED_TOKEN", "the token is not known")
        if not self.faults or self.faults[0].method != method:
            return None
        fault = self.faults.popleft()
        if not fault.after_commit:
            await _fail_late(fault, context)
        return fault

    async def _known(self, request: Any, context: Any) -> Any:
        known = self.requests.get(request.request_id)
        if known and known[0] != request.SerializeToString(deterministic=True):
            await refuse(context, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "another request had this id")
        return known[1] if known else None

    def _remember(self, request: Any, response: Any) -> None:
        self.requests[request.request_id] = (request.SerializeToString(deterministic=True), response)

    async def _check(self, spec: tasks_pb2.TaskSpec, path: str, context: Any) -> None:
        wrong = None
        if not spec.command and not spec.argv:
            wrong = ("command", "is empty")
        elif len(spec.command) + sum(map(len, spec.argv)) > LIMIT:
            wrong = ("command", f"is larger than {LIMIT} bytes")
        elif spec.resources.cpus < 0:
            wrong = ("resources.cpus", "is negative")
        if wrong:
            await refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_ARGUMENT_FIELD",
                f"{path}.{wrong[0]} {wrong[1]}",
                violation=(f"{path}.{wrong[0]}", wrong[1]),
            )

    def _store(self, spec: tasks_pb2.TaskSpec) -> str:
        task_id = f"t{len(self.tasks) + 1}"
        name = spec.name or (spec.command or " ".join(spec.argv))[:200]
        task = tasks_pb2.Task(id=task_id, namespace="default", name=name, state=State.PENDING, labels=spec.labels)
        task.spec.CopyFrom(spec)
        task.create_time.GetCurrentTime()
        stored = self.tasks[task_id] = Stored(task=task)
        if self.hold:
            task.reason, task.message = "no_match", "no agent can ever fit this"
        else:
            self._start(stored)
        return task_id

    def _start(self, stored: Stored) -> None:
        running = asyncio.ensure_future(self._run(stored))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _run(self, stored: Stored) -> None:
        task, spec = stored.task, stored.task.spec
        stored.drained = False
        stored.output = {1: bytearray(), 2: bytearray()}
        argv = list(spec.argv) or ["/bin/sh", "-c", spec.command]
        pipe = asyncio.subprocess.PIPE
        env = {"PATH": os.environ["PATH"], **spec.env}
        attempt = task.attempts.add(number=len(task.attempts) + 1, agent_id="a1", cause="first")
        task.attempt_count, task.agent_id = len(task.attempts), "a1"
        try:
            stored.process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=env, start_new_session=True
            )
        except OSError as error:
            attempt.outcome.kind = tasks_pb2.Outcome.START_FAILED
            task.state, task.reason, task.message, stored.drained = State.FAILED, "start_failed", str(error), True
            await self._notify()
            return
        try:
            await self._follow(stored, attempt)
        finally:
            # A child that outlived the shell may hold the pipes, which then never end by themselves.
            stored.process._transport.close()  # type: ignore[attr-defined]

    async def _follow(self, stored: Stored, attempt: tasks_pb2.Attempt) -> None:
        task, spec = stored.task, stored.task.spec
        assert stored.process is not None
        task.state = State.RUNNING
        task.start_time.GetCurrentTime()
        await self._notify()
        timeout = spec.timeout.ToTimedelta().total_seconds() if spec.HasField("timeout") else None
        pumps = [self._pump(stored, 1, stored.process.stdout), self._pump(stored, 2, stored.process.stderr)]
        timed_out = False
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*pumps)
        except TimeoutError:
            timed_out = True
            os.killpg(stored.process.pid, signal.SIGKILL)
        code = await stored.process.wait()
        self._settle(stored, attempt, code, timed_out=timed_out)
        await self._notify()

    def _settle(self, stored: Stored, attempt: tasks_pb2.Attempt, code: int, *, timed_out: bool) -> None:
        task, outcome = stored.task, attempt.outcome
        kinds = tasks_pb2.Outcome
        if timed_out:
            task.state, task.reason, outcome.kind = State.TIMED_OUT, "timeout", kinds.TIMED_OUT
        elif stored.cancelled:
            task.state, task.reason, outcome.kind = State.CANCELLED, "cancelled", kinds.CANCELLED
        elif code < 0:
            task.state, task.reason, outcome.kind = State.FAILED, "signal", kinds.SIGNALED
            outcome.signal = -code
        else:
            outcome.kind, outcome.exit_code, task.exit_code = kinds.EXITED, code, code
            task.state, task.reason = (State.FAILED, "exit_code") if code else (State.SUCCEEDED, "")
        task.end_time.GetCurrentTime()
        attempt.state = tasks_pb2.Attempt.ENDED
        stored.drained = True

    async def _pump(self, stored: Stored, stream: int, pipe: asyncio.StreamReader | None) -> None:
        assert pipe is not None
        while data := await pipe.read(65536):
            stored.output[stream] += data
            await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.version += 1
            self.changed.notify_all()

    async def _news(self, version: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.version != version)

    async def _matching(self, text: str, context: Any) -> list[tasks_pb2.Task]:
        tasks = [stored.task for stored in self.tasks.values()]
        for term in filter(None, text.split(" AND ")):
            key, _, value = term.partition("=")
            if key == "state":
                tasks = [task for task in tasks if State.Name(task.state) in value.split(",")]
            elif key == "name":
                tasks = [task for task in tasks if task.name == value.strip('"')]
            elif key.startswith("label."):
                tasks = [task for task in tasks if task.labels.get(key[6:]) == value.strip('"')]
            else:
                await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID", f"unknown field {key!r}")
        return tasks

    async def _find(self, task_id: str, context: Any) -> Stored:
        if task_id not in self.tasks:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND", f"there is no task {task_id}")
        return self.tasks[task_id]

    async def _agent(self, agent_id: str, context: Any) -> agents_pb2.Agent:
        if agent_id not in self.agents:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", f"there is no agent {agent_id}")
        return self.agents[agent_id]


async def refuse(
    context: Any,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *,
    violation: tuple[str, str] | None = None,
    retry_after_seconds: float | None = None,
) -> None:
    """Ends the call with a status and its details."""
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message)
    parts: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="styx")]
    if violation:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=violation[0], description=violation[1])
        parts.append(bad)
    if retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMicroseconds(int(retry_after_seconds * 1e6))
        parts.append(retry)
    for part in parts:
        packed = any_pb2.Any()
        packed.Pack(part)
        status.details.append(packed)
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, message, trailing_metadata=details)


async def _fail_late(fault: Fault | None, context: Any) -> None:
    if fault:
        await refuse(context, fault.code, fault.reason, fault.message, retry_after_seconds=fault.retry_after_seconds)


def _chunk(stored: Stored, stream: int, offset: int, timestamps: bool) -> pb.StreamLogsResponse:
    data = bytes(stored.output[stream][offset : offset + 65536])
    name = tasks_pb2.LogStream.Name(stream)
    chunk = pb.StreamLogsResponse(attempt=max(1, stored.task.attempt_count), stream=name, offset=offset, data=data)
    if timestamps:
        chunk.times.add(offset=offset).time.FromJsonString("2026-01-31T10:00:00.123Z")
    return chunk


def _tail(data: bytes, lines: int) -> int:
    parts = data.splitlines(keepends=True)
    return len(data) - sum(map(len, parts[-lines:]))


def _small(task: tasks_pb2.Task) -> tasks_pb2.Task:
    small = tasks_pb2.Task()
    small.CopyFrom(task)
    for name in ("spec", "attempts", "timeline"):
        small.ClearField(name)
    return small


def _an_agent() -> agents_pb2.Agent:
    agent = agents_pb2.Agent(id="a1", name="box", state=agents_pb2.Agent.READY, pool="default", version="0.1.0")
    agent.capacity.cpus = 4
    agent.capacity.memory_bytes = 8 << 30
    agent.isolation = "cgroup"
    return agent


@dataclass
class Running:
    """A service that is being served."""

    service: MemoryService
    data_dir: Path
    grpc_address: str
    url: str


@contextlib.asynccontextmanager
async def serving(
    data_dir: Path, *, grpc_port: int = 0, replica_of: MemoryService | None = None
) -> AsyncIterator[Running]:
    """Serves a fresh service, or another's too, on free ports; writes what a server writes into its data folder."""
    service = replica_of or MemoryService()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5000)])
    styx_service_pb2_grpc.add_StyxServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{grpc_port}')}"
    await server.start()
    http = await asyncio.start_server(lambda r, w: _discovery(r, w, address), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{http.sockets[0].getsockname()[1]}"
    _announce(data_dir, url, address)
    try:
        yield Running(service=service, data_dir=data_dir, grpc_address=address, url=url)
    finally:
        _withdraw(data_dir)
        http.close()
        if replica_of is None:
            await service.close()
        await server.stop(None)


def _announce(data_dir: Path, url: str, address: str) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "admin.token").write_text(TOKEN + "\n")
    endpoint = {"http": url, "grpc": address, "pid": os.getpid(), "version": "0.1.0", "deployment_id": "d1"}
    (data_dir / "endpoint.json").write_text(json.dumps(endpoint))


def _withdraw(data_dir: Path) -> None:
    (data_dir / "endpoint.json").unlink(missing_ok=True)


async def _discovery(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = json.dumps({"grpc_address": address, "grpc_port": 0, "tls": False, "version": "0.1.0"}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def _serve_until_told(data_dir: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serving(data_dir):
        await stop.wait()


if __name__ == "__main__":
    import sys

    asyncio.run(_serve_until_told(Path(sys.argv[1])))

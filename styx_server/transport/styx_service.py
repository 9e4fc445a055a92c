"""The public service: decode, one use case, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from styx.v1 import styx_service_pb2, styx_service_pb2_grpc, tasks_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.filter import parse_filter
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.limits import MAX_BATCH, MAX_CANCEL, check_batch, check_slug
from styx_server.core.session import LogStream
from styx_server.core.states import TaskState
from styx_server.core.task import DEFAULT_NAMESPACE
from styx_server.services.agents import Agents
from styx_server.services.feed import Cursor, Feed, WatchRequest
from styx_server.services.info import ServerInformation
from styx_server.services.log_reading import LogReading, LogRequest
from styx_server.services.removal import Removal
from styx_server.services.submission import Submission, Submit
from styx_server.services.tasks import MAX_ID, Mutation, Tasks
from styx_server.transport import codec
from styx_server.transport.cost_methods import CostMethods
from styx_server.transport.instance_methods import InstanceMethods
from styx_server.transport.machine_methods import MachineMethods
from styx_server.transport.machine_use_cases import MachineUseCases
from styx_server.transport.market_methods import MarketMethods
from styx_server.transport.mutations import mutation_fields
from styx_server.transport.paging import make_token, page_size, read_token
from styx_server.transport.pool_methods import PoolMethods

_Context = grpc.aio.ServicerContext[Any, Any]

_MAX_JOIN_USES: Final = 10_000
_STREAMS: Final = {0: (LogStream.STDOUT, LogStream.STDERR), 1: (LogStream.STDOUT,), 2: (LogStream.STDERR,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """Everything that the public service can ask for."""

    submission: Submission
    tasks: Tasks
    feed: Feed
    logs: LogReading
    agents: Agents
    removal: Removal
    information: ServerInformation
    machines: MachineUseCases


class StyxService(
    MachineMethods,
    PoolMethods,
    InstanceMethods,
    MarketMethods,
    CostMethods,
    styx_service_pb2_grpc.StyxServiceServicer,
):
    """`styx.v1.StyxService`; the comments in the proto are its reference."""

    def __init__(self, use: UseCases, terms: LeaseTerms = USUAL_TERMS) -> None:
        self._use = use
        self._agents = use.agents
        self._removal = use.removal
        self._machines = use.machines
        self._terms = terms

    async def SubmitTask(  # noqa: N802
        self, request: styx_service_pb2.TaskRequest, context: _Context
    ) -> styx_service_pb2.TaskResponse:
        """One task."""
        del context
        task = codec.new_task(request.spec, "spec", self._terms)
        call = Submit(tasks=[task], namespace=_namespace(request.namespace), **mutation_fields(request, "SubmitTask"))
        submitted = await self._use.submission.submit(call)
        (task_id,) = submitted.task_ids
        state = TaskState.PENDING
        if submitted.repeated:
            state = TaskState((await self._use.tasks.status(task_id))["state"])
        return styx_service_pb2.TaskResponse(task_id=f"t{task_id}", state=int(state))  # type: ignore[arg-type]

    async def SubmitTasks(  # noqa: N802
        self, request: styx_service_pb2.SubmitTasksRequest, context: _Context
    ) -> styx_service_pb2.SubmitTasksResponse:
        """Many tasks, all or none."""
        del context
        check_batch("specs", len(request.specs))
        tasks = await codec.new_tasks(request.specs, self._terms)
        call = Submit(tasks=tasks, namespace=_namespace(request.namespace), **mutation_fields(request, "SubmitTasks"))
        submitted = await self._use.submission.submit(call)
        return styx_service_pb2.SubmitTasksResponse(task_ids=[f"t{task_id}" for task_id in submitted.task_ids])

    async def GetTask(  # noqa: N802
        self, request: styx_service_pb2.GetTaskRequest, context: _Context
    ) -> tasks_pb2.Task:
        """Everything about one task."""
        del context
        return codec.task_details(await self._use.tasks.get(codec.task_id(request.task_id)))

    async def GetStatus(  # noqa: N802
        self, request: styx_service_pb2.StatusRequest, context: _Context
    ) -> styx_service_pb2.StatusResponse:
        """The state of one task."""
        del context
        row = await self._use.tasks.status(codec.task_id(request.task_id))
        return styx_service_pb2.StatusResponse(
            task_id=f"t{row['id']}",
            state=row["state"],
            reason=row["reason"],
            message=row["message"],
            exit_code=row["exit_code"],
            attempt_count=row["attempt"],
            agent_id=codec.agent_name(row["agent_id"]),
        )

    async def ListTasks(  # noqa: N802
        self, request: styx_service_pb2.ListTasksRequest, context: _Context
    ) -> styx_service_pb2.ListTasksResponse:
        """A page of tasks, newest first."""
        del context
        namespace = _namespace(request.namespace)
        scope = ("tasks", namespace, request.filter)
        below = read_token(request.page_token, *scope)
        count = page_size(request.page_size)
        views = await self._use.tasks.page(
            namespace,
            parse_filter(request.filter),
            MAX_ID if below is None else below,
            count,
            with_body=request.include_spec,
        )
        # What does not fit into one message comes with the next page.
        page = codec.pages([codec.task(view) for view in views])[0]
        more = len(views) == count or len(page) < len(views)
        token = make_token(views[len(page) - 1].task_id, *scope) if more else ""
        return styx_service_pb2.ListTasksResponse(tasks=page, next_page_token=token)

    async def WatchTasks(  # noqa: N802
        self, request: styx_service_pb2.WatchTasksRequest, context: _Context
    ) -> AsyncIterator[styx_service_pb2.WatchTasksResponse]:
        """Tasks as they change."""
        del context
        if len(request.task_ids) > MAX_BATCH:
            check_batch("task_ids", len(request.task_ids))
        wanted = parse_filter(request.filter)
        if any(bound is not None for bound in (wanted.id_from, wanted.id_to, wanted.time_from, wanted.time_to)):
            text = "takes no id and no create_time in a watch; give task_ids"
            raise InvalidRequest([Violation(field="filter", description=text)], reason="FILTER_INVALID")
        watch = WatchRequest(
            namespace=_namespace(request.namespace),
            task_ids=tuple(codec.task_id(text, "task_ids") for text in request.task_ids),
            filter=wanted,
            cursor=Cursor.parse(request.cursor) if request.cursor else None,
            changes_only=request.changes_only,
        )
        async with aclosing(self._use.feed.watch(watch)) as changes:
            async for change in changes:
                # Before everything was sent there is no place to go on from.
                cursor = str(change.cursor) if change.synced else ""
                for tasks in codec.pages([codec.task(view) for view in change.tasks]):
                    yield styx_service_pb2.WatchTasksResponse(tasks=tasks, cursor=cursor, synced=change.synced)

    async def CancelTasks(  # noqa: N802
        self, request: styx_service_pb2.CancelTasksRequest, context: _Context
    ) -> styx_service_pb2.CancelTasksResponse:
        """Asks tasks to stop."""
        del context
        check_batch("task_ids", len(request.task_ids), MAX_CANCEL)
        ids = [codec.task_id(text, "task_ids") for text in request.task_ids]
        grace = codec.duration_seconds(request, "stop_grace")
        if grace is not None and not 0 <= grace <= 86_400:
            raise InvalidRequest([Violation(field="stop_grace", description=f"is {grace:g} s, must be 0 to 24 h")])
        mutation = Mutation(**mutation_fields(request, "CancelTasks"))
        views = await self._use.tasks.cancel(ids, mutation, grace)
        return styx_service_pb2.CancelTasksResponse(tasks=[codec.task(replace(view, labels={})) for view in views])

    async def RetryTask(  # noqa: N802
        self, request: styx_service_pb2.RetryTaskRequest, context: _Context
    ) -> tasks_pb2.Task:
        """One more attempt."""
        del context
        mutation = Mutation(**mutation_fields(request, "RetryTask"))
        return codec.task_details(await self._use.tasks.retry(codec.task_id(request.task_id), mutation))

    async def StreamLogs(  # noqa: N802
        self, request: styx_service_pb2.StreamLogsRequest, context: _Context
    ) -> AsyncIterator[styx_service_pb2.StreamLogsResponse]:
        """Output as bytes."""
        del context
        async with aclosing(self._use.logs.read(_log_request(request))) as pieces:
            async for piece in pieces:
                yield codec.log_piece(piece)

    async def GetServerInfo(  # noqa: N802
        self, request: styx_service_pb2.GetServerInfoRequest, context: _Context
    ) -> styx_service_pb2.ServerInfo:
        """What this server is, and how it does."""
        del request, context
        info = await self._use.information.get()
        return styx_service_pb2.ServerInfo(
            version=info.version,
            deployment_id=info.deployment_id,
            replica_id=info.replica_id,
            server_time=codec.timestamp(info.now),
            start_time=codec.timestamp(info.start_time),
            task_counts=info.task_counts,
            agent_counts=info.agent_counts,
            features=info.features,
        )


def _namespace(name: str) -> str:
    if name:
        check_slug("namespace", name)
    return name or DEFAULT_NAMESPACE


def _log_request(request: styx_service_pb2.StreamLogsRequest) -> LogRequest:
    bad = [
        Violation(field=field, description="is negative")
        for field in ("attempt", "stdout_offset", "stderr_offset", "tail_lines")
        if getattr(request, field) < 0
    ]
    if request.stream not in _STREAMS:
        bad.append(Violation(field="stream", description="is not STDOUT or STDERR"))
    if (request.stdout_offset or request.stderr_offset) and not request.attempt:
        bad.append(Violation(field="attempt", description="is not given; offsets belong to one attempt"))
    if bad:
        raise InvalidRequest(bad)
    return LogRequest(
        task_id=codec.task_id(request.task_id),
        attempt=request.attempt,
        streams=_STREAMS[request.stream],
        follow=request.follow,
        offsets=(request.stdout_offset, request.stderr_offset),
        tail_lines=request.tail_lines,
        timestamps=request.timestamps,
    )

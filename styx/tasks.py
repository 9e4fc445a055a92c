"""What a client can ask about tasks with one request and one answer. Streams are in `follow.py`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Unpack

from styx import ids, names, wire
from styx.calls import Caller
from styx.errors import InvalidRequest
from styx.models import Task, TaskPage, TaskSpec, TaskStatus
from styx.names import Id
from styx.spec import Span, TaskOptions, task_spec
from styx.units import parse_duration
from styx.v1 import styx_service_pb2 as pb
from styx.v1 import tasks_pb2

_PAGE_SIZE = 1000


class TaskMethods:
    """Submit, look at, list, cancel, retry."""

    _caller: Caller
    _namespace: str

    async def submit_task(
        self,
        command: str | Sequence[str] | TaskSpec,
        *,
        request_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> str:
        """Submits one task; when this returns, the task is stored and survives any crash.

        Args:
            command: a shell line, or program and arguments, or a whole spec.
            request_id: repeats of one id never make a second task; made here when not given.
            **options: what the task needs and how it is to be treated; see `TaskOptions`.

        Returns:
            The id of the task, for example `t42`.

        Raises:
            InvalidRequest: `violations` names the fields.
            RequestIdReused: the request id was used for another task.
        """
        spec = _spec(command, options)
        request = pb.TaskRequest(request_id=request_id or ids.request_id(), namespace=self._namespace)
        wire.fill(request.spec, spec)
        request.spec.SetInParent()
        response: pb.TaskResponse = await self._caller.unary("SubmitTask", request)
        return response.task_id

    async def submit_tasks(
        self, tasks: Iterable[str | Sequence[str] | TaskSpec], *, request_id: str | None = None
    ) -> list[str]:
        """Submits up to 10,000 tasks, all of them or none.

        Args:
            tasks: each a shell line, program and arguments, or a whole spec.
            request_id: one for the whole batch; made here when not given.

        Returns:
            Their ids, in order.

        Raises:
            InvalidRequest: `violations` names the index and the field.
        """
        request = pb.SubmitTasksRequest(request_id=request_id or ids.request_id(), namespace=self._namespace)
        known: dict[str | tuple[str, ...], tasks_pb2.TaskSpec] = {}
        for index, task in enumerate(tasks):
            try:
                _add(request, task, known)
            except InvalidRequest as error:
                raise _at(f"specs[{index}]", error) from None
        response: pb.SubmitTasksResponse = await self._caller.unary("SubmitTasks", request)
        return list(response.task_ids)

    async def get_task(self, task_id: Id) -> Task:
        """Everything about one task.

        Raises:
            TaskNotFound: there is none with this id.
        """
        request = pb.GetTaskRequest(task_id=names.task_id(task_id))
        return wire.from_message(Task, await self._caller.unary("GetTask", request))

    async def get_status(self, task_id: Id) -> TaskStatus:
        """The state of one task and little else: cheap to poll.

        Raises:
            TaskNotFound: there is none with this id.
        """
        request = pb.StatusRequest(task_id=names.task_id(task_id))
        return wire.from_message(TaskStatus, await self._caller.unary("GetStatus", request))

    async def list_tasks(
        self,
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        limit: int | None = None,
        include_spec: bool = False,
    ) -> AsyncGenerator[Task, None]:
        """Yields tasks, newest first; asks for pages as they are needed.

        Args:
            filter: terms joined by AND, for example `state=FAILED,LOST AND label.team="x"`.
            limit: at most this many; None: all.
            include_spec: whether each task comes with its spec.

        Raises:
            FilterInvalid: the filter cannot be read.
        """
        async with aclosing(self.task_pages(filter=filter, limit=limit, include_spec=include_spec)) as pages:
            async for page in pages:
                for task in page:
                    yield task

    async def task_pages(
        self,
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        limit: int | None = None,
        include_spec: bool = False,
    ) -> AsyncGenerator[Sequence[Task], None]:
        """The same as `list_tasks`, a page of up to 1,000 tasks at a time."""
        request = pb.ListTasksRequest(filter=filter, include_spec=include_spec, namespace=self._namespace)
        left = limit
        while left is None or left > 0:
            request.page_size = _PAGE_SIZE if left is None else min(left, _PAGE_SIZE)
            page = wire.from_message(TaskPage, await self._caller.unary("ListTasks", request))
            yield page.tasks[:left]
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
            left = None if left is None else left - len(page.tasks)

    async def cancel(self, *task_ids: Id, stop_grace: Span | None = None, request_id: str | None = None) -> list[Task]:
        """Asks tasks to stop; all of them or, when one id is unknown, none.

        Args:
            *task_ids: 1 to 1,000 ids.
            stop_grace: time between SIGTERM and SIGKILL, instead of the tasks' own.
            request_id: made here when not given.

        Returns:
            The tasks after it, in order: CANCELLED, or CANCELLING until the last process is gone, or as they ended.

        Raises:
            TaskNotFound: there is none with one of the ids.
        """
        request = pb.CancelTasksRequest(
            task_ids=[names.task_id(each) for each in task_ids], request_id=request_id or ids.request_id()
        )
        if stop_grace is not None:
            request.stop_grace.FromTimedelta(_span(stop_grace))
        response: pb.CancelTasksResponse = await self._caller.unary("CancelTasks", request)
        return [wire.from_message(Task, task) for task in response.tasks]

    async def retry(self, task_id: Id, *, request_id: str | None = None) -> Task:
        """Gives a task that did not succeed one more attempt.

        Raises:
            TaskNotFound: there is none with this id.
            TaskNotEnded: it has not ended yet.
            TaskEnded: it succeeded.
        """
        request = pb.RetryTaskRequest(task_id=names.task_id(task_id), request_id=request_id or ids.request_id())
        return wire.from_message(Task, await self._caller.unary("RetryTask", request))


def _spec(command: str | Sequence[str] | TaskSpec, options: TaskOptions) -> TaskSpec:
    if not isinstance(command, TaskSpec):
        return task_spec(command, **options)
    if options:
        raise TypeError("options go with a command; a TaskSpec has them inside")
    return command


def _add(
    request: pb.SubmitTasksRequest,
    task: str | Sequence[str] | TaskSpec,
    known: dict[str | tuple[str, ...], tasks_pb2.TaskSpec],
) -> None:
    """Adds a task to a batch. A command that was there before is copied; a spec may have changed since."""
    if isinstance(task, TaskSpec):
        wire.fill(request.specs.add(), task)
        return
    command = task if isinstance(task, str) else tuple(task)
    if all(isinstance(word, str) for word in command):
        if command not in known:
            known[command] = wire.to_message(task_spec(command))
        request.specs.append(known[command])
    else:
        wire.fill(request.specs.add(), task_spec(command))  # says which word cannot be sent


def _span(value: Span) -> timedelta:
    if isinstance(value, str):
        return parse_duration(value)
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _at(path: str, error: InvalidRequest) -> InvalidRequest:
    moved = InvalidRequest(f"{path}: {error.message}")
    moved.violations = tuple(replace(each, field=f"{path}.{each.field}") for each in error.violations)
    return moved

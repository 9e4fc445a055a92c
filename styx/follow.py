"""What a client can follow: tasks as they change, until they end; output as it is written.

A stream that breaks is taken up again where it broke: by cursor for tasks, by offset for output. `logs.py` does the
second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from styx import names, wire
from styx.calls import Caller
from styx.errors import InvalidRequest, WaitTimedOut
from styx.logs import LogReader
from styx.models import LogChunk, LogStream, Task, WatchUpdate
from styx.names import Id
from styx.v1 import styx_service_pb2 as pb
from styx.v1 import tasks_pb2

_WATCH_IDS = 10_000
_ENDED = "state!=PENDING,RUNNING,CANCELLING"
"""Those that a later server may add come too, and are sorted out here."""


class FollowMethods:
    """Watch, wait, read logs."""

    _caller: Caller
    _namespace: str

    async def watch(
        self,
        task_ids: Sequence[Id] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        cursor: str = "",
        changes_only: bool = False,
    ) -> AsyncGenerator[WatchUpdate, None]:
        """Yields tasks as they are, then as they change. Never ends by itself; nothing is missed in between.

        Args:
            task_ids: these tasks, at most 10,000; none: all.
            filter: of these, only what matches; as in `list_tasks`, without id and create_time.
            cursor: of an earlier update: only what changed since.
            changes_only: leaves out the tasks as they are now.

        Raises:
            TaskNotFound: there is none with one of the ids.
            FilterInvalid: the filter cannot be read.
        """
        request = pb.WatchTasksRequest(
            task_ids=[names.task_id(each) for each in task_ids],
            filter=filter,
            cursor=cursor,
            changes_only=changes_only,
            namespace=self._namespace,
        )
        async with aclosing(self._caller.stream("WatchTasks", lambda: request, endless=True)) as messages:
            async for message in messages:
                if message.cursor:
                    request.cursor = message.cursor
                yield wire.from_message(WatchUpdate, message)

    async def wait(self, task_id: Id, *, timeout: float | None = None) -> Task:  # noqa: ASYNC109 - the sync twin needs it
        """Waits until a task has ended.

        Args:
            task_id: for example `t42`.
            timeout: at most this many seconds; None: as long as it takes.

        Returns:
            The task as it ended, without spec and attempts.

        Raises:
            WaitTimedOut: it has not ended in time; it goes on.
            TaskNotFound: there is none with this id.
        """
        return (await self.wait_all([task_id], timeout=timeout))[0]

    async def wait_all(
        self,
        task_ids: Sequence[Id],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the sync twin needs it
    ) -> list[Task]:
        """Waits until all of some tasks have ended; returns them in order. Arguments and errors are those of `wait`."""
        wanted = [names.task_id(each) for each in task_ids]
        ended: dict[str, Task] = {}
        try:
            async with asyncio.timeout(timeout):
                for start in range(0, len(wanted), _WATCH_IDS):
                    await self._collect_ended(wanted[start : start + _WATCH_IDS], ended)
        except TimeoutError:
            waiting = [each for each in wanted if each not in ended]
            others = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            raise WaitTimedOut(f"{waiting[0]}{others} did not end within {timeout:g} s") from None
        return [ended[each] for each in wanted]

    async def logs(
        self,
        task_id: Id,
        *,
        follow: bool = False,
        attempt: int = 0,
        stream: LogStream | str | None = None,
        tail: int = 0,
        timestamps: bool = False,
    ) -> AsyncGenerator[LogChunk, None]:
        """Yields the output of a task as bytes, each byte once and in the order of its stream.

        Args:
            task_id: for example `t42`.
            follow: go on until the task has ended and its log is complete.
            attempt: number of the attempt; 0: the latest, and with `follow` also the ones after it.
            stream: `stdout` or `stderr`; None: both.
            tail: start with about this many last lines of each stream; 0: from the beginning.
            timestamps: whether chunks say when they were written.

        Raises:
            TaskNotFound: there is none with this id.
            AttemptNotFound: it has no attempt with this number.
        """
        request = pb.StreamLogsRequest(
            task_id=names.task_id(task_id),
            attempt=attempt,
            stream=_stream_number(stream),  # type: ignore[arg-type]
            follow=follow,
            tail_lines=tail,
            timestamps=timestamps,
        )
        async with aclosing(LogReader(self._caller, request).read()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _collect_ended(self, task_ids: Sequence[str], ended: dict[str, Task]) -> None:
        left = set(task_ids)
        async with aclosing(self.watch(task_ids, filter=_ENDED)) as updates:
            while left:
                update = await anext(updates)
                ended.update((task.id, task) for task in update.tasks if task.state.is_terminal)
                left.difference_update(ended)


def _stream_number(stream: LogStream | str | None) -> int:
    if stream is None:
        return 0
    try:
        kind = LogStream(str(stream).upper())
    except ValueError:
        raise InvalidRequest(f"{stream!r} is not a stream; there are stdout and stderr") from None
    return wire.enum_number(kind, tasks_pb2.LogStream.DESCRIPTOR)

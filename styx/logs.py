"""Reads the output of one task to its end, whatever happens to the connection meanwhile.

Keeps the offset reached in each stream of each attempt. After a break it asks for the same attempt from there; since
offsets go with one attempt, it then moves on to the attempts after it by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from styx import wire
from styx.calls import Caller
from styx.models import LogChunk, LogStream, TaskStatus
from styx.v1 import styx_service_pb2 as pb


class LogReader:
    """One reading of one task's output."""

    def __init__(self, caller: Caller, request: pb.StreamLogsRequest) -> None:
        self._caller = caller
        self._first = request
        self._attempt = 0
        self._reached: dict[LogStream, int] = {}
        self._resumed = False

    async def read(self) -> AsyncGenerator[LogChunk, None]:
        """Yields every chunk once."""
        while True:
            async with aclosing(self._caller.stream("StreamLogs", self._request)) as messages:
                async for message in messages:
                    chunk = self._accept(wire.from_message(LogChunk, message))
                    if chunk is not None:
                        yield chunk
            if not self._resumed or not self._first.follow or self._first.attempt:
                return
            if not await self._next_attempt():
                return

    def _request(self) -> pb.StreamLogsRequest:
        """The first request as it was; later ones name the attempt and where to go on in it."""
        if not self._attempt:
            return self._first
        self._resumed = True
        request = pb.StreamLogsRequest()
        request.CopyFrom(self._first)
        request.attempt = self._attempt
        request.tail_lines = 0
        request.stdout_offset = self._reached.get(LogStream.STDOUT, 0)
        request.stderr_offset = self._reached.get(LogStream.STDERR, 0)
        return request

    def _accept(self, chunk: LogChunk) -> LogChunk | None:
        """Moves the offset on; leaves out bytes that were seen before, None if nothing is left."""
        if chunk.attempt != self._attempt:
            self._attempt = chunk.attempt
            self._reached = {}
        reached = self._reached.get(chunk.stream, 0)
        end = chunk.offset + len(chunk.data)
        if chunk.data and end <= reached:
            return None
        self._reached[chunk.stream] = max(reached, end)
        if chunk.data and chunk.offset < reached:
            return replace(chunk, offset=reached, data=chunk.data[reached - chunk.offset :])
        return chunk

    async def _next_attempt(self) -> bool:
        """After a resumed attempt has ended: waits for the one after it. False when the task has ended instead."""
        task_id = self._first.task_id
        if await self._advance(await self._status()):
            return True
        watch = pb.WatchTasksRequest(task_ids=[task_id])
        async with aclosing(self._caller.stream("WatchTasks", lambda: watch, endless=True)) as updates:
            async for update in updates:
                watch.cursor = update.cursor or watch.cursor
                status = await self._status()
                if await self._advance(status):
                    return True
                if status.state.is_terminal:
                    return False
        return False

    async def _advance(self, status: TaskStatus) -> bool:
        if status.attempt_count <= self._attempt:
            return False
        self._attempt += 1
        self._reached = {}
        return True

    async def _status(self) -> TaskStatus:
        request = pb.StatusRequest(task_id=self._first.task_id)
        return wire.from_message(TaskStatus, await self._caller.unary("GetStatus", request))

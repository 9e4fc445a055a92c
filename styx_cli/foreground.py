"""One task in the foreground: its output as it comes, a word when it has to wait, its end as our exit code.

Several things happen at once here (output, news, interrupts), so this command runs its own event loop. What an
interrupt means is decided in `interrupts.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing, closing
from typing import TYPE_CHECKING

from styx.errors import StyxError
from styx_cli import clock
from styx_cli.exits import Exit, code_of_task, complain
from styx_cli.failures import first_of
from styx_cli.interrupts import Action, Event, Mood, decide, read_answer
from styx_cli.output import LogWriter
from styx_cli.phrases import span
from styx_cli.sanitize import plain
from styx_cli.settings import Settings, is_terminal, say

if TYPE_CHECKING:
    from styx.client import AsyncClient
    from styx.models import Task, TaskSpec

_SECONDS_BEFORE_NEWS = 1.0
_SECONDS_FOR_LAST_OUTPUT = 60.0
_QUESTION = "\nstyx: [d]etach and let it run, [c]ancel it, or Enter to go on following? "


def run_in_foreground(settings: Settings, spec: TaskSpec, request_id: str | None) -> int:
    """Submits the task, follows it to its end; returns the exit code.

    Raises:
        StyxError: it could not be submitted, or the server stayed away for too long.
    """
    return asyncio.run(_run(settings, spec, request_id))


async def _run(settings: Settings, spec: TaskSpec, request_id: str | None) -> int:
    async with settings.async_client() as client:
        return await Foreground(settings, client).run(spec, request_id)


class Foreground:
    """The task, and the conversation about it."""

    def __init__(self, settings: Settings, client: AsyncClient) -> None:
        self._settings = settings
        self._client = client
        self._task_id = ""
        self._mood = Mood.FOLLOWING
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._interactive = is_terminal(sys.stdin) and is_terminal(sys.stderr)
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._writer = LogWriter(settings)

    async def run(self, spec: TaskSpec, request_id: str | None) -> int:
        """Everything from submission to the exit code."""
        loop = asyncio.get_running_loop()
        for number, event in ((signal.SIGINT, Event.INTERRUPT), (signal.SIGTERM, Event.TERMINATE)):
            loop.add_signal_handler(number, self._events.put_nowait, event)
        try:
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(self._heed_interrupts())]
                work.append(group.create_task(self._submit_and_follow(spec, request_id, group, work)))
                code = await self._code
                for each in work:
                    each.cancel()
        except BaseExceptionGroup as failures:
            failure = first_of(failures)
            if self._task_id and isinstance(failure, StyxError):
                say(self._settings, f"styx: {self._task_id} goes on; `styx logs -f {self._task_id}` follows it")
            raise failure from None
        return code

    async def _submit_and_follow(
        self, spec: TaskSpec, request_id: str | None, group: asyncio.TaskGroup, work: list[asyncio.Task[None]]
    ) -> None:
        self._task_id = await self._client.submit_task(spec, request_id=request_id)
        self._talk(f"styx: {self._task_id} submitted")
        if self._mood is Mood.CANCELLING:
            await self._client.cancel(self._task_id)
        work.append(group.create_task(self._tell_news()))
        await self._follow()

    async def _follow(self) -> None:
        with closing(self._writer):
            async with aclosing(self._client.logs(self._task_id, follow=True)) as chunks:
                async for chunk in chunks:
                    self._writer.write(chunk)
        await self._client.wait(self._task_id)
        await self._finish()

    async def _finish(self) -> None:
        task = await self._client.get_task(self._task_id)
        code = code_of_task(task)
        if code and not (task.exit_code == code and not is_terminal(sys.stderr)):
            complain(ending(task))
        self._leave(code)

    async def _tell_news(self) -> None:
        """Says why the task waits; gives up on output that never comes after the task has ended."""
        await clock.sleep(_SECONDS_BEFORE_NEWS)
        told = ""
        async with aclosing(self._client.watch([self._task_id])) as updates:
            async for update in updates:
                for task in update.tasks:
                    told = self._tell_wait(task, told)
                if any(task.state.is_terminal for task in update.tasks):
                    break
        await self._give_up_on_output()

    def _tell_wait(self, task: Task, told: str) -> str:
        text = plain(task.message or task.reason)
        if task.state.value != "PENDING" or not text or text == told:
            return told
        line = f"styx: {task.id} waits: {text}"
        # A task that can never start is worth a word to anybody.
        if task.reason == "no_match":
            say(self._settings, line)
        else:
            self._talk(line)
        return text

    async def _give_up_on_output(self) -> None:
        written = -1
        while written != self._writer.written_bytes:
            written = self._writer.written_bytes
            await clock.sleep(_SECONDS_FOR_LAST_OUTPUT)
        say(self._settings, "styx: the task has ended but the rest of its output has not arrived")
        await self._finish()

    async def _heed_interrupts(self) -> None:
        while True:
            event = await self._events.get()
            self._mood, action = decide(self._mood, event, interactive=self._interactive)
            match action:
                case Action.ASK:
                    self._ask()
                case Action.CANCEL:
                    await self._cancel()
                case Action.DETACH:
                    self._talk(f"styx: {self._task_id} goes on; `styx logs -f {self._task_id}` follows it")
                    self._leave(Exit.OK)
                case Action.LEAVE:
                    say(self._settings, f"styx: leaving; {self._task_id or 'the task'} may still be stopping")
                    self._leave(Exit.INTERRUPTED)
                case Action.NOTHING:
                    pass

    async def _cancel(self) -> None:
        if self._interactive:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        self._talk(f"styx: cancelling {self._task_id}; once more leaves it alone")
        if self._task_id:
            await self._client.cancel(self._task_id)

    def _ask(self) -> None:
        sys.stderr.write(_QUESTION)
        sys.stderr.flush()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._take_answer)

    def _take_answer(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        answer = os.read(sys.stdin.fileno(), 1024).decode("utf-8", "replace")
        self._events.put_nowait(read_answer(answer))

    def _leave(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)

    def _talk(self, text: str) -> None:
        """Words that only a person wants between the lines of the task."""
        if is_terminal(sys.stderr):
            say(self._settings, text)


def ending(task: Task) -> str:
    """How a task ended, in one sentence."""
    took = ""
    if task.start_time and task.end_time:
        took = f" after {span((task.end_time - task.start_time).total_seconds())}"
    why = f": {task.message}" if task.message else f": {task.reason}" if task.reason else ""
    code = f" with exit code {task.exit_code}" if task.exit_code else ""
    return f"{task.id} ended as {task.state.value}{code}{took}{why}"

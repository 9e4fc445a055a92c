"""Who looks at the output of what, here and on other servers, so that its agent hurries.

Looking outlives sessions. Another server's word on what it looks at counts for a few seconds and is repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from styx_server.clock import Clock
from styx_server.core.task import AgentId, Fence, TaskId
from styx_server.services.session_registry import Session, SessionRegistry
from styx_server.store.bulletin import Kind

PERIOD_SECONDS: Final = 3.0
_LAST_SECONDS: Final = 10.0
"""How long another server's word counts: three repetitions, and one that came late."""

Post = Callable[[Kind, Iterable[int]], None]
"""Posts a note to the other servers."""


class Followed(NamedTuple):
    """An attempt whose output somebody follows."""

    agent_id: AgentId
    task_id: TaskId
    fence: Fence


class Interest:
    """Counts followers by attempt; of other servers, it knows the tasks that are followed there.

    Args:
        registry: through which agents are told.
        post: tells the other servers.
    """

    def __init__(self, registry: SessionRegistry, clock: Clock, post: Post) -> None:
        self._registry = registry
        self._clock = clock
        self._post = post
        self._here: dict[AgentId, Counter[Followed]] = {}
        self._elsewhere: dict[TaskId, float] = {}

    def follow(self, followed: Followed, change: int) -> None:
        """Counts one more who looks (`change` is 1) or one less (-1), and tells the agent."""
        counts = self._here.setdefault(followed.agent_id, Counter())
        counts[followed] += change
        if counts[followed] <= 0:
            del counts[followed]
        if not counts:
            del self._here[followed.agent_id]
        session = self._registry.get(followed.agent_id)
        if session is None:
            self._post(Kind.LOOKS, [followed.task_id])
        else:
            self._tell(session)

    def heard(self, task_ids: Iterable[int]) -> None:
        """Somebody on another server looks at these."""
        until = self._clock.monotonic() + _LAST_SECONDS
        heard = set(map(TaskId, task_ids))
        fresh = heard - self._elsewhere.keys()
        self._elsewhere.update(dict.fromkeys(heard, until))
        self._tell_about(fresh)

    def stored(self, task_id: TaskId) -> None:
        """Something about the output of a task changed here: those who follow it elsewhere are told."""
        if task_id in self._elsewhere:
            self._post(Kind.LOGS, [task_id])

    def greet(self, session: Session) -> None:
        """Tells a new session what is looked at already."""
        if fences := self._fences(session):
            session.outlet.interest(fences)

    async def once(self) -> float | None:
        """One pass: repeats to the other servers what is looked at here, and forgets what they no longer repeat."""
        now = self._clock.monotonic()
        over = {task_id for task_id, until in self._elsewhere.items() if until < now}
        for task_id in over:
            del self._elsewhere[task_id]
        self._tell_about(over)
        away = [agent_id for agent_id in self._here if self._registry.get(agent_id) is None]
        if away:
            self._post(Kind.LOOKS, [followed.task_id for agent_id in away for followed in self._here[agent_id]])
        return None

    def _tell(self, session: Session) -> None:
        session.outlet.interest(self._fences(session))

    def _fences(self, session: Session) -> list[Fence]:
        """Attempts of an agent that somebody looks at."""
        fences = {followed.fence for followed in self._here.get(session.agent_id, ())}
        if self._elsewhere:
            fences |= {fence for fence, known in session.known.items() if known.task_id in self._elsewhere}
        return sorted(fences)

    def _tell_about(self, task_ids: set[TaskId]) -> None:
        if not task_ids:
            return
        for session in self._registry.all():
            if any(known.task_id in task_ids for known in session.known.values()):
                self._tell(session)

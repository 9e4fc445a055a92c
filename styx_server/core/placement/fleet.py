"""All agents that this server knows, and for each shape those that may have room for it.

An agent without room for a shape is not looked at again until something of it comes free, so that a round costs as much
as it places, however many agents there are. Next: `plan.py`, which places.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Final

from styx_server.core.placement.capacity import AgentSlots, Reservation
from styx_server.core.task import AgentId, Fence, Shape

_SHAPES_KEPT: Final = 256
"""Each has a list of agents. Those that were not asked for lately are forgotten, and made anew when they come again."""

_TOLD: Final = 3
"""So many alternatives are spoken of in one sentence."""

_Turns = OrderedDict[AgentId, AgentSlots]


class Fleet:
    """All agents, and a place for each shape."""

    def __init__(self) -> None:
        self.agents: dict[AgentId, AgentSlots] = {}
        self._fitting: OrderedDict[Shape, _Fitting] = OrderedDict()

    def put(self, agent: AgentSlots, held: Mapping[Fence, Reservation]) -> None:
        """Adds an agent, or replaces what was known of it; `held` is what its live attempts reserve."""
        for fence, reservation in sorted(held.items()):
            if reservation.queued:
                agent.queue[fence] = reservation
            else:
                agent.hold(reservation)
        agent.behind = len(agent.queue)
        agent.move_up()
        if before := self.agents.get(agent.agent_id):
            agent.pace = before.pace
        self.agents[agent.agent_id] = agent
        for shape, fitting in self._fitting.items():
            fitting.forget(agent.agent_id)
            if not agent.lacks(shape):
                fitting.add(agent)

    def drop(self, agent_id: AgentId) -> None:
        """Forgets an agent that was removed: nothing can ever run there. Unknown agents are passed over."""
        if self.agents.pop(agent_id, None) is not None:
            for fitting in self._fitting.values():
                fitting.forget(agent_id)

    def set_accepting(self, agent_id: AgentId, accepting: bool) -> None:
        """Says whether an agent may get new work. Unknown agents are passed over."""
        agent = self.agents.get(agent_id)
        if agent is None or agent.accepting == accepting:
            return
        agent.accepting = accepting
        for fitting in self._fitting.values():
            fitting.verdict = None
        self.came_free(agent)

    def came_free(self, agent: AgentSlots) -> None:
        """There may be room on it that was not there before."""
        for fitting in self._fitting.values():
            if agent.agent_id in fitting.agents:
                fitting.look_at(agent)

    def place(self, shape: Shape, now: float) -> tuple[AgentSlots, int] | None:
        """An agent with room for `shape` now, or else one that soon has. Agents take turns, so that load spreads.

        Args:
            shape: what is to be placed.
            now: when this round began, in seconds on the monotonic clock.

        Returns:
            The agent, and the place among `shape.choices` of the one that it is to be given.
        """
        if not shape.alternatives:
            agent = self._with_room(shape) or self._soon(shape, now)
            return None if agent is None else (agent, 0)
        numbered = list(enumerate(shape.alternatives))
        # Room that is there now comes before room that will be, whichever alternative it is for.
        found = ((self._with_room(choice), number) for number, choice in numbered)
        later = ((self._soon(choice, now), number) for number, choice in numbered)
        return next(((agent, number) for agent, number in chain(found, later) if agent is not None), None)

    def explain(self, shape: Shape) -> tuple[bool, str]:
        """Why `shape` waits: whether any agent could ever run it, and one sentence for people."""
        if shape.alternatives:
            return self._explain_all(shape)
        fitting = self._of(shape)
        if fitting.verdict is None:
            fitting.verdict = self._verdict(shape, fitting)
        return fitting.verdict

    def _with_room(self, shape: Shape) -> AgentSlots | None:
        return _next(self._of(shape).open, lambda agent: agent.fits_now(shape))

    def _soon(self, shape: Shape, now: float) -> AgentSlots | None:
        need = shape.resources
        return _next(self._of(shape).ahead, lambda agent: agent.may_queue(need, now))

    def _explain_all(self, shape: Shape) -> tuple[bool, str]:
        verdicts = [(number, *self.explain(each)) for number, each in enumerate(shape.alternatives, 1)]
        possible = any(verdict[1] for verdict in verdicts)
        # Those that may come true are what is waited for; the others tell only when there are none of these.
        told = [f"alternative {number}: {text}" for number, good, text in verdicts if good == possible]
        more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        return possible, "; ".join(told[:_TOLD]) + more

    def _verdict(self, shape: Shape, fitting: _Fitting) -> tuple[bool, str]:
        if count := len(fitting.agents):
            usable = sum(agent.accepting for agent in fitting.agents.values())
            fit = "fits" if count == 1 else "fit"
            return True, f"{_agents(count)} {fit}, {usable} of them taking work, none with room now"
        if not self.agents:
            return False, "there is no agent yet; start one with `styx up` or `styx agent join`"
        lacking: dict[str, int] = {}
        for agent in self.agents.values():
            what = agent.lacks(shape)
            lacking[what] = lacking.get(what, 0) + 1
        most = sorted(lacking.items(), key=lambda pair: -pair[1])[:4]
        parts = ", ".join(f"{count} lack{'s' if count == 1 else ''} {what}" for what, count in most)
        return False, f"no agent can ever run it: of {_agents(len(self.agents))} {parts}"

    def _of(self, shape: Shape) -> _Fitting:
        found = self._fitting.get(shape)
        if found is None:
            found = self._fitting[shape] = _Fitting()
            for agent in self.agents.values():
                if not agent.lacks(shape):
                    found.add(agent)
            if len(self._fitting) > _SHAPES_KEPT:
                self._fitting.popitem(last=False)
        self._fitting.move_to_end(shape)
        return found


class _Fitting:
    """The agents that could run one shape while idle.

    Attributes:
        open: those that may have room now, in the order of their turns.
        ahead: those that may take it beyond their room, likewise.
        verdict: why tasks of the shape wait; None: to be found out.
    """

    def __init__(self) -> None:
        self.agents: dict[AgentId, AgentSlots] = {}
        self.open: _Turns = OrderedDict()
        self.ahead: _Turns = OrderedDict()
        self.verdict: tuple[bool, str] | None = None

    def add(self, agent: AgentSlots) -> None:
        self.agents[agent.agent_id] = agent
        self.look_at(agent)

    def look_at(self, agent: AgentSlots) -> None:
        self.open[agent.agent_id] = agent
        if agent.queues:
            self.ahead[agent.agent_id] = agent

    def forget(self, agent_id: AgentId) -> None:
        self.verdict = None  # it may have counted this agent, also as one that lacks something
        for agents in (self.agents, self.open, self.ahead):
            agents.pop(agent_id, None)


def _next(turns: _Turns, suits: Callable[[AgentSlots], bool]) -> AgentSlots | None:
    """The first that suits goes to the end of the turns; those before it, which do not, leave them."""
    while turns:
        agent_id, agent = turns.popitem(last=False)
        if suits(agent):
            turns[agent_id] = agent
            return agent
    return None


def _agents(count: int) -> str:
    return f"{count} agent" if count == 1 else f"{count} agents"

"""Who holds what: the reservations of live attempts, and the shares of namespaces that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from styx_server.core.placement.capacity import AgentSlots, Reservation
from styx_server.core.placement.fleet import Fleet
from styx_server.core.task import AgentId, Fence


class Ledger:
    """Reservations by fence, on a fleet.

    Attributes:
        usage: thousandths of cores in use by namespace.
    """

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.usage: dict[str, int] = {}
        self._held: dict[Fence, Reservation] = {}
        self._of_agent: dict[AgentId, set[Fence]] = {}

    def enter(self, agent: AgentSlots, held: Mapping[Fence, Reservation]) -> None:
        """An agent connected: what it has, and what its live attempts hold of it, whatever was known before."""
        self.give_back(list(self._of_agent.get(agent.agent_id, ())))
        for fence, reservation in held.items():
            self.note(fence, reservation)
            cores = max(1, reservation.resources.cpus_milli)
            self.usage[reservation.namespace] = self.usage.get(reservation.namespace, 0) + cores
        self.fleet.put(agent, held)

    def leave(self, agent_id: AgentId) -> None:
        """An agent is not there any more."""
        self.give_back(list(self._of_agent.get(agent_id, ())))
        self._of_agent.pop(agent_id, None)
        self.fleet.drop(agent_id)

    def note(self, fence: Fence, reservation: Reservation) -> None:
        """What a plan took stands under the fence of the attempt to be."""
        self._held[fence] = reservation
        self._of_agent.setdefault(reservation.agent_id, set()).add(fence)
        if reservation.queued and (agent := self.fleet.agents.get(reservation.agent_id)):
            agent.queue[fence] = reservation

    def ended(self, fences: Iterable[Fence], now: float) -> None:
        """Attempts are over: gives back what they held, and notes how quickly that goes. `now`: monotonic seconds."""
        for agent_id, count in self.give_back(fences).items():
            if agent := self.fleet.agents.get(agent_id):
                agent.pace.note(count, now)

    def give_back(self, fences: Iterable[Fence]) -> Counter[AgentId]:
        """Gives back what attempts held; unknown ones are passed over. How many of each agent had room."""
        counts: Counter[AgentId] = Counter()
        for fence in sorted(fences):  # as the agent started them, so that each has moved up before it ends
            if reservation := self._held.pop(fence, None):
                self._of_agent[reservation.agent_id].discard(fence)
                # The agent may be gone by now; the share is given back all the same.
                agent = self.fleet.agents.get(reservation.agent_id)
                if agent is not None:
                    counts[agent.agent_id] += agent.end(fence, reservation)
                    self.fleet.came_free(agent)
                left = self.usage.get(reservation.namespace, 0) - max(1, reservation.resources.cpus_milli)
                self.usage[reservation.namespace] = max(0, left)
        return counts

    def held_on(self, agent_id: AgentId) -> list[Reservation]:
        """What live attempts hold of an agent."""
        return [self._held[fence] for fence in self._of_agent.get(agent_id, ())]

"""Who holds what: the reservations of live attempts, and the shares of namespaces that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from styx_server.core.placement.capacity import AgentSlots, Fleet, Reservation
from styx_server.core.placement.plan import release
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
        self.fleet.put(agent, held.values())

    def leave(self, agent_id: AgentId) -> None:
        """An agent is not there any more."""
        self.give_back(list(self._of_agent.get(agent_id, ())))
        self._of_agent.pop(agent_id, None)
        self.fleet.drop(agent_id)

    def note(self, fence: Fence, reservation: Reservation) -> None:
        """What a plan took stands under the fence of the attempt to be."""
        self._held[fence] = reservation
        self._of_agent.setdefault(reservation.agent_id, set()).add(fence)

    def give_back(self, fences: Iterable[Fence]) -> None:
        """Gives back what attempts held; unknown ones are passed over."""
        for fence in fences:
            if reservation := self._held.pop(fence, None):
                self._of_agent[reservation.agent_id].discard(fence)
                release(reservation, self.fleet, self.usage)

    def held_on(self, agent_id: AgentId) -> list[Reservation]:
        """What live attempts hold of an agent."""
        return [self._held[fence] for fence in self._of_agent.get(agent_id, ())]

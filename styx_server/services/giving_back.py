"""Gives rented machines back when a person asks for it. How that is done is the business of who ends machines."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Protocol

from styx_server.core.errors import WrongState
from styx_server.core.machines.instance import Instance, InstanceId, InstanceState
from styx_server.core.task import AgentId
from styx_server.services.instance_views import InstanceViews
from styx_server.services.tasks import Mutation, claim
from styx_server.store.database import Database

REASON: Final = "terminate_requested"
_MESSAGE: Final = "given back on request"


class EndsMachines(Protocol):
    """Who ends machines, in steps that can each be repeated."""

    async def drain(self, instance_id: InstanceId, reason: str, message: str, deadline: timedelta | None) -> bool:
        """Takes a machine out of service; False: it has no agent, or is leaving already."""
        ...

    async def give_back(
        self, instance_id: InstanceId, agent_id: AgentId | None, reason: str, message: str, *, force: bool = False
    ) -> bool:
        """Has a machine ended; False: something runs there and `force` was not said, or it is ending already."""
        ...


class GivingBack:
    """What a person may ask of a rented machine."""

    def __init__(self, database: Database, views: InstanceViews, ends: EndsMachines) -> None:
        self._database = database
        self._views = views
        self._ends = ends

    async def terminate(
        self, instance_id: InstanceId, mutation: Mutation, *, deadline: timedelta | None, now: bool
    ) -> None:
        """Begins to give a machine back; returns when that is stored.

        Args:
            instance_id: which. One that has ended, or is being given back, stays as it is.
            mutation: whose request this is.
            deadline: how long from now what runs there may go on; None: until it ends.
            now: do not drain.

        Raises:
            NotFound: there is none with this id.
            Conflict: the request id was used for something else.
        """
        instance = (await self._views.get(instance_id)).instance
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation)
        # A repeated request may be one whose first server died before it came to this. Doing it again changes nothing,
        # but for a deadline, which would count from now.
        match instance.state:
            case InstanceState.READY if not now:
                await self._ends.drain(instance_id, REASON, _MESSAGE, deadline)
            case InstanceState.DRAINING if not now:
                if first:
                    await self._set_deadline(instance, deadline)
            case state if state < InstanceState.TERMINATING:
                await self._ends.give_back(instance_id, instance.agent_id, REASON, _MESSAGE, force=True)
            case _:
                pass

    async def _set_deadline(self, instance: Instance, deadline: timedelta | None) -> None:
        if instance.agent_id is not None:
            wish = {"draining": True, "deadline": deadline, "now": None}
            await self._database.fetch("set_draining", id=instance.agent_id, **wish)


class NobodyEnds:
    """Stands in where no machines are rented."""

    async def drain(self, instance_id: InstanceId, reason: str, message: str, deadline: timedelta | None) -> bool:
        """Refuses."""
        del reason, message, deadline
        raise _nobody(instance_id)

    async def give_back(
        self, instance_id: InstanceId, agent_id: AgentId | None, reason: str, message: str, *, force: bool = False
    ) -> bool:
        """Refuses."""
        del agent_id, reason, message, force
        raise _nobody(instance_id)


def _nobody(instance_id: InstanceId) -> WrongState:
    text = f"no provider is configured on this server, so instance i{instance_id} cannot be given back by it"
    return WrongState(text, reason="NOT_SUPPORTED", instance_id=f"i{instance_id}")

"""What a client can ask about pools and rented machines. What there is to rent, and its cost, is in `market.py`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict, Unpack

from styx import ids, names, wire
from styx.calls import Caller
from styx.machine_models import Instance, InstancePage, Pool, PoolPage, PoolSpec, Renting
from styx.models import SpotUse
from styx.names import Id
from styx.v1 import styx_service_pb2 as pb


class PoolChanges(TypedDict, total=False):
    """The fields of `PoolSpec`, as keyword arguments of `update_pool`. None makes one as usual again."""

    min_machines: int | None
    max_machines: int | None
    idle_timeout: timedelta | None
    spot: SpotUse | None
    infra: Sequence[str] | None
    machine_types: Sequence[str] | None
    max_hourly_cost: float | None
    image: str | None
    labels: Mapping[str, str] | None
    disk_bytes: int | None
    max_life: timedelta | None


class PoolMethods:
    """Make, look at, change and delete pools."""

    _caller: Caller

    async def pools(self) -> AsyncGenerator[Pool, None]:
        """Yields all pools by name; asks for pages as they are needed."""
        request = pb.ListPoolsRequest(page_size=1000)
        while True:
            page = wire.from_message(PoolPage, await self._caller.unary("ListPools", request))
            for pool in page.pools:
                yield pool
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def pool(self, name: str) -> Pool:
        """One pool.

        Raises:
            PoolNotFound: there is none with this name.
        """
        return wire.from_message(Pool, await self._caller.unary("GetPool", pb.GetPoolRequest(name=name)))

    async def create_pool(self, name: str, spec: PoolSpec | None = None, *, request_id: str | None = None) -> Pool:
        """Makes a pool.

        Args:
            name: 1 to 63 of a-z, 0-9 and '-'.
            spec: how it lives; what it leaves out is as usual.
            request_id: made here when not given.

        Raises:
            InvalidRequest: `violations` names the fields.
            PoolExists: there is one with this name.
        """
        request = pb.CreatePoolRequest(name=name, request_id=request_id or ids.request_id())
        wire.fill(request.spec, spec or PoolSpec())
        return wire.from_message(Pool, await self._caller.unary("CreatePool", request))

    async def update_pool(
        self, name: str, *, generation: int = 0, request_id: str | None = None, **changes: Unpack[PoolChanges]
    ) -> Pool:
        """Changes some fields of a pool: `update_pool("gpu", max_machines=4, labels={})`.

        Args:
            name: which.
            generation: only if the pool is still of this generation; 0: whatever it is.
            request_id: made here when not given.
            **changes: fields of `PoolSpec`; None makes one as usual again. Labels and lists are replaced as a whole.

        Raises:
            InvalidRequest: `violations` names the fields.
            PoolNotFound: there is none with this name.
            PoolChanged: it is of another generation.
            TypeError: a pool has no such field.
        """
        request = pb.UpdatePoolRequest(name=name, generation=generation, request_id=request_id or ids.request_id())
        unknown = sorted(set(changes) - set(PoolChanges.__annotations__))
        if unknown:
            raise TypeError(f"update_pool() got an unexpected keyword argument {unknown[0]!r}")
        given: dict[str, Any] = {field: value for field, value in changes.items() if value is not None}
        wire.fill(request.spec, PoolSpec(**given))
        request.update_mask.paths.extend(changes)
        return wire.from_message(Pool, await self._caller.unary("UpdatePool", request))

    async def delete_pool(self, name: str, *, request_id: str | None = None) -> None:
        """Deletes a pool that has neither machines nor tasks.

        Raises:
            PoolNotFound: there is none with this name.
            PoolInUse: something is there; the message says what, and how to be rid of it.
        """
        await self._caller.unary(
            "DeletePool", pb.DeletePoolRequest(name=name, request_id=request_id or ids.request_id())
        )


class InstanceMethods:
    """Look at rented machines, and give them back."""

    _caller: Caller

    async def instances(
        self,
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        include_ended: bool = False,
    ) -> AsyncGenerator[Instance, None]:
        """Yields rented machines, newest first; asks for pages as they are needed.

        Args:
            filter: terms joined by AND, such as `pool=gpu AND state=READY`.
            include_ended: those that have ended or were refused, too.

        Raises:
            FilterInvalid: the filter cannot be read.
        """
        request = pb.ListInstancesRequest(page_size=1000, filter=filter, include_ended=include_ended)
        while True:
            page = wire.from_message(InstancePage, await self._caller.unary("ListInstances", request))
            for instance in page.instances:
                yield instance
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def instance(self, instance_id: Id) -> Instance:
        """One rented machine, with what it cost when.

        Raises:
            InstanceNotFound: there is none with this id.
        """
        request = pb.GetInstanceRequest(instance_id=names.instance_id(instance_id))
        return wire.from_message(Instance, await self._caller.unary("GetInstance", request))

    async def terminate_instance(
        self,
        instance_id: Id,
        *,
        deadline: timedelta | None = None,
        now: bool = False,
        request_id: str | None = None,
    ) -> Instance:
        """Gives a rented machine back; returns when that has begun.

        Args:
            instance_id: for example `i9`.
            deadline: that long from now, what still runs there is stopped and its task runs elsewhere. None: what runs
                there may end by itself.
            now: without waiting for anything: what runs there dies with the machine.
            request_id: made here when not given.

        Raises:
            InstanceNotFound: there is none with this id.
            InvalidRequest: the deadline is out of bounds, or goes with `now`.
        """
        request = pb.TerminateInstanceRequest(
            instance_id=names.instance_id(instance_id), now=now, request_id=request_id or ids.request_id()
        )
        if deadline is not None:
            request.deadline.FromTimedelta(deadline)
        return wire.from_message(Instance, await self._caller.unary("TerminateInstance", request))

    async def set_renting(self, *, frozen: bool, request_id: str | None = None) -> Renting:
        """Stops all renting, or lets it go on. What is rented already goes on, and is given back as ever.

        Args:
            frozen: nothing is rented while it is set.
            request_id: made here when not given.
        """
        request = pb.SetRentingRequest(frozen=frozen, request_id=request_id or ids.request_id())
        return wire.from_message(Renting, await self._caller.unary("SetRenting", request))

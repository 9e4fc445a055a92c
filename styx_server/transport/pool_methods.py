"""The part of the public service that is about pools."""

from __future__ import annotations

from typing import Any

import grpc

from styx.v1 import machines_pb2, styx_service_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.services.pools import PoolChange
from styx_server.services.tasks import Mutation
from styx_server.transport import machine_codec
from styx_server.transport.machine_use_cases import MachineUseCases
from styx_server.transport.mutations import mutation_fields
from styx_server.transport.paging import make_token, page_size, read_text_token

_Context = grpc.aio.ServicerContext[Any, Any]


class PoolMethods:
    """Methods of `styx.v1.StyxService`."""

    _machines: MachineUseCases

    async def CreatePool(  # noqa: N802
        self, request: styx_service_pb2.CreatePoolRequest, context: _Context
    ) -> machines_pb2.Pool:
        """Makes a pool."""
        del context
        mutation = Mutation(**mutation_fields(request, "CreatePool"))
        spec = machine_codec.pool_spec(request.spec)
        return machine_codec.pool(await self._machines.pools.create(request.name, spec, mutation))

    async def GetPool(  # noqa: N802
        self, request: styx_service_pb2.GetPoolRequest, context: _Context
    ) -> machines_pb2.Pool:
        """One pool."""
        del context
        return machine_codec.pool(await self._machines.pools.get(_name(request.name)))

    async def UpdatePool(  # noqa: N802
        self, request: styx_service_pb2.UpdatePoolRequest, context: _Context
    ) -> machines_pb2.Pool:
        """Changes some fields of a pool."""
        del context
        mutation = Mutation(**mutation_fields(request, "UpdatePool"))
        change = PoolChange(
            name=_name(request.name),
            spec=machine_codec.pool_spec(request.spec),
            fields=_fields(request),
            generation=request.generation,
        )
        return machine_codec.pool(await self._machines.pools.update(change, mutation))

    async def ListPools(  # noqa: N802
        self, request: styx_service_pb2.ListPoolsRequest, context: _Context
    ) -> styx_service_pb2.ListPoolsResponse:
        """A page of pools, by name."""
        del context
        count = page_size(request.page_size)
        views = await self._machines.pools.page(read_text_token(request.page_token, "pools") or "", count)
        token = make_token(views[-1].pool.name, "pools") if len(views) == count else ""
        return styx_service_pb2.ListPoolsResponse(
            pools=[machine_codec.pool(view) for view in views], next_page_token=token
        )

    async def DeletePool(  # noqa: N802
        self, request: styx_service_pb2.DeletePoolRequest, context: _Context
    ) -> styx_service_pb2.DeletePoolResponse:
        """Deletes a pool that is empty."""
        del context
        mutation = Mutation(**mutation_fields(request, "DeletePool"))
        await self._machines.pools.delete(_name(request.name), mutation)
        return styx_service_pb2.DeletePoolResponse()


def _name(name: str) -> str:
    if "\0" in name:
        raise InvalidRequest([Violation(field="name", description="has a NUL character, which no name has")])
    return name


def _fields(request: styx_service_pb2.UpdatePoolRequest) -> frozenset[str]:
    known = ", ".join(machine_codec.POOL_FIELDS)
    paths = list(request.update_mask.paths)
    if not paths:
        text = f"is empty; name the fields that are to change: {known}"
        raise InvalidRequest([Violation(field="update_mask", description=text)])
    unknown = [path for path in paths if path not in machine_codec.POOL_FIELDS]
    if unknown:
        text = f"names {unknown[0][:40]!r}, which a pool does not have; there are {known}"
        raise InvalidRequest([Violation(field="update_mask", description=text)])
    return frozenset(machine_codec.POOL_FIELDS[path] for path in paths)

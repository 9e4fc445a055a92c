"""The part of the public service that is about rented machines."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import grpc

from styx.v1 import machines_pb2, styx_service_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.instance_filter import parse_instance_filter
from styx_server.services.tasks import MAX_ID, Mutation
from styx_server.transport import codec, machine_codec
from styx_server.transport.machine_use_cases import MachineUseCases
from styx_server.transport.mutations import mutation_fields
from styx_server.transport.paging import make_token, page_size, read_token

_Context = grpc.aio.ServicerContext[Any, Any]

_MAX_DEADLINE: Final = timedelta(days=365)


class InstanceMethods:
    """Methods of `styx.v1.StyxService`."""

    _machines: MachineUseCases

    async def ListInstances(  # noqa: N802
        self, request: styx_service_pb2.ListInstancesRequest, context: _Context
    ) -> styx_service_pb2.ListInstancesResponse:
        """A page of rented machines, newest first."""
        del context
        scope = ("instances", request.filter, str(request.include_ended))
        below = read_token(request.page_token, *scope)
        count = page_size(request.page_size)
        views = await self._machines.instances.page(
            parse_instance_filter(request.filter),
            MAX_ID if below is None else below,
            count,
            include_ended=request.include_ended,
        )
        token = make_token(views[-1].instance.instance_id, *scope) if len(views) == count else ""
        found = [machine_codec.instance(view, with_prices=False) for view in views]
        return styx_service_pb2.ListInstancesResponse(instances=found, next_page_token=token)

    async def GetInstance(  # noqa: N802
        self, request: styx_service_pb2.GetInstanceRequest, context: _Context
    ) -> machines_pb2.Instance:
        """One rented machine with all that is known."""
        del context
        view = await self._machines.instances.get(machine_codec.instance_id(request.instance_id))
        return machine_codec.instance(view, with_prices=True)

    async def TerminateInstance(  # noqa: N802
        self, request: styx_service_pb2.TerminateInstanceRequest, context: _Context
    ) -> machines_pb2.Instance:
        """Gives a rented machine back."""
        del context
        mutation = Mutation(**mutation_fields(request, "TerminateInstance"))
        number = machine_codec.instance_id(request.instance_id)
        await self._machines.giving_back.terminate(number, mutation, deadline=_deadline(request), now=request.now)
        return machine_codec.instance(await self._machines.instances.get(number), with_prices=True)


def _deadline(request: styx_service_pb2.TerminateInstanceRequest) -> timedelta | None:
    seconds = codec.duration_seconds(request, "deadline")
    if seconds is None:
        return None
    if request.now:
        raise InvalidRequest([Violation(field="deadline", description="goes with a drain, not with now")])
    if not 0 <= seconds <= _MAX_DEADLINE.total_seconds():
        raise InvalidRequest([Violation(field="deadline", description=f"is {seconds:g} s, must be 0 to 365 days")])
    return timedelta(seconds=seconds)

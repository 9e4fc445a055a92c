"""Makes one machine: asks for it, waits for what becomes of the order, and finds it again when it was asked for
before.

An order is known to Google by two things. By its request id a repeated call is answered with the operation of the
first, for as long as Google remembers. The machine's name is made from the key, and a second of the same name in a
zone is refused, for ever. Next: `machine.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import NAMESPACE_URL, uuid5

from styx_server.clock import Clock
from styx_server.core.machines.instance import TAG_DEPLOYMENT, CloudMachine, MachineState, RentOrder
from styx_server.core.machines.refusal import RULES, RefusalKind
from styx_server.providers.gcp.calls import Clients, Google
from styx_server.providers.gcp.errors import Refused, explain
from styx_server.providers.gcp.machine import instance_of, label_value, machine_name, machine_of, place_of
from styx_server.providers.ports import ProviderError

if TYPE_CHECKING:
    from google.cloud import compute_v1

_TAKEN: Final = frozenset({"alreadyExists", "RESOURCE_ALREADY_EXISTS"})
_ANSWERS_TOLD_AGAIN: Final = 32
"""So many failed operations of one key are followed at most."""


class Renter:
    """Makes machines in zones."""

    def __init__(self, google: Google, clock: Clock) -> None:
        self._google = google
        self._clock = clock

    async def make(self, order: RentOrder, zone: str) -> CloudMachine:
        """The machine of an order, made now or before.

        Raises:
            ProviderError: Google refused, or its answer did not come in time.
        """
        doing = f"renting {order.offer.machine_type}{' spot' if order.offer.spot else ''} in {place_of(zone)}"
        identity = f"styx:{self._google.settings.project}/{zone}/{order.key}"
        deadline = self._clock.monotonic() + self._google.settings.rent_seconds
        for _ in range(_ANSWERS_TOLD_AGAIN):
            operation = await self._insert(order, zone, identity, doing)
            if operation is None:
                return await self._adopt(order, zone, doing)
            told_again = _done(operation)
            operation = await self._ended(operation, zone, deadline, doing)
            refused = refusal_of(operation)
            if refused is None:
                return await self._made(order, zone, doing)
            if refused.code in _TAKEN:
                return await self._adopt(order, zone, doing)
            error = explain(refused, doing, self._google.settings.project)
            if not told_again or not RULES[error.kind].repeats:
                raise error
            # The failure of an earlier call, remembered. It has passed, so the order gets a new id, which every caller
            # makes from the same operation.
            identity = operation.name
        raise ProviderError(
            RefusalKind.UNAVAILABLE, f"{doing}: Google failed {_ANSWERS_TOLD_AGAIN} times.", code="gave_up"
        )

    async def _insert(self, order: RentOrder, zone: str, identity: str, doing: str) -> compute_v1.Operation | None:
        """Asks for the machine; None: there is one of that name."""

        def insert(clients: Clients) -> compute_v1.Operation | None:
            from google.api_core.exceptions import Conflict
            from google.cloud import compute_v1

            request = compute_v1.InsertInstanceRequest(
                project=clients.project,
                zone=zone,
                request_id=str(uuid5(NAMESPACE_URL, identity)),
                instance_resource=instance_of(order, zone, self._google.settings),
            )
            try:
                # Not `insert`, whose operation waits at Google's public address whatever endpoint was set.
                return clients.instances.insert_unary(request, **clients.options())
            except Conflict as error:
                if any(each.get("reason") in _TAKEN for each in error.errors):
                    return None
                raise

        return await self._google.ask(doing, insert)

    async def _ended(
        self, operation: compute_v1.Operation, zone: str, deadline: float, doing: str
    ) -> compute_v1.Operation:
        """The operation when it has ended. That it cannot be looked at says nothing about the machine."""
        name = operation.name
        while not _done(operation):
            if self._clock.monotonic() > deadline:
                late = Refused(code="OPERATION_PENDING", message=f"operation {name} is {operation.progress} % done")
                raise explain(late, doing, self._google.settings.project)
            await self._clock.sleep(self._google.settings.poll_seconds)
            try:
                operation = await self._google.ask(doing, lambda clients: _operation(clients, zone, name))
            except ProviderError as error:
                if not RULES[error.kind].repeats:
                    raise unsure(error) from error
        return operation

    async def _made(self, order: RentOrder, zone: str, doing: str) -> CloudMachine:
        """The machine that an operation has made."""
        try:
            found = await self._google.ask(doing, lambda clients: _instance(clients, zone, order))
        except ProviderError:
            # It is there; a look at it can wait.
            return _as_ordered(order, zone, MachineState.STARTING)
        return found or _as_ordered(order, zone, MachineState.ENDED)

    async def _adopt(self, order: RentOrder, zone: str, doing: str) -> CloudMachine:
        """The machine that has the name already, if it is the one that was ordered."""
        try:
            found = await self._google.ask(doing, lambda clients: _instance(clients, zone, order))
        except ProviderError as error:
            raise unsure(error) from error
        if found is None:
            raise ProviderError(
                RefusalKind.UNAVAILABLE,
                f"{doing}: the machine of this order was there and is about to go. The same call is made again.",
                code="alreadyExists",
            )
        ours = label_value(order.tags.get(TAG_DEPLOYMENT, ""))
        if found.key != order.key or label_value(found.tags.get(TAG_DEPLOYMENT, "")) != ours:
            raise ProviderError(
                RefusalKind.BAD_REQUEST,
                f"{doing}: there is a machine {found.cloud_id} that Styx did not make. Rename or delete it.",
                code="alreadyExists",
            )
        return found


def refusal_of(operation: compute_v1.Operation) -> Refused | None:
    """Why an operation failed; None: it did not."""
    if not operation.error.errors:
        return None
    first = operation.error.errors[0]
    said = first.message
    for detail in first.error_details:
        quota = detail.quota_info
        if quota.metric_name and quota.metric_name not in said:
            said += f" ({quota.limit_name or quota.metric_name}: {quota.metric_name}, limit {quota.limit:g})"
    return Refused(code=first.code, message=said, status=operation.http_error_status_code, final=True)


def unsure(error: ProviderError) -> ProviderError:
    """The same for a call after which a machine may exist, whatever was said since."""
    if not error.fate_known:
        return error
    return ProviderError(
        RefusalKind.UNAVAILABLE,
        f"{error.message} Whether there is a machine is not known.",
        code=error.code,
        scope=error.scope,
        retry_after_seconds=error.retry_after_seconds,
    )


def _done(operation: compute_v1.Operation) -> bool:
    return str(operation.status.name if hasattr(operation.status, "name") else operation.status) == "DONE"


def _operation(clients: Clients, zone: str, name: str) -> compute_v1.Operation:
    from google.cloud import compute_v1

    request = compute_v1.GetZoneOperationRequest(project=clients.project, zone=zone, operation=name)
    return clients.operations.get(request, **clients.options())


def _instance(clients: Clients, zone: str, order: RentOrder) -> CloudMachine | None:
    from google.api_core.exceptions import NotFound
    from google.cloud import compute_v1

    name = machine_name(order.key, order.tags.get(TAG_DEPLOYMENT, ""))
    request = compute_v1.GetInstanceRequest(project=clients.project, zone=zone, instance=name)
    try:
        return machine_of(clients.instances.get(request, **clients.options()))
    except NotFound:
        return None


def _as_ordered(order: RentOrder, zone: str, state: MachineState) -> CloudMachine:
    """A machine that was not looked at."""
    return CloudMachine(
        place=place_of(zone),
        cloud_id=machine_name(order.key, order.tags.get(TAG_DEPLOYMENT, "")),
        state=state,
        key=order.key,
        tags=order.tags,
        spot=order.offer.spot,
    )

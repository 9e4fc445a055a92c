"""Models to protobuf and back: the one file of the SDK that knows both.

Because the two use the same names, nothing is mapped by hand: for each model a plan is made once from its fields and
the message's descriptor, and a field is translated by the kind of thing that it is. `MODELS` and `ENUMS` say which
belongs to which. The round trip is a property test. Errors have their own file, `wire_errors.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from styx import machine_models, models
from styx.errors import FieldViolation, InvalidRequest
from styx.v1 import agents_pb2, machines_pb2, styx_service_pb2, tasks_pb2

T = TypeVar("T")
Read = Callable[[Any], Any]
Write = Callable[[Any, Any], None]
Plan = tuple[tuple[str, object, Read, Write], ...]

MODELS: dict[type, type[Message]] = {
    models.Agent: agents_pb2.Agent,
    models.AgentPage: styx_service_pb2.ListAgentsResponse,
    models.Attempt: tasks_pb2.Attempt,
    models.Capacity: agents_pb2.Capacity,
    models.Gpu: agents_pb2.Gpu,
    models.GpuRequest: tasks_pb2.GpuRequest,
    models.JoinToken: styx_service_pb2.JoinToken,
    models.LogChunk: styx_service_pb2.StreamLogsResponse,
    models.LogGap: tasks_pb2.LogGap,
    models.LogPolicy: tasks_pb2.LogPolicy,
    models.LogSummary: tasks_pb2.LogSummary,
    models.LogTime: styx_service_pb2.LogTime,
    models.MachineWish: tasks_pb2.MachineWish,
    models.Outcome: tasks_pb2.Outcome,
    models.Resources: tasks_pb2.Resources,
    models.RetryPolicy: tasks_pb2.RetryPolicy,
    models.ServerInfo: styx_service_pb2.ServerInfo,
    models.Task: tasks_pb2.Task,
    models.TaskEvent: tasks_pb2.TaskEvent,
    models.TaskPage: styx_service_pb2.ListTasksResponse,
    models.TaskSpec: tasks_pb2.TaskSpec,
    models.TaskStatus: styx_service_pb2.StatusResponse,
    models.WatchUpdate: styx_service_pb2.WatchTasksResponse,
    machine_models.Budget: machines_pb2.Budget,
    machine_models.BudgetPage: styx_service_pb2.ListBudgetsResponse,
    machine_models.CatalogRefresh: styx_service_pb2.RefreshCatalogResponse,
    machine_models.CostEntry: machines_pb2.CostEntry,
    machine_models.CostReport: machines_pb2.CostReport,
    machine_models.DroppedOffers: machines_pb2.DroppedOffers,
    machine_models.Finding: machines_pb2.Finding,
    machine_models.GpuModel: machines_pb2.GpuModel,
    machine_models.GpuPage: styx_service_pb2.ListGpusResponse,
    machine_models.Instance: machines_pb2.Instance,
    machine_models.InstancePage: styx_service_pb2.ListInstancesResponse,
    machine_models.Offer: machines_pb2.Offer,
    machine_models.OfferPage: styx_service_pb2.ListOffersResponse,
    machine_models.Plan: machines_pb2.Plan,
    machine_models.PlannedMachines: machines_pb2.PlannedMachines,
    machine_models.Pool: machines_pb2.Pool,
    machine_models.PoolPage: styx_service_pb2.ListPoolsResponse,
    machine_models.PoolSpec: machines_pb2.PoolSpec,
    machine_models.PriceInterval: machines_pb2.PriceInterval,
    machine_models.ProviderCheck: machines_pb2.ProviderCheck,
    machine_models.Refusal: machines_pb2.Refusal,
    machine_models.Renting: styx_service_pb2.SetRentingResponse,
}

ENUMS: dict[str, type[StrEnum]] = {
    "styx.v1.Agent.State": models.AgentState,
    "styx.v1.Attempt.State": models.AttemptState,
    "styx.v1.Budget.Period": machine_models.BudgetPeriod,
    "styx.v1.Budget.Scope": machine_models.BudgetScope,
    "styx.v1.Instance.State": machine_models.InstanceState,
    "styx.v1.LogPolicy.WhenFull": models.WhenFull,
    "styx.v1.LogStream": models.LogStream,
    "styx.v1.Outcome.Kind": models.OutcomeKind,
    "styx.v1.SpotUse": models.SpotUse,
    "styx.v1.Task.State": models.TaskState,
}

_PLANS: dict[type, Plan] = {}
_MODEL_OF = {message.DESCRIPTOR.full_name: model for model, message in MODELS.items()}


def from_message(model: type[T], message: Message) -> T:
    """Makes the model from a message of the type that belongs to it."""
    return model(**{name: read(message) for name, _, read, _ in _plan(model)})


def to_message(value: object) -> Any:
    """Makes the message that belongs to the type of `value`."""
    message = MODELS[type(value)]()
    fill(message, value)
    return message


def fill(message: Message, value: object) -> None:
    """Writes the model `value` into an empty message of the type that belongs to it.

    Raises:
        InvalidRequest: a field holds something that cannot be sent: another type, a number out of range, broken UTF-8.
    """
    for name, empty, _, write in _plan(type(value)):
        content = getattr(value, name)
        if content is None or content is empty:
            continue
        try:
            write(message, content)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            raise _refused(name, error) from None


def _refused(name: str, error: Exception) -> InvalidRequest:
    why = "it is not valid UTF-8" if isinstance(error, UnicodeError) else str(error)
    refusal = InvalidRequest(f"{name} cannot be sent: {why}")
    refusal.violations = (FieldViolation(field=name, description=why),)
    return refusal


def enum_number(value: StrEnum, descriptor: EnumDescriptor) -> int:
    """The number that stands for an enum value on the wire; 0 for one that the contract does not have."""
    found = descriptor.values_by_name.get(value.value)
    return found.number if found else 0


def _plan(model: type) -> Plan:
    plan = _PLANS.get(model)
    if plan is None:
        fields: Any = MODELS[model].DESCRIPTOR.fields_by_name
        plan = _PLANS[model] = tuple(
            (each.name, _empty(each, fields[each.name]), *_translator(fields[each.name]))
            for each in dataclasses.fields(model)
        )
    return plan


def _empty(of_model: dataclasses.Field[Any], field: FieldDescriptor) -> object:
    """What need not be written, because an empty field says it; None, which never is, when each value means more."""
    return None if field.has_presence or of_model.default else of_model.default


def _translator(field: FieldDescriptor) -> tuple[Read, Write]:
    if _is_map(field):
        return _map(field.name)
    decode, encode = _element(field)
    if field.is_repeated:
        return _repeated(field, decode, encode)
    if field.message_type is not None:
        return _single_message(field.name, decode, encode)
    return _scalar(field, decode, encode)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map(name: str) -> tuple[Read, Write]:
    return lambda message: dict(getattr(message, name)), lambda message, value: getattr(message, name).update(value)


def _repeated(field: FieldDescriptor, decode: Read, encode: Write | Read) -> tuple[Read, Write]:
    name = field.name

    def read(message: Any) -> Any:
        return tuple(decode(item) for item in getattr(message, name))

    def write(message: Any, values: Any) -> None:
        target = getattr(message, name)
        for value in values:
            if field.message_type is not None:
                encode(target.add(), value)  # type: ignore[call-arg]
            else:
                target.append(encode(value))  # type: ignore[call-arg]

    return read, write


def _single_message(name: str, decode: Read, encode: Any) -> tuple[Read, Write]:
    def read(message: Any) -> Any:
        return decode(getattr(message, name)) if message.HasField(name) else None

    def write(message: Any, value: Any) -> None:
        part = getattr(message, name)
        part.SetInParent()
        encode(part, value)

    return read, write


def _scalar(field: FieldDescriptor, decode: Read, encode: Any) -> tuple[Read, Write]:
    name, optional = field.name, field.has_presence

    def read(message: Any) -> Any:
        return None if optional and not message.HasField(name) else decode(getattr(message, name))

    def write(message: Any, value: Any) -> None:
        setattr(message, name, encode(value))

    return read, write


def _element(field: FieldDescriptor) -> tuple[Any, Any]:
    """How one value of a field is read, and how it is written (messages) or made (scalars)."""
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.message_type is None:
        return _itself, _itself
    return _message(field.message_type)


def _enum(descriptor: EnumDescriptor) -> tuple[Read, Read]:
    kind: Any = ENUMS[descriptor.full_name]
    names = {number: value.name for number, value in descriptor.values_by_number.items()}

    def read(number: int) -> Any:
        return kind.__members__.get(names.get(number, ""), kind.UNKNOWN)

    return read, lambda value: enum_number(kind(value), descriptor)


def _message(descriptor: Descriptor) -> tuple[Any, Any]:
    match descriptor.full_name:
        case "google.protobuf.Timestamp":
            return _read_time, _write_time
        case "google.protobuf.Duration":
            return _read_span, _write_span
        case "styx.v1.DisconnectTimeout":
            return _read_disconnect, _write_disconnect
        case name:
            model = _MODEL_OF[name]
            return lambda message: from_message(model, message), fill


def _itself(value: Any) -> Any:
    return value


def _read_time(message: Any) -> datetime:
    return datetime.fromtimestamp(message.seconds, UTC) + timedelta(microseconds=message.nanos // 1000)


def _write_time(message: Any, value: datetime) -> None:
    since = value.astimezone(UTC) - datetime.fromtimestamp(0, UTC)
    message.seconds = since.days * 86400 + since.seconds
    message.nanos = since.microseconds * 1000


def _read_span(message: Any) -> timedelta:
    return timedelta(seconds=message.seconds, microseconds=int(message.nanos / 1000))


def _write_span(message: Any, value: timedelta) -> None:
    micros = value // timedelta(microseconds=1)
    sign = -1 if micros < 0 else 1
    message.seconds = sign * (abs(micros) // 1_000_000)
    message.nanos = sign * (abs(micros) % 1_000_000) * 1000


def _read_disconnect(message: Any) -> timedelta | str | None:
    if message.WhichOneof("limit") == "never":
        return "never"
    return _read_span(message.after) if message.HasField("after") else None


def _write_disconnect(message: Any, value: timedelta | str) -> None:
    if value == "never":
        message.never = True
    elif isinstance(value, timedelta):
        _write_span(message.after, value)
        message.after.SetInParent()

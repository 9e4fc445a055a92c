"""Builds a `TaskSpec` from what people write: `cpus=2, memory="2GiB", gpus="A100:2", timeout="1h30m"`.

Pure; knows models and units, no protobuf and no network. What a value means is decided by the server, not here: this
only reads text. `client.py` and the command line both come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, Unpack

from styx.errors import FieldViolation, InvalidRequest
from styx.models import GpuRequest, LogPolicy, MachineWish, Resources, RetryPolicy, SpotUse, TaskSpec
from styx.units import parse_cpus, parse_duration, parse_exact, parse_gpus, parse_size

Span = float | str | timedelta


class Needs(TypedDict, total=False):
    """What a task needs from a machine, as people write it; all may be left out.

    `cpus` is a number, or text: `4` and `4+` mean at least, `=4` a machine with just 4, if one is rented. `memory` and
    `disk` are bytes or text like `2GiB`, memory also `2GiB+` or `=2GiB`. `gpus` is text like `A100:2`, or a count;
    `gpu_memory` is of each. `infra` is where: `aws`, `gcp/us-central1`. `spot` is True for spot machines only, False
    for none, or a SpotUse or its name in lower case. `max_hourly_cost` is in US dollars, of a machine rented for it.
    """

    cpus: float | str | None
    memory: int | str
    gpus: int | str | GpuRequest | None
    gpu_memory: int | str
    disk: int | str
    require_labels: Mapping[str, str]
    infra: str | Sequence[str]
    machine_type: str | Sequence[str]
    spot: bool | str | SpotUse | None
    max_hourly_cost: float | None
    arch: str


class TaskOptions(Needs, total=False):
    """The keyword arguments of `submit_task`, with those of `Needs`; all may be left out.

    Spans are seconds, text like `10m`, or timedelta. `retry` is a policy, or the number of further attempts. Each of
    `any_of` (the cheapest will do) or `ordered` (best first) is what a task needs otherwise than is said beside it.
    """

    name: str
    setup: str
    env: Mapping[str, str]
    workdir: str
    labels: Mapping[str, str]
    any_of: Sequence[Needs]
    ordered: Sequence[Needs]
    pool: str
    image: str
    priority: int
    timeout: Span | None
    stop_grace: Span | None
    disconnect_timeout: Span | Literal["never"] | None
    at_most_once: bool
    retry: int | RetryPolicy | None
    logs: LogPolicy | None
    not_before: datetime | None


_NEEDS = tuple(Needs.__annotations__)
_ALTERNATIVES = ("any_of", "ordered")
_SPANS = ("timeout", "stop_grace", "disconnect_timeout")


def task_spec(command: str | Sequence[str], **options: Unpack[TaskOptions]) -> TaskSpec:
    """Makes a spec: text is a shell line, a sequence is program and arguments.

    Raises:
        InvalidRequest: a value cannot be read; `violations` names the option.
        TypeError: there is no such option.
    """
    unknown = sorted(set(options) - set(TaskOptions.__annotations__))
    if unknown:
        raise TypeError(f"submit_task() got an unexpected keyword argument {unknown[0]!r}")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    what: dict[str, Any] = {"command": command} if isinstance(command, str) else {"argv": tuple(command)}
    needs = {name: given.pop(name) for name in (*_NEEDS, *_ALTERNATIVES) if name in given}
    for name in _SPANS:
        if name in given:
            given[name] = _read(name, _span, given[name])
    if isinstance(given.get("retry"), int):
        given["retry"] = RetryPolicy(max_retries=given["retry"])
    return TaskSpec(**what, **given, resources=_resources(needs) if needs else None)


def _resources(needs: Mapping[str, Any], path: str = "") -> Resources:
    given = {name: value for name, value in needs.items() if value is not None}
    if unknown := sorted(set(given) - {*_NEEDS, *_ALTERNATIVES}):
        raise TypeError(f"{path}{unknown[0]!r} is nothing that a task can need; there are {', '.join(_NEEDS)}")

    def read(name: str, reader: Callable[[Any], Any], otherwise: Any) -> Any:
        return _read(path + name, reader, given[name]) if name in given else otherwise

    cpus, cpus_exact = read("cpus", _cpus, (None, False))
    memory_bytes, memory_exact = read("memory", _memory, (0, False))
    machine = MachineWish(
        infra=_words(given.get("infra", ())),
        machine_types=_words(given.get("machine_type", ())),
        spot=read("spot", _spot, SpotUse.UNKNOWN),
        max_hourly_cost=given.get("max_hourly_cost"),
        cpus_exact=cpus_exact,
        memory_exact=memory_exact,
        arch=given.get("arch", ""),
    )
    gpus = read("gpus", _gpus, None)
    if "gpu_memory" in given:
        gpus = replace(gpus or GpuRequest(), memory_bytes=read("gpu_memory", _size, 0))
    return Resources(
        cpus=cpus,
        memory_bytes=memory_bytes,
        gpus=gpus,
        disk_bytes=read("disk", _size, 0),
        labels=given.get("require_labels", {}),
        machine=None if machine == MachineWish() else machine,
        **{
            name: tuple(_resources(each, f"{name}[{index}].") for index, each in enumerate(given[name]))
            for name in _ALTERNATIVES
            if name in given
        },
    )


def _read(name: str, reader: Callable[[Any], Any], value: Any) -> Any:
    try:
        return reader(value)
    except (ValueError, OverflowError) as error:
        refusal = InvalidRequest(f"{name}: {error}")
        refusal.violations = (FieldViolation(field=name, description=str(error)),)
        raise refusal from None


def _span(value: Span) -> timedelta | str:
    if isinstance(value, str):
        return "never" if value.strip().lower() == "never" else parse_duration(value)
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _size(value: int | str) -> int:
    return parse_size(value) if isinstance(value, str) else value


def _cpus(value: float | str) -> tuple[float, bool]:
    if not isinstance(value, str):
        return value, False
    amount, exact = parse_exact(value)
    return parse_cpus(amount), exact


def _memory(value: int | str) -> tuple[int, bool]:
    if not isinstance(value, str):
        return value, False
    amount, exact = parse_exact(value)
    return parse_size(amount), exact


def _spot(value: bool | str | SpotUse) -> SpotUse:
    if isinstance(value, bool):
        return SpotUse.SPOT if value else SpotUse.ON_DEMAND
    word = value.strip().upper().replace("-", "_")
    if word not in SpotUse.__members__ or word == SpotUse.UNKNOWN:
        there = ", ".join(use.lower() for use in SpotUse if use is not SpotUse.UNKNOWN)
        raise ValueError(f"{value!r} is no way to use spot machines; there are {there}")
    return SpotUse(word)


def _words(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _gpus(value: int | str | GpuRequest) -> GpuRequest:
    if isinstance(value, GpuRequest):
        return value
    name, count = parse_gpus(str(value))
    return GpuRequest(name=name, count=count)

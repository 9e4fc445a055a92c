"""Builds a `TaskSpec` from what people write: `cpus=2, memory="2GiB", gpus="A100:2", timeout="1h30m"`.

Pure; knows models and units, no protobuf and no network. What a value means is decided by the server, not here: this
only reads text. `client.py` and the command line both come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, Unpack

from styx.errors import FieldViolation, InvalidRequest
from styx.models import GpuRequest, LogPolicy, Resources, RetryPolicy, TaskSpec
from styx.units import parse_duration, parse_gpus, parse_size

Span = float | str | timedelta


class TaskOptions(TypedDict, total=False):
    """The keyword arguments of `submit_task`; all may be left out.

    Spans are seconds, text like `10m`, or timedelta. `memory` and `disk` are bytes or text like `2GiB`. `gpus` is text
    like `A100:2`, or a count. `retry` is a policy, or the number of further attempts.
    """

    name: str
    setup: str
    env: Mapping[str, str]
    workdir: str
    cpus: float | None
    memory: int | str
    gpus: int | str | GpuRequest | None
    disk: int | str
    labels: Mapping[str, str]
    require_labels: Mapping[str, str]
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


_NEEDS = ("cpus", "memory", "gpus", "disk", "require_labels")
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
    needs = {name: given.pop(name) for name in _NEEDS if name in given}
    for name in _SPANS:
        if name in given:
            given[name] = _read(name, _span, given[name])
    if isinstance(given.get("retry"), int):
        given["retry"] = RetryPolicy(max_retries=given["retry"])
    return TaskSpec(**what, **given, resources=_resources(needs) if needs else None)


def _resources(needs: Mapping[str, Any]) -> Resources:
    return Resources(
        cpus=needs.get("cpus"),
        memory_bytes=_read("memory", _size, needs.get("memory", 0)),
        gpus=_read("gpus", _gpus, needs["gpus"]) if "gpus" in needs else None,
        disk_bytes=_read("disk", _size, needs.get("disk", 0)),
        labels=needs.get("require_labels", {}),
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


def _gpus(value: int | str | GpuRequest) -> GpuRequest:
    if isinstance(value, GpuRequest):
        return value
    name, count = parse_gpus(str(value))
    return GpuRequest(name=name, count=count)

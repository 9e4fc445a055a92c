"""Which specs are good. Every bound is here, with its reason, and every violation says what to do instead.

Decides on decoded values; knows nothing of the wire but the names of its fields, which are what callers read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.machines import reserved
from styx_server.core.machines.needs import AskedMachine
from styx_server.core.machines.wish import machine_faults, wish_of
from styx_server.core.task import DEFAULT_POOL, NewTask, Resources, Shape, TaskSpec, any_shape_of

MAX_BATCH: Final = 10_000
MAX_CANCEL: Final = 1000
"""Fewer than in a batch of specs: each comes back as a task, and the answer is one message."""
MAX_SPEC_BYTES: Final = 256 * 1024
MAX_NAME_CHARS: Final = 200
MAX_REQUEST_ID_CHARS: Final = 64
MAX_LABELS: Final = 64
MAX_LABEL_KEY_CHARS: Final = 128
MAX_LABEL_VALUE_CHARS: Final = 256
MAX_STRING_BYTES: Final = 131_071
"""Linux takes no longer argument or variable than 128 KiB with its final NUL (MAX_ARG_STRLEN in execve(2))."""
MAX_CPUS: Final = 100_000.0
MAX_GPUS: Final = 1024
MAX_BYTES: Final = 2**60
MAX_ALTERNATIVES: Final = 16
"""Each is looked for among all agents by itself."""
MAX_SECONDS: Final = 315_576_000.0
"""Ten years: longer is a mistake of units."""
MIN_TIMEOUT_SECONDS: Final = 0.001
MAX_RETRIES: Final = 1000
MAX_PRIORITY: Final = 1000

_SLUG = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
# C0 and C1 controls, line separators, and the marks that turn the direction of text or hide in it.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def admit(spec: TaskSpec, body: bytes, path: str = "spec", terms: LeaseTerms = USUAL_TERMS) -> NewTask:
    """Judges `spec` and returns what the server keeps of it.

    Args:
        spec: the decoded spec.
        body: the same spec as bytes, handed to the agent unread.
        path: where the spec stands in the request, for the violations.
        terms: how short a disconnect timeout may be.

    Raises:
        InvalidRequest: something is wrong; names every wrong field.
    """
    violations = [
        Violation(field=f"{path}.{field}" if field else path, description=text) for field, text in _faults(spec, terms)
    ]
    if violations:
        reason = "NOT_SUPPORTED" if spec.unsupported and len(violations) == len(spec.unsupported) else None
        raise InvalidRequest(violations, reason=reason)
    return NewTask(
        name=spec.name or _name_of(spec),
        labels=dict(spec.labels),
        shape=_shape_of(spec),
        priority=spec.priority,
        at_most_once=spec.at_most_once,
        disconnect_seconds=spec.disconnect_seconds,
        retry=spec.retry,
        not_before=spec.not_before,
        body=body,
    )


def check_slug(field: str, value: str) -> None:
    """Raises InvalidRequest when `value` is no good name for a namespace or a pool."""
    if not _SLUG.fullmatch(value):
        raise InvalidRequest([Violation(field=field, description=_SLUG_RULE)])


def check_request_id(value: str) -> None:
    """Raises InvalidRequest when `value` is no good request id; empty is good."""
    if len(value) > MAX_REQUEST_ID_CHARS or not all("!" <= char <= "~" for char in value):
        text = f"must be at most {MAX_REQUEST_ID_CHARS} visible ASCII characters; a UUID is a good choice"
        raise InvalidRequest([Violation(field="request_id", description=text)])


def check_batch(field: str, count: int, most: int = MAX_BATCH) -> None:
    """Raises InvalidRequest when a batch is empty or too large."""
    if not 1 <= count <= most:
        text = f"has {count:,} entries, must have 1 to {most:,}; send several requests"
        raise InvalidRequest([Violation(field=field, description=text)])


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    """Raises InvalidRequest when a label is no good."""
    violations = [Violation(field=at, description=text) for at, text in _label_faults(field, labels.items())]
    violations += [
        Violation(field=f"{field}[{key!r}]", description=reserved.RULE) for key in labels if reserved.is_reserved(key)
    ]
    if violations:
        raise InvalidRequest(violations)


def check_text(field: str, text: str, limit: int) -> None:
    """Raises InvalidRequest when `text` is too long, or not printable."""
    violations = [Violation(field=at, description=why) for at, why in _free_text_faults(field, text, limit)]
    if violations:
        raise InvalidRequest(violations)


_SLUG_RULE: Final = "must be 1 to 63 of a-z, 0-9 and '-', and start and end with a letter or digit"


def _faults(spec: TaskSpec, terms: LeaseTerms) -> Iterator[tuple[str, str]]:
    if spec.size_bytes > MAX_SPEC_BYTES:
        yield "", f"is {spec.size_bytes:,} bytes, at most {MAX_SPEC_BYTES:,} are taken; put large input into a file"
    for field in spec.unsupported:
        yield field, "is not supported by this version of Styx; leave it out"
    yield from _command_faults(spec)
    yield from _text_faults(spec)
    yield from _label_faults("labels", spec.labels.items())
    yield from _need_faults(spec)
    yield from _time_faults(spec, terms)
    yield from _policy_faults(spec)


def _command_faults(spec: TaskSpec) -> Iterator[tuple[str, str]]:
    if spec.command and spec.argv:
        yield "command", "is set and so is argv; set exactly one"
    elif not spec.command.strip() and not spec.argv:
        yield "command", "is empty; say what to run, as `command` (a shell line) or `argv` (a program and arguments)"
    elif spec.argv and not spec.argv[0]:
        yield "argv[0]", "is empty; it must name a program"
    yield from _exec_string_faults("command", spec.command)
    yield from _exec_string_faults("setup", spec.setup)
    for index, text in enumerate(spec.argv):
        yield from _exec_string_faults(f"argv[{index}]", text)


def _exec_string_faults(field: str, text: str) -> Iterator[tuple[str, str]]:
    if "\0" in text:
        yield field, "has a NUL character, which no argument can carry"
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_STRING_BYTES:
        yield field, f"is {size:,} bytes, Linux takes at most {MAX_STRING_BYTES:,}; put it into a file"


def _text_faults(spec: TaskSpec) -> Iterator[tuple[str, str]]:
    yield from _free_text_faults("name", spec.name, MAX_NAME_CHARS)
    if spec.workdir and (not spec.workdir.startswith("/") or "\0" in spec.workdir or len(spec.workdir) > 4095):
        yield "workdir", "must be an absolute path on the agent of at most 4,095 characters"
    if spec.pool and not _SLUG.fullmatch(spec.pool):
        yield "pool", _SLUG_RULE
    for key, value in spec.env.items():
        if not _VARIABLE.fullmatch(key):
            yield f"env[{key[:40]!r}]", "is not a variable name; letters, digits and '_', not a digit first"
        elif key.startswith("STYX_"):
            yield f"env[{key!r}]", "starts with STYX_, which Styx sets by itself; take another name"
        yield from _exec_string_faults(f"env[{key[:40]!r}]", f"{key}={value}")


def _free_text_faults(field: str, text: str, limit: int) -> Iterator[tuple[str, str]]:
    if len(text) > limit:
        yield field, f"is {len(text):,} characters long, at most {limit} are taken"
    if _UNSAFE.search(text):
        yield field, "has control or invisible characters; use printable text only"


def _label_faults(field: str, labels: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    pairs = list(labels)
    if len(pairs) > MAX_LABELS:
        yield field, f"has {len(pairs)} entries, at most {MAX_LABELS} are taken"
    for key, value in pairs[:MAX_LABELS]:
        where = f"{field}[{key[:40]!r}]"
        if len(key) > MAX_LABEL_KEY_CHARS or not _LABEL_KEY.fullmatch(key):
            yield where, f"is no good key: 1 to {MAX_LABEL_KEY_CHARS} letters, digits, '.', '_', '/', '-'"
        yield from _free_text_faults(where, value, MAX_LABEL_VALUE_CHARS)


def _shape_of(spec: TaskSpec) -> Shape:
    pool = spec.pool or DEFAULT_POOL
    if not spec.alternatives:
        return Shape(pool=pool, resources=spec.resources, machine=wish_of(spec.machine))
    shapes = [Shape(pool=pool, resources=each.resources, machine=wish_of(each.machine)) for each in spec.alternatives]
    return any_shape_of(shapes, ordered=spec.ordered)


def _need_faults(spec: TaskSpec) -> Iterator[tuple[str, str]]:
    own = list(_resource_faults("resources", spec.cpus, spec.resources, spec.machine))
    yield from own
    if spec.both_alternatives:
        yield "resources.ordered", "is set and so is any_of; set one of them"
        return
    name = "ordered" if spec.ordered else "any_of"
    if len(spec.alternatives) > MAX_ALTERNATIVES:
        yield f"resources.{name}", f"has {len(spec.alternatives)} entries, at most {MAX_ALTERNATIVES} are taken"
    # What is wrong beside the alternatives is wrong in each of them, and is said once.
    for index, each in enumerate(spec.alternatives[:MAX_ALTERNATIVES] if not own else ()):
        path = f"resources.{name}[{index}]"
        if each.nested:
            yield path, "has alternatives itself; list them all in one place"
        yield from _resource_faults(path, each.cpus, each.resources, each.machine)


def _resource_faults(
    path: str, cpus: float | None, resources: Resources, machine: AskedMachine
) -> Iterator[tuple[str, str]]:
    if cpus is not None and not (math.isfinite(cpus) and 0 <= cpus <= MAX_CPUS):
        yield f"{path}.cpus", f"is {cpus:g}, must be a number from 0 to {MAX_CPUS:,.0f}"
    sizes = {
        "memory_bytes": resources.memory_bytes,
        "disk_bytes": resources.disk_bytes,
        "gpus.memory_bytes": machine.gpu_memory_bytes,
    }
    for field, size in sizes.items():
        if size > MAX_BYTES:
            yield f"{path}.{field}", f"is {size:,}, more than any machine has; the unit is bytes"
    if (resources.gpu_name or machine.gpu_memory_bytes) and not resources.gpu_count:
        yield f"{path}.gpus.count", "is 0; say how many, at least 1"
    if resources.gpu_count > MAX_GPUS:
        yield f"{path}.gpus.count", f"is {resources.gpu_count:,}, at most {MAX_GPUS:,} are taken"
    yield from _free_text_faults(f"{path}.gpus.name", resources.gpu_name, MAX_NAME_CHARS)
    yield from _label_faults(f"{path}.labels", resources.labels)
    for key, _ in resources.labels[:MAX_LABELS]:
        if reserved.is_reserved(key):
            yield f"{path}.labels[{key[:40]!r}]", reserved.INSTEAD
    for field, text in machine_faults(machine, resources.memory_bytes):
        yield f"{path}.machine.{field}", text


def _time_faults(spec: TaskSpec, terms: LeaseTerms) -> Iterator[tuple[str, str]]:
    spans = (
        ("timeout", spec.timeout_seconds, MIN_TIMEOUT_SECONDS),
        ("stop_grace", spec.stop_grace_seconds, 0.0),
        ("disconnect_timeout", spec.disconnect_seconds, terms.least_disconnect_seconds),
        ("retry.backoff", spec.retry.backoff_seconds, 0.0),
        ("retry.max_backoff", spec.retry.max_backoff_seconds, 0.0),
    )
    for field, seconds, least in spans:
        if seconds is not None and not least <= seconds <= MAX_SECONDS:
            yield field, f"is {seconds:g} s, must be from {least:g} s to ten years"


def _policy_faults(spec: TaskSpec) -> Iterator[tuple[str, str]]:
    if abs(spec.priority) > MAX_PRIORITY:
        yield "priority", f"is {spec.priority}, must be from -{MAX_PRIORITY} to {MAX_PRIORITY}"
    if spec.retry.max_retries > MAX_RETRIES:
        yield "retry.max_retries", f"is {spec.retry.max_retries}, at most {MAX_RETRIES} are taken"
    if spec.at_most_once and spec.retry.max_retries:
        yield "retry.max_retries", "contradicts at_most_once; leave one of the two out"
    if len(spec.retry.on_exit_codes) > 256 or any(not 0 <= code <= 255 for code in spec.retry.on_exit_codes):
        yield "retry.on_exit_codes", "must be at most 256 numbers from 0 to 255"
    if spec.spool_bytes and not 1 << 16 <= spec.spool_bytes <= 1 << 40:
        yield "logs.spool_bytes", "must be from 64 KiB to 1 TiB, in bytes"


def _name_of(spec: TaskSpec) -> str:
    text = spec.command or " ".join(spec.argv)
    return _UNSAFE.sub(" ", " ".join(text[:400].split()))[:60].strip() or "task"

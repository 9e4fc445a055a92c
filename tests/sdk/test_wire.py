"""Models to messages and back."""

from __future__ import annotations

import dataclasses
import sys
import typing
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import UnionType
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from styx import models, wire
from styx.errors import InvalidRequest
from styx.v1 import tasks_pb2

_TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
_TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
_SPANS = st.timedeltas(timedelta(), timedelta(days=3000))
_NUMBERS = st.integers(0, 2**31 - 1)


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of the type of a field; mirrors what can be on the wire."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (UnionType, typing.Union):
        return st.one_of(*(_values(each) for each in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is not None and len(arguments) == 2:
        return st.dictionaries(_values(arguments[0]), _values(arguments[1]), max_size=3)
    if origin is not None:
        return st.lists(_values(arguments[0]), max_size=2).map(tuple)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return st.sampled_from(list(kind))
    if dataclasses.is_dataclass(kind):
        return a_model(kind)
    return {
        str: _TEXT,
        int: _NUMBERS,
        float: st.floats(0, 1e6),
        bool: st.booleans(),
        bytes: st.binary(max_size=8),
        datetime: _TIMES,
        timedelta: _SPANS,
        type(None): st.none(),
    }[kind]


def _later(kind: Any) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: _values(kind))


def a_model(model: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(model, vars(sys.modules[model.__module__]))
    fields = {name: _later(kind) for name, kind in hints.items()}
    if model is models.Resources:
        fields |= {"any_of": st.just(()), "ordered": st.just(())}
    return st.builds(model, **fields)


@pytest.mark.parametrize("model", list(wire.MODELS), ids=lambda model: model.__name__)
def test_models_have_the_fields_of_their_messages(model: type) -> None:
    fields = {field.name for field in dataclasses.fields(model)}
    assert fields == set(wire.MODELS[model].DESCRIPTOR.fields_by_name)


@settings(max_examples=60, deadline=None)
@given(a_model(models.TaskSpec))
def test_a_spec_survives_the_wire(spec: models.TaskSpec) -> None:
    message = tasks_pb2.TaskSpec.FromString(wire.to_message(spec).SerializeToString())
    assert wire.from_message(models.TaskSpec, message) == spec


@pytest.mark.parametrize("model", list(wire.MODELS), ids=lambda model: model.__name__)
def test_every_model_survives_the_wire(model: Any) -> None:
    @settings(max_examples=15, deadline=None)
    @given(a_model(model))
    def survives(value: Any) -> None:
        message = wire.MODELS[model].FromString(wire.to_message(value).SerializeToString())
        assert wire.from_message(model, message) == value

    survives()


def test_a_state_of_a_later_version_is_unknown_and_not_terminal() -> None:
    task = wire.from_message(models.Task, tasks_pb2.Task(id="t1", state=99))  # type: ignore[arg-type]
    assert task.state is models.TaskState.UNKNOWN
    assert not task.state.is_terminal


def test_every_state_of_the_contract_has_its_name() -> None:
    names = set(tasks_pb2.Task.State.keys()) - {"STATE_UNSPECIFIED"}
    assert names == {state.value for state in models.TaskState} - {"UNKNOWN"}


def test_zero_cpus_is_not_the_same_as_unset() -> None:
    assert wire.to_message(models.Resources(cpus=0)).HasField("cpus")
    assert not wire.to_message(models.Resources()).HasField("cpus")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (models.TaskSpec(priority=10**12), "priority"),
        (models.TaskSpec(command="\ud800"), "command"),
        (models.TaskSpec(env={"a": 1}), "env"),  # type: ignore[dict-item]
        (models.TaskSpec(argv=("a", "b\udcff")), "argv"),
        (models.TaskSpec(resources=models.Resources(memory_bytes=-1)), "memory_bytes"),
        (models.TaskSpec(timeout="soon"), "timeout"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_field(spec: models.TaskSpec, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        wire.to_message(spec)
    assert [violation.field for violation in refusal.value.violations] == [field]

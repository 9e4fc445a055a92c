"""What comes over the wire is what the server acts on, and what it shows is what is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from styx.agent.v1 import agent_service_pb2
from styx.v1 import tasks_pb2
from styx_server.core.errors import InvalidRequest
from styx_server.core.session import PreemptionNotice
from styx_server.core.states import AttemptState, TaskState
from styx_server.core.task import AgentId, TaskId, TaskView
from styx_server.transport import agent_codec, codec
from styx_server.transport.paging import make_token, page_size, read_token

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
PAIRS = st.dictionaries(WORDS, WORDS, max_size=4)
SECONDS = st.integers(0, 10**8)


@st.composite
def specs(draw: st.DrawFn) -> tasks_pb2.TaskSpec:
    """Any spec that the wire can carry, good or bad."""
    spec = tasks_pb2.TaskSpec(
        name=draw(WORDS),
        command=draw(WORDS),
        argv=draw(st.lists(WORDS, max_size=3)),
        env=draw(PAIRS),
        labels=draw(PAIRS),
        priority=draw(st.integers(-(2**31), 2**31 - 1)),
        at_most_once=draw(st.booleans()),
    )
    if draw(st.booleans()):
        spec.resources.cpus = draw(st.floats(allow_nan=True))
    spec.resources.memory_bytes = draw(st.integers(0, 2**64 - 1))
    if draw(st.booleans()):
        spec.timeout.FromSeconds(draw(SECONDS))
    if draw(st.booleans()):
        spec.disconnect_timeout.after.FromSeconds(draw(SECONDS))
    if draw(st.booleans()):
        spec.disconnect_timeout.never = True
    spec.retry.max_retries = draw(st.integers(0, 2**32 - 1))
    return spec


@given(specs())
def test_every_field_of_a_spec_arrives(spec: tasks_pb2.TaskSpec) -> None:
    read = codec.task_spec(spec, spec.ByteSize())
    assert (read.name, read.command, list(read.argv)) == (spec.name, spec.command, list(spec.argv))
    assert (dict(read.env), dict(read.labels)) == (dict(spec.env), dict(spec.labels))
    assert (read.priority, read.at_most_once) == (spec.priority, spec.at_most_once)
    assert read.resources.memory_bytes == spec.resources.memory_bytes
    assert (read.cpus is not None) is spec.resources.HasField("cpus")
    assert read.timeout_seconds == (spec.timeout.seconds if spec.HasField("timeout") else None)
    assert (read.disconnect_seconds is None) is spec.disconnect_timeout.never
    assert read.retry.max_retries == spec.retry.max_retries


@given(specs())
def test_any_spec_is_admitted_or_refused_with_its_fields(spec: tasks_pb2.TaskSpec) -> None:
    fields = []
    try:
        assert tasks_pb2.TaskSpec.FromString(codec.new_task(spec, "spec").body) == spec
    except InvalidRequest as error:
        fields = [item.field for item in error.violations]
    assert all(field.startswith("spec") for field in fields)


@pytest.mark.parametrize(("text", "number"), [("t42", 42), ("42", 42), (" t7 ", 7)])
def test_ids_are_read_with_and_without_their_letter(text: str, number: int) -> None:
    assert codec.task_id(text) == number


@pytest.mark.parametrize("text", ["", "t", "a3", "t-1", "t1.5", "t\u0661", "t" + "9" * 19, "x" * 1000])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        codec.task_id(text)


def test_a_task_is_shown_as_it_is_stored() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    view = TaskView(
        task_id=TaskId(42),
        namespace="default",
        name="n",
        labels={"a": "b"},
        state=TaskState.FAILED,
        reason="exit_code",
        message="m",
        exit_code=0,
        create_time=when,
        start_time=None,
        end_time=when,
        agent_id=AgentId(3),
        priority=-5,
        attempt=2,
        attempt_state=AttemptState.ENDED,
        body=tasks_pb2.TaskSpec(command="true").SerializeToString(),
    )
    shown = codec.task(view)
    assert (shown.id, shown.agent_id, shown.state) == ("t42", "a3", tasks_pb2.Task.FAILED)
    assert shown.HasField("exit_code")
    assert not shown.HasField("start_time")
    assert shown.create_time.ToDatetime(UTC) == when
    assert shown.spec.command == "true"


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_ages_become_times_that_are_never_ahead_of_us(started: int, ended: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    message = agent_codec.wire.AttemptReport(fence=1, task_id=2, state=tasks_pb2.Attempt.ENDED)
    message.started_ago.FromTimedelta(timedelta(seconds=started))
    message.ended_ago.FromTimedelta(timedelta(seconds=ended))
    message.outcome.kind = tasks_pb2.Outcome.EXITED
    report = agent_codec.report(message, now)
    assert report.start_time is not None
    assert report.end_time is not None
    assert report.start_time <= now
    assert report.end_time <= now


def test_an_outcome_of_a_newer_agent_still_ends_the_attempt() -> None:
    message = agent_codec.wire.AttemptReport(fence=1, task_id=2, state=tasks_pb2.Attempt.ENDED)
    message.outcome.kind = 99  # type: ignore[assignment]
    assert agent_codec.report(message, datetime(2026, 1, 1, tzinfo=UTC)).outcome is not None


@given(st.integers(0, 2**63 - 1), st.lists(WORDS, min_size=1, max_size=3))
def test_a_page_token_holds_its_place_and_only_for_its_list(position: int, scope: list[str]) -> None:
    token = make_token(position, *scope)
    assert read_token(token, *scope) == position
    with pytest.raises(InvalidRequest) as refused:
        read_token(token, *scope, "other")
    assert refused.value.reason == "PAGE_TOKEN_INVALID"


@given(st.text(max_size=50).filter(bool))
def test_any_other_text_is_no_page_token(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_token(text, "tasks")


def test_page_sizes_are_bounded() -> None:
    assert [page_size(wanted) for wanted in (0, 1, 1000, 10**6)] == [100, 1, 1000, 1000]
    with pytest.raises(InvalidRequest):
        page_size(-1)


def test_labels_that_only_the_server_sets_are_not_taken_from_an_agent() -> None:
    labels = {"styx/spot": "false", "styx/provider": "aws", "rack": "7"}
    message = agent_service_pb2.Hello(agent_id=1, labels=labels)
    assert agent_codec.hello(message, datetime.now(UTC)).labels == {"rack": "7"}


def test_a_notice_is_read_from_a_beat_within_bounds() -> None:
    notice = agent_service_pb2.PreemptionNotice(time_left=Duration(seconds=120), source="aws")
    assert agent_codec.notice(agent_service_pb2.Heartbeat()) is None
    assert agent_codec.notice(agent_service_pb2.Heartbeat(preemption_notice=notice)) == PreemptionNotice(
        left_seconds=120, source="aws"
    )
    wild = agent_service_pb2.PreemptionNotice(time_left=Duration(seconds=-5), source="\0" + "x" * 5000)
    found = agent_codec.notice(agent_service_pb2.Heartbeat(preemption_notice=wild))
    assert found is not None
    assert (found.left_seconds, len(found.source)) == (0, agent_codec.MAX_MESSAGE_CHARS)
    wild.time_left.seconds = 10**11
    found = agent_codec.notice(agent_service_pb2.Heartbeat(preemption_notice=wild))
    assert found is not None
    assert found.left_seconds == 86_400

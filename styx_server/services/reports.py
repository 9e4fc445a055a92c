"""Takes in what agents report: attempts that run, attempts that ended, and what follows for their tasks.

Reports of all agents are stored together. A report may come twice, late or from the wrong agent: it is held against the
fence, and what does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Unavailable
from styx_server.core.outcome import WELL_ENDED, AfterAttempt, after_attempt, ended_well
from styx_server.core.placement.backlog import Waiting
from styx_server.core.session import AttemptReport, LogEnd
from styx_server.core.states import AttemptState, Desired, OutcomeKind, TaskState
from styx_server.core.task import AgentId, Fence, Outcome, TaskFacts, TaskId
from styx_server.ids import jitter
from styx_server.services.group_commit import GroupCommit
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Executor, Row, Transaction
from styx_server.store.rows import facts, gaps_to_json, to_small

_TRIES = 8
_VOID_ENDS: Final = frozenset({OutcomeKind.LOST})
_VOID_STARTS: Final = frozenset(
    {
        OutcomeKind.LOST,
        OutcomeKind.REJECTED,
        OutcomeKind.RETURNED,
        OutcomeKind.PREEMPTED,
        OutcomeKind.HOST_REBOOTED,
        OutcomeKind.SUPERVISOR_LOST,
    }
)

_Key = tuple[AgentId, TaskId, Fence]
"""Who reports on what: one agent's word on an attempt is never taken for another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A report, and who made it.

    Attributes:
        epoch: of the session it came through; 0: the server itself found it out.
        attempt: number of the attempt within its task; 0: not known here.
        lease_seq: it holds only while the agent's lease is still this one; None: in any case.
        disowned: the agent's session ends with it, so that nothing on its way through that session counts any more.
    """

    agent_id: AgentId
    epoch: int
    report: AttemptReport
    attempt: int = 0
    lease_seq: int | None = None
    disowned: bool = False

    @property
    def key(self) -> _Key:
        """Who reports on what."""
        return (self.agent_id, self.report.task_id, self.report.fence)


class Answer(Enum):
    """What becomes of a report."""

    STORED = auto()
    REFUSED = auto()
    """The attempt is not (or no longer) this agent's: whoever says that it lives must stop it."""
    STALE = auto()
    """It came through a session that is over; nothing follows for the attempt, the agent says it again in the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOver:
    """An attempt that is now stored as over, for whoever holds something for it."""

    task_id: TaskId
    fence: Fence
    attempt: int
    agent_id: AgentId
    logs: tuple[LogEnd, ...]
    task_state: TaskState
    requeued: Waiting | None


@dataclass(frozen=True, slots=True)
class _Decision:
    """What follows for a task.

    Attributes:
        attempt: number of the attempt that ended.
        desired: what the user wanted when it was decided; it is stored only if that is still so.
        row: the task as it was read; None: it was not read, and has ended.
    """

    reported: Reported
    attempt: int
    desired: Desired
    after: AfterAttempt
    row: Row | None = None

    @property
    def fence(self) -> Fence:
        """Of the attempt."""
        return self.reported.report.fence


class Reports:
    """Stores reports, those of all agents in one commit.

    Args:
        on_over: told of attempts that ended, after the commit.
        on_change: told after each commit which tasks changed: first those whose attempts go on, then the others.
    """

    def __init__(
        self,
        database: Database,
        shapes: Shapes,
        clock: Clock,
        on_over: Callable[[list[AttemptOver]], None],
        on_change: Callable[[Iterable[TaskId], Iterable[TaskId]], None],
    ) -> None:
        self._database = database
        self._shapes = shapes
        self._clock = clock
        self._on_over = on_over
        self._on_change = on_change
        self.commits: GroupCommit[Reported, Answer] = GroupCommit(
            "reports",
            self._flush,
            clock=clock,
            # What rests on a lease as it was seen must not wait: the beats that prove it wrong wait too.
            patience=lambda item: 1.0 if item.lease_seq is None else 0.0,
        )

    async def add(self, reported: Reported) -> Answer:
        """Stores a report. Waits for as long as the database is away."""
        return await self.commits.add(reported)

    async def add_many(self, reported: Sequence[Reported]) -> list[Answer]:
        """As `add` for several reports, in order."""
        return await self.commits.add_many(reported)

    async def end_many(
        self,
        agent_id: AgentId,
        ends: Sequence[tuple[TaskId, Fence, Outcome]],
        *,
        lease_seq: int | None = None,
        disowned: bool = False,
    ) -> None:
        """Ends attempts on the server's own finding; those that are no longer live stay as they are.

        Args:
            agent_id: the agent that had them.
            ends: task, fence and outcome of each.
            lease_seq: nothing is ended unless the agent's lease is still this one.
            disowned: whether the agent's session ends with them.
        """
        now = self._clock.now()
        reports = [
            AttemptReport(fence=fence, task_id=task_id, state=AttemptState.ENDED, end_time=now, outcome=outcome)
            for task_id, fence, outcome in ends
        ]
        await self.add_many(
            [
                Reported(agent_id=agent_id, epoch=0, report=report, lease_seq=lease_seq, disowned=disowned)
                for report in reports
            ]
        )

    async def _flush(self, items: list[Reported]) -> list[Answer]:
        keyed = [(item.key, item) for item in items]
        latest: dict[_Key, Reported] = {}
        for key, item in keyed:
            if (known := latest.setdefault(key, item)) is not item and _weight(item) >= _weight(known):
                latest[key] = item
        starts = [item for item in latest.values() if item.report.state is not AttemptState.ENDED]
        ends = [item for item in latest.values() if item.report.state is AttemptState.ENDED]
        answers = await self._start(starts)
        answers |= dict.fromkeys(await self._end(ends), Answer.REFUSED)
        self._on_change((item.report.task_id for item in starts), (item.report.task_id for item in ends))
        return [answers.get(key, Answer.STORED) for key, _ in keyed]

    async def _start(self, starts: list[Reported]) -> dict[_Key, Answer]:
        """Stores starts; returns what became of those that were not stored, unless they came twice."""
        if not starts:
            return {}
        rows = await self._database.fetch(
            "start_attempts",
            ids=[item.report.task_id for item in starts],
            fences=[item.report.fence for item in starts],
            agent_ids=[item.agent_id for item in starts],
            epochs=[item.epoch for item in starts],
            attempt_states=[item.report.state for item in starts],
            start_times=[item.report.start_time for item in starts],
        )
        await failpoints.reach("server.start.committed")
        stored = {(row["agent_id"], row["id"], row["fence"]) for row in rows}
        strange = [item for item in starts if item.key not in stored]
        found = await self._found(strange)
        answers = dict.fromkeys((item.key for item in strange if not _is_own(item, found[item.key])), Answer.REFUSED)
        return answers | dict.fromkeys((item.key for item in strange if _is_stale(item, found[item.key])), Answer.STALE)

    async def _end(self, ends: list[Reported]) -> set[_Key]:
        """Ends what can be ended; returns what was refused."""
        refused: set[_Key] = set()
        open_ends = ends
        for tried in range(_TRIES):
            if not open_ends:
                return refused
            await failpoints.reach("server.end.received", Unavailable)
            # Most end well, as nobody wanted otherwise. Where that is wrong nothing is stored, and the facts are read.
            well = [] if tried else [item for item in open_ends if _ended_well(item)]
            decisions = [_Decision(item, item.attempt, Desired.RUN, WELL_ENDED) for item in well]
            unsure = open_ends if not well else [item for item in open_ends if not _ended_well(item)]
            strange = await self._decide(unsure, decisions)
            found = await self._found(strange)
            refused |= {item.key for item in strange if not _is_own(item, found[item.key])}
            # Stored before, and perhaps nobody heard of it: the answer may have been lost.
            self._on_over([_over_already(item, found[item.key]) for item in strange if found[item.key]["ended_number"]])
            over, void = await self._store(decisions)
            await failpoints.reach("server.end.committed")
            self._on_over(over)
            refused |= {item.reported.key for item in decisions if item.fence in void}
            settled = {(item.agent_id, item.task_id, item.fence) for item in over}
            # What was not stored changed between the look and the write: look again.
            left = [item for item in decisions if item.fence not in void and item.reported.key not in settled]
            open_ends = [item.reported for item in left]
        raise Unavailable("tasks changed faster than their ends could be stored; try again")

    async def _decide(self, ends: list[Reported], decisions: list[_Decision]) -> list[Reported]:
        """Decides what follows, from what is stored; returns reports that do not fit what is stored."""
        if not ends:
            return []
        rows = await self._database.fetch("read_facts", ids=[item.report.task_id for item in ends])
        by_id = {row["id"]: row for row in rows}
        strange: list[Reported] = []
        for item in ends:
            row = by_id.get(item.report.task_id)
            before = facts(row) if row is not None else None
            if before is None or not _fits(item, before):
                strange.append(item)
                continue
            assert item.report.outcome is not None
            after = after_attempt(before, item.report.outcome, self._clock.now(), jitter())
            decisions.append(_Decision(item, before.attempt, before.desired, after, row))
        return strange

    async def _store(self, decisions: Sequence[_Decision]) -> tuple[list[AttemptOver], set[Fence]]:
        """Writes ends; returns those that were stored, and those that are void because a beat came after all."""
        if not decisions:
            return [], set()
        if any(item.reported.lease_seq is not None or item.reported.disowned for item in decisions):
            async with self._database.transaction() as transaction:
                void = await _void(transaction, decisions)
                kept = await self._write(transaction, [item for item in decisions if item.fence not in void])
                disowned = {item.reported.agent_id for item in kept if item.reported.disowned}
                if disowned:
                    await transaction.execute("end_sessions", agent_ids=sorted(disowned))
        else:
            void, kept = set(), await self._write(self._database, decisions)
        return [await self._over(decision) for decision in kept], void

    async def _write(self, executor: Executor, decisions: Sequence[_Decision]) -> list[_Decision]:
        """Writes ends, in one statement; returns those of which nothing had changed since the look."""
        rows = await executor.fetch("end_attempts", **_end_columns(decisions, self._clock), **_log_columns(decisions))
        stored = {(row["agent_id"], row["id"], row["fence"]) for row in rows}
        return [decision for decision in decisions if decision.reported.key in stored]

    async def _over(self, decision: _Decision) -> AttemptOver:
        row, after, reported = decision.row, decision.after, decision.reported
        requeued = None
        if row is not None and after.next_cause is not None and not after.held:
            ready_at = after.not_before.timestamp() if after.not_before else 0.0
            shape = await self._shapes.get(row["shape_id"])
            requeued = Waiting(reported.report.task_id, row["namespace"], row["priority"], shape, ready_at)
        return AttemptOver(
            task_id=reported.report.task_id,
            fence=reported.report.fence,
            attempt=decision.attempt,
            agent_id=reported.agent_id,
            logs=reported.report.logs,
            task_state=after.state,
            requeued=requeued,
        )

    async def _found(self, reported: Sequence[Reported]) -> dict[_Key, Row]:
        """What is stored about attempts of which a report did not fit."""
        if not reported:
            return {}
        rows = await self._database.fetch(
            "read_held",
            task_ids=[item.report.task_id for item in reported],
            fences=[item.report.fence for item in reported],
        )
        by_fence = {(row["task_id"], row["fence"]): row for row in rows}
        return {item.key: by_fence[item.report.task_id, item.report.fence] for item in reported}


async def _void(transaction: Transaction, decisions: Sequence[_Decision]) -> set[Fence]:
    """Which ends rest on a lease that is not the one that was observed; the other leases stay locked."""
    guarded = [item.reported for item in decisions if item.reported.lease_seq is not None]
    if not guarded:
        return set()
    rows = await transaction.fetch("lock_leases", agent_ids=sorted({item.agent_id for item in guarded}))
    leases = {row["agent_id"]: row["lease_seq"] for row in rows}
    return {item.report.fence for item in guarded if leases.get(item.agent_id) != item.lease_seq}


def _ended_well(item: Reported) -> bool:
    return item.attempt > 0 and item.report.outcome is not None and ended_well(item.report.outcome)


def _fits(item: Reported, task: TaskFacts) -> bool:
    return task.fence == item.report.fence and task.attempt_state.live and task.agent_id == item.agent_id


def _weight(item: Reported) -> tuple[bool, bool, int, AttemptState]:
    """What counts of several reports on one attempt: its end, best one that rests on no lease; else the newest's."""
    return (item.report.state is AttemptState.ENDED, item.lease_seq is None, item.epoch, item.report.state)


def _is_own(item: Reported, row: Row) -> bool:
    latest = row["task_fence"] == item.report.fence and row["agent_id"] == item.agent_id
    # What the server may have ended by itself has a successor: who says that it lives must stop it.
    void = _VOID_ENDS if item.report.state is AttemptState.ENDED else _VOID_STARTS
    # An agent that says LOST itself may say it twice: the answer, or the commit's, got lost.
    said_before = item.report.outcome is not None and item.report.outcome.kind == row["ended_outcome"]
    over = row["ended_agent_id"] == item.agent_id and (said_before or row["ended_outcome"] not in void)
    return bool(over or (latest and row["attempt_state"] < AttemptState.ENDED))


def _over_already(item: Reported, row: Row) -> AttemptOver:
    return AttemptOver(
        task_id=item.report.task_id,
        fence=item.report.fence,
        attempt=row["ended_number"],
        agent_id=item.agent_id,
        logs=item.report.logs,
        task_state=TaskState.PENDING,
        requeued=None,
    )


def _is_stale(item: Reported, row: Row) -> bool:
    """Whether a start is news and true, and was not stored: only the epoch can be the reason."""
    latest = row["task_fence"] == item.report.fence and row["agent_id"] == item.agent_id
    return bool(latest and row["attempt_state"] < item.report.state)


def _end_columns(decisions: Sequence[_Decision], clock: Clock) -> dict[str, object]:
    reports = [decision.reported.report for decision in decisions]
    outcomes = [report.outcome or Outcome(kind=OutcomeKind.LOST) for report in reports]
    afters = [decision.after for decision in decisions]
    return {
        "ids": [report.task_id for report in reports],
        "fences": [report.fence for report in reports],
        "agent_ids": [decision.reported.agent_id for decision in decisions],
        "seen_desired": [decision.desired for decision in decisions],
        "states": [after.state for after in afters],
        "reasons": [str(after.reason) for after in afters],
        "messages": [after.message for after in afters],
        "start_times": [report.start_time for report in reports],
        "end_times": [report.end_time or clock.now() for report in reports],
        "not_before": [after.not_before for after in afters],
        "failures": [to_small(after.failures) for after in afters],
        "infra_failures": [to_small(after.infra_failures) for after in afters],
        "preemptions": [to_small(after.preemptions) for after in afters],
        "next_causes": [after.next_cause and str(after.next_cause) for after in afters],
        "exit_codes": [outcome.exit_code for outcome in outcomes],
        "outcomes": [outcome.kind for outcome in outcomes],
        "signals": [outcome.signal for outcome in outcomes],
        "outcome_messages": [outcome.message for outcome in outcomes],
        "cpu_ms": [round(outcome.cpu_seconds * 1000) for outcome in outcomes],
        "max_memory_bytes": [outcome.max_memory_bytes for outcome in outcomes],
    }


def _log_columns(decisions: Sequence[_Decision]) -> dict[str, object]:
    logs = [(decision, end) for decision in decisions for end in decision.reported.report.logs]
    return {
        "log_ids": [decision.reported.report.task_id for decision, _ in logs],
        "log_attempts": [decision.attempt for decision, _ in logs],
        "log_fences": [decision.fence for decision, _ in logs],
        "log_streams": [end.stream for _, end in logs],
        "totals": [end.total_bytes for _, end in logs],
        "digests": [end.sha256 for _, end in logs],
        "gaps": [gaps_to_json(end) for _, end in logs],
    }

"""The lease as a state machine: one task, attempt 1 on an agent, attempt 2 elsewhere as soon as attempt 1 is over.

`safe` is what must hold in every state that `steps` can reach: attempt 1 is stored as over only when its process cannot
execute any more. Time is discrete. Messages are lost, doubled, late without bound; streams break at any moment; servers
pause between any two writes. Each rule of the real code is a switch of `Rules`, so that a test can take it away.

What stands for what: the server's part is `services/sessions.py`, `services/reports.py` and `loops/reap.py`, the
agent's is `styx_agent/session.py` and `styx_agent/orders.py`, the supervisor's is `styx_agent/supervisor/rules.py`.
`search.py` walks the states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the code keeps to. Spans are in ticks; W and F are the start window and the disconnect timeout."""

    start_window: int = 1
    timeout: int = 3
    start_margin: int = 2
    timeout_margin: int = 2

    ack_after_commit: bool = True
    lease_from_send: bool = True
    epoch_on_beats: bool = True
    epoch_on_starts: bool = True
    restart_keeps_lease: bool = True
    supervisor_enforces: bool = True
    boottime: bool = True
    guardian: bool = True
    leftovers_killed_first: bool = True
    loss_compares_lease: bool = True
    loss_ends_session: bool = True
    reaper_starts_fresh: bool = True
    short_until_recorded: bool = True
    start_needs_window: bool = True
    start_needs_assigned: bool = True
    known_fence_ignored: bool = True
    old_streams_dropped: bool = True
    orders_bound_to_session: bool = True
    verdicts_before_lease: bool = True
    hello_lists_all: bool = True
    assigned_kept_at_hello: bool = True
    absence_needs_beat: bool = True
    nothing_ended_on_a_guess: bool = True


class _Value(IntEnum):
    __hash__ = int.__hash__  # that of enums is several times slower


class Process(_Value):
    """Attempt 1 on the agent's machine. LEFTOVER: it runs, and the supervisor says that it does not."""

    ABSENT = 0
    QUEUED = 1
    RUNNING = 2
    ENDED = 3
    LEFTOVER = 4


class Stored(_Value):
    """Attempt 1 in the database."""

    ASSIGNED = 0
    STARTED = 1
    OVER = 2


class Stage(_Value):
    """The agent's newest session. FORGET and KEEP: Welcome is on its way with that verdict."""

    HELLO = 0
    ENTERED = 1
    KEEP = 2
    FORGET = 3
    FORGETTING = 4
    OPEN = 5


class Way(_Value):
    """A message that wants an answer."""

    NONE = 0
    SENT = 1
    STORED = 2
    ACKED_EARLY = 3


class Late(NamedTuple):
    """A Hello of a stream that the agent has given up, still in the hands of some replica."""

    listed: bool
    entered: bool = False
    valid: bool = True


class State(NamedTuple):
    """Everything at one moment.

    `idle` is the agent's time since it sent the last beat that was acked, `age` since the one on its way; `silent` is
    the reaper's time since it saw the lease change, `changed` whether it changed since.
    """

    process: Process = Process.ABSENT
    recorded: bool = False
    idle: int = 0
    link_stopped: bool = False
    suspended: bool = False
    supervisor_dead: bool = False

    stage: Stage = Stage.OPEN
    listed: bool = False
    absent: bool = False
    epoch_current: bool = True
    beat: Way = Way.NONE
    age: int = 0
    report: Way = Way.NONE
    order: bool = False
    late_report: bool = False
    late_hello: Late | None = None

    stored: Stored = Stored.ASSIGNED
    changed: bool = False
    silent: int = 0
    doomed: bool = False

    may_lag: bool = True
    may_race: bool = True


Steps = Iterator[tuple[str, State]]
START = "attempt 1 starts"


def safe(s: State) -> bool:
    """Attempt 2 may run as soon as attempt 1 is over; then nothing of attempt 1 may execute."""
    return not (s.stored is Stored.OVER and s.process in (Process.RUNNING, Process.LEFTOVER) and not s.suspended)


def steps(s: State, r: Rules) -> Steps:
    """Everything that can happen next."""
    for part in (_time, _machine, _link, _supervisor, _hello, _beats, _reports, _orders, _reaper):
        for name, after in part(s, r):
            yield name, _tidy(after if name == START else _enforce(after, r), r)


def _enforce(s: State, r: Rules) -> State:
    """The supervisor's timer takes no time; only what has just been started escapes it for a moment."""
    limit = r.timeout if s.recorded or not r.short_until_recorded else r.start_window
    awake = not s.suspended and not s.supervisor_dead and (r.supervisor_enforces or not s.link_stopped)
    if s.process is Process.RUNNING and awake and s.idle >= limit:
        s = s._replace(process=Process.ENDED)
    return s


def _tidy(s: State, r: Rules) -> State:
    """Makes equal what no longer differs in what can follow; the search has that much less to visit."""
    if s.process is not Process.RUNNING:
        s = s._replace(recorded=False, report=Way.NONE)
    if s.stage is Stage.OPEN and s.beat is Way.NONE:
        s = s._replace(age=0)
    if s.stage > Stage.ENTERED:
        s = s._replace(listed=False)
        if r.epoch_on_starts:
            s = s._replace(late_report=False)
    if s.changed and r.loss_compares_lease:
        s = s._replace(silent=0)
    if s.age > s.idle:
        s = s._replace(age=s.idle)
    if s.stored is Stored.OVER:
        s = s._replace(
            silent=0, changed=False, doomed=False, absent=False, late_report=False, may_lag=False, may_race=False
        )
        if s.late_hello is not None and s.late_hello.entered:
            s = s._replace(late_hello=None)
    return s


def _time(s: State, r: Rules) -> Steps:
    if s.supervisor_dead and s.process is Process.RUNNING and r.guardian:
        return  # the guardian is quicker than any window
    longest = max(r.timeout + r.timeout_margin, r.start_window + r.start_margin)
    for lags in (False, True) if s.may_lag else (False,):
        for races in (False, True) if s.may_race else (False,):
            agent = 0 if lags or (s.suspended and not r.boottime) else 1
            yield (
                "tick" + " (agent slow)" * lags + " (reaper fast)" * races,
                s._replace(
                    idle=min(r.timeout, s.idle + agent),
                    age=min(r.timeout, s.age + agent),
                    silent=min(longest, s.silent + (2 if races else 1)),
                    may_lag=s.may_lag and not lags,
                    may_race=s.may_race and not races,
                ),
            )


def _machine(s: State, _: Rules) -> Steps:
    if s.suspended:
        yield "machine resumes", s._replace(suspended=False)
    elif s.process is Process.RUNNING:  # else nobody can tell it from a machine on which nothing happens
        yield "machine is suspended", s._replace(suspended=True)


def _link(s: State, r: Rules) -> Steps:
    if s.suspended:
        return
    if s.link_stopped:
        yield "link continues", s._replace(link_stopped=False)
    elif not r.supervisor_enforces:  # else nobody can tell it from a link whose messages are late
        yield "link is stopped", s._replace(link_stopped=True)
    if s.supervisor_dead:
        return
    if not s.link_stopped:
        yield "agent says Hello on a new stream", _say_hello(s, r)
    fresh = s._replace(link_stopped=False) if r.restart_keeps_lease else s._replace(link_stopped=False, idle=0)
    yield "link is killed, its successor says Hello", _say_hello(fresh, r)
    if s.process is Process.QUEUED:
        yield (
            "link is killed with the order, its successor says Hello",
            _say_hello(fresh._replace(process=Process.ABSENT), r),
        )


def _say_hello(s: State, r: Rules) -> State:
    late = s.late_hello
    if s.stage is Stage.HELLO:
        late = Late(s.listed and not r.absence_needs_beat)
    elif s.stage is Stage.ENTERED and not r.absence_needs_beat:
        late = Late(s.listed, entered=True, valid=s.epoch_current)
    return s._replace(
        stage=Stage.HELLO,
        listed=r.hello_lists_all and s.process is not Process.ABSENT,
        absent=False,
        epoch_current=False,
        beat=Way.NONE,
        age=0,
        report=Way.NONE,
        order=s.order and not (r.old_streams_dropped and r.orders_bound_to_session),
        late_report=s.late_report or s.report is Way.SENT,
        late_hello=late,
    )


def _supervisor(s: State, r: Rules) -> Steps:
    if s.suspended:
        return
    if s.supervisor_dead:
        yield from _supervisor_is_dead(s, r)
        return
    yield "supervisor is killed", s._replace(supervisor_dead=True)
    if s.process is Process.QUEUED:
        if s.idle < r.start_window or not r.start_needs_window:
            yield START, s._replace(process=Process.RUNNING)
        else:
            yield "attempt 1 is too late to start", s._replace(process=Process.ENDED)


def _supervisor_is_dead(s: State, r: Rules) -> Steps:
    running = s.process is Process.RUNNING
    if running and r.guardian:
        yield "guardian kills attempt 1", s._replace(process=Process.ENDED)
    after = s._replace(supervisor_dead=False)
    if not running:
        yield "supervisor starts again", after
    elif not r.leftovers_killed_first:
        yield "supervisor starts again, kills nothing", after._replace(process=Process.LEFTOVER)
    elif not r.guardian:
        yield "supervisor starts again, kills what is left", after._replace(process=Process.ENDED)
    if s.process is Process.QUEUED:
        yield "supervisor starts again, calls its order lost", after._replace(process=Process.ENDED)
    if s.process is Process.ENDED and s.stored is Stored.OVER:
        yield "agent starts again, fence forgotten", _say_hello(after._replace(process=Process.ABSENT), r)


# Sessions.


def _hello(s: State, r: Rules) -> Steps:
    match s.stage:
        case Stage.HELLO:
            entered = _new_epoch(s._replace(stage=Stage.ENTERED), r)
            yield "server gives the session an epoch", entered._replace(epoch_current=True)
        case Stage.ENTERED:
            yield "server compares the list", _compare(s, r)
        case Stage.KEEP | Stage.FORGET if not s.link_stopped and not s.suspended:
            yield "Welcome arrives", _welcome(s, r)
        case Stage.FORGETTING if not s.link_stopped and not s.suspended:
            yield "attempt 1 is forgotten", _forget(s)._replace(stage=Stage.OPEN)
    late = s.late_hello
    if late is None:
        return
    if not late.entered:
        kept = None if r.absence_needs_beat else late._replace(entered=True)
        yield "server gives an older Hello an epoch", _new_epoch(s, r)._replace(late_hello=kept)
    else:
        over = s._replace(stored=Stored.OVER) if late.valid and _is_absent(late.listed, s, r) else s
        yield "server compares the older Hello's list", over._replace(late_hello=None)


def _new_epoch(s: State, r: Rules) -> State:
    late = s.late_hello
    if late is not None and late.entered:
        late = late._replace(valid=False)
    return _lease_changed(s._replace(epoch_current=False, late_hello=late), r)


def _lease_changed(s: State, r: Rules) -> State:
    return s._replace(changed=True, doomed=s.doomed and not r.loss_compares_lease)


def _is_absent(listed: bool, s: State, r: Rules) -> bool:
    """Whether the list says that attempt 1, stored as live, is not there."""
    lost_on_the_way = s.stored is Stored.ASSIGNED and not r.assigned_kept_at_hello
    return not listed and (s.stored is Stored.STARTED or lost_on_the_way)


def _compare(s: State, r: Rules) -> State:
    absent = _is_absent(s.listed, s, r)
    if absent and not r.absence_needs_beat and s.epoch_current:
        s = s._replace(stored=Stored.OVER)
    stage = Stage.FORGET if s.stored is Stored.OVER and s.listed else Stage.KEEP
    return s._replace(stage=stage, absent=absent and r.absence_needs_beat)


def _welcome(s: State, r: Rules) -> State:
    after = s._replace(idle=min(s.idle, s.age if r.lease_from_send else 0))
    if s.stage is Stage.KEEP:
        return after._replace(stage=Stage.OPEN, recorded=s.recorded or s.stored is Stored.STARTED)
    if r.verdicts_before_lease:
        return _forget(after)._replace(stage=Stage.OPEN)
    return after._replace(stage=Stage.FORGETTING)


def _forget(s: State) -> State:
    return s._replace(process=Process.ENDED) if s.process in (Process.QUEUED, Process.RUNNING) else s


def _beats(s: State, r: Rules) -> Steps:
    if s.stage is not Stage.OPEN:
        return
    hears = not s.link_stopped and not s.suspended
    if s.beat is Way.NONE and hears:
        yield "agent sends a beat", s._replace(beat=Way.SENT, age=0)
    if s.beat in (Way.SENT, Way.ACKED_EARLY):
        yield from _store_beat(s, r)
    extended = s._replace(idle=min(s.idle, s.age if r.lease_from_send else 0))
    if s.beat is Way.STORED and hears:
        yield "ack of the beat arrives", extended._replace(beat=Way.NONE)
    if s.beat is Way.SENT and hears and not r.ack_after_commit:
        yield "ack of the beat arrives before it is stored", extended._replace(beat=Way.ACKED_EARLY)


def _store_beat(s: State, r: Rules) -> Steps:
    if not s.epoch_current and r.epoch_on_beats:
        yield "beat is refused", s._replace(beat=Way.NONE)
        return
    answer = Way.STORED if s.beat is Way.SENT else Way.NONE
    after = _lease_changed(s._replace(beat=answer, absent=False), r)
    yield "beat is stored", after._replace(stored=Stored.OVER) if s.absent else after


def _reports(s: State, r: Rules) -> Steps:
    if s.process in (Process.ENDED, Process.LEFTOVER) and s.stored is not Stored.OVER:
        yield "end of attempt 1 is stored", s._replace(stored=Stored.OVER)
    talks = s.stage is Stage.OPEN and not s.link_stopped and not s.suspended
    if s.process is Process.RUNNING and not s.recorded and s.report is Way.NONE and talks:
        yield "agent reports the start", s._replace(report=Way.SENT)
    if s.report is Way.SENT:
        started = _start(s, r, current=s.epoch_current)
        if started is None:
            yield "start is refused", s._replace(report=Way.NONE)
        else:
            yield "start is stored", started._replace(report=Way.STORED)
    if s.report is Way.STORED and talks:
        yield "ack of the start arrives", s._replace(report=Way.NONE, recorded=True)
    if s.late_report:
        current = s.stage is Stage.HELLO  # nobody has taken its epoch yet
        yield "late report of the start", (_start(s, r, current=current) or s)._replace(late_report=False)


def _start(s: State, r: Rules, *, current: bool) -> State | None:
    """Stores a start; None: refused."""
    if s.stored is Stored.STARTED:
        return s
    if s.stored is Stored.OVER:
        return None if r.start_needs_assigned else s
    return s._replace(stored=Stored.STARTED) if current or not r.epoch_on_starts else None


def _orders(s: State, r: Rules) -> Steps:
    welcomed = s.stage in (Stage.KEEP, Stage.FORGET, Stage.FORGETTING, Stage.OPEN)
    if s.stored is Stored.ASSIGNED and welcomed and not s.order:
        yield "server sends attempt 1", s._replace(order=True)
    if s.stored is Stored.ASSIGNED and s.stage is Stage.OPEN and not r.nothing_ended_on_a_guess:
        yield "server gives attempt 1 up as never sent", s._replace(stored=Stored.OVER)
    arrives = s.order and (s.stage is Stage.OPEN or not r.old_streams_dropped)
    if not arrives or s.link_stopped or s.suspended:
        return
    if s.process is Process.ABSENT or (s.process is Process.ENDED and not r.known_fence_ignored):
        in_time = s.idle < r.start_window or not r.start_needs_window
        yield "order of attempt 1 arrives", s._replace(process=Process.QUEUED if in_time else Process.ENDED)


def _reaper(s: State, r: Rules) -> Steps:
    if s.stored is Stored.OVER:
        return
    if s.changed:
        yield "reaper looks", s._replace(changed=False, silent=0)
    window, margin = (r.start_window, r.start_margin) if s.stored is Stored.ASSIGNED else (r.timeout, r.timeout_margin)
    fresh = 0 if r.reaper_starts_fresh else window + margin
    yield "another reaper takes over", s._replace(changed=False, silent=fresh)
    if not s.doomed and s.silent >= window + margin and not (s.changed and r.loss_compares_lease):
        yield "reaper finds attempt 1 lost", s._replace(doomed=True)
    if s.doomed:
        ended = s._replace(stored=Stored.OVER)
        yield "reaper ends attempt 1", _new_epoch_only(ended) if r.loss_ends_session else ended


def _new_epoch_only(s: State) -> State:
    late = s.late_hello
    return s._replace(epoch_current=False, late_hello=late and late._replace(valid=False))

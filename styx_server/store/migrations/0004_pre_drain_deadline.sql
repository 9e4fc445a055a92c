-- A drain may have a deadline, and attempts that are to run elsewhere are marked.
--
-- The deadline is a wish of a person, not a lease, so the database's wall clock is good enough for it. The mark is in the
-- row of the live attempt, so it ends with the attempt, and every repetition of the order is read from it. Neither column
-- is indexed on a table of tasks; agents are few and change seldom.

alter table agents add column drain_deadline timestamptz;
alter table agents add constraint agents_deadline_is_of_a_drain check (draining or drain_deadline is null);
create index agents_drain_deadline on agents (drain_deadline) where drain_deadline is not null;

-- 2: PREEMPT, as StopCause says. A cancel is in the task's own row (`desired`).
alter table live_attempts add column stop_cause smallint;
alter table live_attempts add constraint live_attempts_stop_cause_known check (stop_cause = 2);

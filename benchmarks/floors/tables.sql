-- Rows of the shape that Styx keeps for a task, with the indexes that its queue needs; no constraint, no trigger.
--
-- It is a measure, so it does not follow the schema: what a migration adds is Styx's own cost.

create table tasks (
    id bigint primary key,
    fence bigint not null default 0,
    spec_id bigint not null,
    job_id bigint,
    create_time timestamptz not null default now(),
    assign_time timestamptz,
    start_time timestamptz,
    end_time timestamptz,
    not_before timestamptz,
    agent_id bigint,
    shape_id integer not null,
    attempt integer not null default 0,
    exit_code integer,
    disconnect_ms bigint,
    stop_grace_ms bigint,
    priority smallint not null default 0,
    state smallint not null default 1,
    desired smallint not null default 1,
    attempt_state smallint not null default 0,
    failures smallint not null default 0,
    infra_failures smallint not null default 0,
    preemptions smallint not null default 0,
    at_most_once boolean not null default false,
    namespace text not null,
    attempt_cause text not null default 'first',
    next_cause text not null default 'first',
    reason text not null default '',
    message text not null default '',
    gpu_indexes smallint[]
) with (fillfactor = 70);
create index tasks_queue on tasks (namespace, priority desc, id);
create sequence task_ids as bigint;

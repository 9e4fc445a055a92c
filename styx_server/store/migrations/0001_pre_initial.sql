-- The schema as it starts.
--
-- Rules behind its shape: hot rows are narrow and stay HOT-updatable, so no index mentions a column that a transition
-- changes; big immutable parts live apart; append-only tables are partitioned by day and dropped, not deleted; what must
-- never be is refused by a constraint or a trigger.

create table deployment (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid(),
    create_time timestamptz not null default now()
);
insert into deployment default values;

create table namespaces (
    name text primary key,
    weight real not null default 1 check (weight > 0),
    create_time timestamptz not null default now()
);
insert into namespaces (name) values ('default');

-- Bearer tokens and join tokens; only digests of their secrets.
create table tokens (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('admin', 'join')),
    digest bytea not null unique check (length(digest) = 32),
    create_time timestamptz not null default now(),
    expire_time timestamptz,
    revoke_time timestamptz,
    max_uses integer check (max_uses > 0),
    uses integer not null default 0,
    pool text,
    labels jsonb not null default '{}',
    check (max_uses is null or uses <= max_uses),
    check (kind <> 'join' or (expire_time is not null and max_uses is not null and pool is not null))
);

create table agents (
    id bigint generated always as identity primary key,
    name text not null,
    key_digest bytea not null unique check (length(key_digest) = 32),
    join_token_id bigint references tokens (id),
    pool text not null,
    token_labels jsonb not null default '{}',
    labels jsonb not null default '{}',
    capacity jsonb not null default '{}',
    facts jsonb not null default '{}',
    isolation text not null default '',
    version text not null default '',
    draining boolean not null default false,
    create_time timestamptz not null default now(),
    revoke_time timestamptz
);

-- The lease of each agent. Renewed by every beat, so it is narrow and nothing of it is indexed.
create table agent_leases (
    agent_id bigint primary key references agents (id),
    epoch bigint not null default 0,
    lease_seq bigint not null default 0,
    replica_id uuid,
    boot_id text not null default '',
    supervisor_id text not null default '',
    connected boolean not null default false,
    said_goodbye boolean not null default true,
    beat_time timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- Who leads a loop. The term fences a leader that does not know that it was replaced.
create table leaders (
    name text primary key,
    replica_id uuid not null,
    term bigint not null default 1,
    seq bigint not null default 0
) with (fillfactor = 50);

-- Everything that scheduling looks at, interned: a million tasks have a handful of shapes. `reason` and `message` say
-- why tasks of the shape wait, so that a verdict about a million tasks is one row.
create table shapes (
    id integer generated always as identity primary key,
    digest bytea not null unique,
    body jsonb not null,
    reason text not null default '',
    message text not null default ''
) with (fillfactor = 70);

-- The immutable part of a task. Tasks of one batch with the same spec share a row. `body` is the spec just as the
-- agent will get it; the server never reads it.
create table task_specs (
    id bigint generated always as identity primary key,
    name text not null,
    labels jsonb not null default '{}',
    retry jsonb,
    body bytea not null
);
alter table task_specs alter column body set storage external;

create sequence task_ids as bigint;
create sequence fences as bigint;

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
    gpu_indexes smallint[],
    constraint tasks_state_known check (state between 1 and 8),
    constraint tasks_attempt_state_known check (attempt_state between 0 and 5),
    constraint tasks_desired_known check (desired in (1, 2)),
    constraint tasks_ended_has_no_live_attempt check (state < 4 or attempt_state in (0, 5)),
    constraint tasks_ended_has_end_time check ((state >= 4) = (end_time is not null)),
    constraint tasks_running_has_attempt check (state not in (2, 3) or attempt_state between 1 and 4),
    constraint tasks_live_has_agent check (attempt_state not between 1 and 4 or (agent_id is not null and fence > 0)),
    constraint tasks_cancelling_wants_stop check (state not in (3, 6) or desired = 2)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
create index tasks_queue on tasks (namespace, priority desc, id);

-- The table of core/states.py as the database knows it; a test holds the two against each other.
create function refuse_transition() returns trigger language plpgsql as $$
begin
    raise exception 'task % may not go from state % attempt % (fence %) to state % attempt % (fence %)',
        old.id, old.state, old.attempt_state, old.fence, new.state, new.attempt_state, new.fence
        using errcode = 'check_violation', constraint = 'tasks_transition_legal';
end $$;

create trigger tasks_transition_legal before update on tasks for each row
when (
    (old.state <> new.state and (old.state::int, new.state::int) not in (
        (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8),
        (2, 1), (2, 3), (2, 4), (2, 5), (2, 7), (2, 8),
        (3, 6), (5, 1), (6, 1), (7, 1), (8, 1)))
    or (old.attempt_state <> new.attempt_state and (old.attempt_state::int, new.attempt_state::int) not in (
        (0, 1), (5, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)))
    -- A new fence only with a new attempt, and a new attempt only when the old one is over.
    or (old.fence <> new.fence and not (
        old.attempt_state in (0, 5) and new.attempt_state = 1
        and new.attempt = old.attempt + 1 and new.fence > old.fence))
    or (old.fence = new.fence and (old.attempt <> new.attempt or (old.attempt_state in (0, 5) and new.attempt_state = 1)))
)
execute function refuse_transition();

-- One row for each live attempt: the wall against a second one, and the way from an agent to what it holds.
create table live_attempts (
    task_id bigint primary key,
    agent_id bigint not null,
    fence bigint not null unique
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000);
create index live_attempts_agent on live_attempts (agent_id);

-- Attempts that are over; the live one is in its task's row. Written once.
create table attempts (
    task_id bigint not null,
    number integer not null,
    fence bigint not null,
    agent_id bigint not null,
    cause text not null,
    assign_time timestamptz not null,
    start_time timestamptz,
    end_time timestamptz not null,
    outcome smallint not null check (outcome between 1 and 11),
    exit_code integer,
    signal smallint not null default 0,
    message text not null default '',
    cpu_ms bigint not null default 0,
    max_memory_bytes bigint not null default 0,
    primary key (task_id, number)
);

-- What happened, in order of commit: the timeline of a task and the feed behind watches. A reader that stays below the
-- oldest running transaction (`pg_snapshot_xmin`) can never skip a row that commits late.
create table task_events (
    txid xid8 not null default pg_current_xact_id(),
    seq bigint generated always as identity,
    time timestamptz not null default now(),
    task_id bigint not null,
    agent_id bigint,
    attempt integer not null default 0,
    state smallint not null,
    namespace text not null,
    kind text not null,
    message text not null default ''
) partition by range (time);
create index task_events_feed on task_events (txid, seq);
create index task_events_task on task_events (task_id);
create table task_events_default partition of task_events default;

-- How far the output of each attempt is stored. `stored_bytes` is moved only by an append that starts there.
create table log_streams (
    task_id bigint not null,
    attempt integer not null,
    stream smallint not null check (stream in (1, 2)),
    fence bigint not null,
    stored_bytes bigint not null default 0,
    total_bytes bigint,
    sha256 bytea,
    sealed boolean not null default false,
    corrupt boolean not null default false,
    gaps jsonb,
    create_time timestamptz not null default now(),
    primary key (task_id, attempt, stream),
    check (total_bytes is null or stored_bytes <= total_bytes)
) with (fillfactor = 70);

create table log_chunks (
    task_id bigint not null,
    start_offset bigint not null,
    time timestamptz not null default now(),
    attempt integer not null,
    length integer not null check (length > 0),
    stream smallint not null,
    codec smallint not null,
    times bytea not null default '',
    data bytea not null
) partition by range (time);
-- Compressed by the agent already; a second pass by the database would make storing five times slower.
alter table log_chunks alter column data set storage external;
create index log_chunks_position on log_chunks (task_id, attempt, stream, start_offset);
create table log_chunks_default partition of log_chunks default;

-- What a request id was used for. Written in the transaction of the change itself.
create table requests (
    token_id bigint not null,
    method text not null,
    request_id text not null,
    digest bytea not null,
    task_ids bigint[],
    create_time timestamptz not null default now(),
    primary key (token_id, method, request_id)
);

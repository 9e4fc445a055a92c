-- name: claim_requests
-- Records request ids; those that are not returned were used before.
insert into requests (token_id, method, request_id, digest, task_ids)
select token_id, method, request_id, digest, string_to_array(task_ids, ',')::bigint[]
from unnest(:token_ids::bigint[], :methods::text[], :request_ids::text[], :digests::bytea[], :task_ids::text[])
    as input (token_id, method, request_id, digest, task_ids)
order by token_id, method, request_id
on conflict do nothing
returning token_id, method, request_id;

-- name: find_requests
-- What request ids were used for.
select requests.token_id, requests.method, requests.request_id, requests.digest, requests.task_ids
from unnest(:token_ids::bigint[], :methods::text[], :request_ids::text[]) as input (token_id, method, request_id)
join requests using (token_id, method, request_id);

-- name: submit_tasks
-- Stores tasks of many calls with their specs and request ids; a call whose request id was used before stores nothing.
-- Numbers of calls count from 1; tasks of call 0 are stored in any case. Specs and tasks are told by their places, from 1.
-- What is asked with `is true` is looked up in a hash table; without it, it would be a join that compares all with all.
with numbered as materialized (
    select nextval('task_ids') as id, input.*
    from unnest(:specs::int[], :task_calls::int[], :shape_ids::int[], :namespaces::text[], :priorities::smallint[],
                :at_most_once::boolean[], :disconnect_ms::bigint[], :not_before::timestamptz[])
        as input (spec, call, shape_id, namespace, priority, at_most_once, disconnect_ms, not_before)
), ids as materialized (
    -- Later tasks have larger ids.
    select array_agg(id order by id) as ids from numbered
), asked as materialized (
    select input.*
    from unnest(:calls::int[], :token_ids::bigint[], :methods::text[], :request_ids::text[], :digests::bytea[],
                :firsts::int[], :lasts::int[])
        as input (call, token_id, method, request_id, digest, first, last)
), claimed as (
    insert into requests (token_id, method, request_id, digest, task_ids)
    select token_id, method, request_id, digest, (select ids from ids)[first:last]
    from asked
    order by token_id, method, request_id
    on conflict do nothing
    returning token_id, method, request_id
), won as materialized (
    select 0 as call
    union all
    select call from asked
    where ((token_id, method, request_id) in (select token_id, method, request_id from claimed)) is true
), specs as materialized (
    select nextval('task_specs_id_seq') as id, input.*
    from unnest(:names::text[], :labels::text[], :retries::text[], :bodies::bytea[], :spec_calls::int[])
        as input (name, labels, retry, body, call)
), spec_ids as materialized (
    select array_agg(id order by id) as ids from specs
), stored_specs as (
    insert into task_specs (id, name, labels, retry, body) overriding system value
    select id, name, labels::jsonb, retry::jsonb, body from specs
    where (call in (select call from won)) is true
), stored as (
    insert into tasks (id, spec_id, shape_id, namespace, priority, at_most_once, disconnect_ms, not_before, reason,
        message)
    select id, (select ids from spec_ids)[spec], shape_id, namespace, priority, at_most_once, disconnect_ms, not_before,
        case when not_before > now() then 'not_before' else '' end,
        case when not_before > now() then 'starts no earlier than it was told to' else '' end
    from numbered
    where (call in (select call from won)) is true
    returning id, namespace
), noted as (
    insert into task_events (task_id, state, namespace, kind)
    select id, 1, namespace, 'submitted' from stored
)
select (select ids from ids) as ids, (select array_agg(call) from won) as won;

-- name: intern_shape
-- The id of a shape, stored when it is new.
with inserted as (
    insert into shapes (digest, body) values (:digest, :body::jsonb) on conflict (digest) do nothing returning id
)
select id from inserted union all select id from shapes where digest = :digest limit 1;

-- name: get_shapes
-- Every shape.
select id, body, reason, message from shapes;

-- name: explain_shapes
-- Records why tasks of these shapes wait.
update shapes set reason = input.reason, message = input.message
from unnest(:ids::int[], :reasons::text[], :messages::text[]) as input (id, reason, message)
where shapes.id = input.id and (shapes.reason, shapes.message) is distinct from (input.reason, input.message);

-- name: ensure_namespace
-- Makes a namespace known when it is first used.
insert into namespaces (name) values (:name) on conflict do nothing;

-- name: list_namespaces
-- Every namespace.
select name from namespaces order by name;

-- name: read_queue
-- The next part of the queue of a namespace, behind a place in its order. Two walks along the index: with an `or` in
-- their place all that waits is read and sorted, for each part of it.
(
    select id, priority, shape_id, not_before, namespace
    from tasks
    where namespace = :namespace and priority = :priority and id > :id
        and state = 1 and desired = 1 and attempt_state in (0, 5) and reason <> 'held'
    order by priority desc, id
    limit :count
)
union all
(
    select id, priority, shape_id, not_before, namespace
    from tasks
    where namespace = :namespace and priority < :priority
        and state = 1 and desired = 1 and attempt_state in (0, 5) and reason <> 'held'
    order by priority desc, id
    limit :count
)
order by priority desc, id
limit :count;

-- name: assign_tasks
-- Gives waiting tasks to agents, if they still wait, the agent's session is the one meant, and the leader still leads.
-- The leader's row is locked meanwhile: once another leads, nothing of the old plan can be stored any more.
with its_lead as (
    select from leaders where name = 'scheduler' and term = :term for share
), assigned as (
    update tasks set
        attempt = tasks.attempt + 1, fence = input.fence, agent_id = input.agent_id, attempt_state = 1,
        assign_time = coalesce(:now::timestamptz, now()), start_time = null, exit_code = null, not_before = null,
        reason = 'starting', message = '', attempt_cause = tasks.next_cause, gpu_indexes = string_to_array(input.gpus, ',')::smallint[]
    from unnest(:ids::bigint[], :fences::bigint[], :agent_ids::bigint[], :epochs::bigint[], :gpus::text[],
                :alternatives::smallint[])
        as input (id, fence, agent_id, epoch, gpus, alternative)
    join agent_leases on agent_leases.agent_id = input.agent_id and agent_leases.epoch = input.epoch and connected
    where tasks.id = input.id and tasks.state = 1 and tasks.desired = 1 and tasks.attempt_state in (0, 5)
        and exists (select from its_lead)
    returning tasks.id, tasks.attempt, tasks.fence, tasks.agent_id, tasks.spec_id, tasks.namespace, tasks.shape_id,
        input.alternative
), live as (
    insert into live_attempts (task_id, agent_id, fence, alternative)
    select id, agent_id, fence, alternative from assigned
), noted as (
    insert into task_events (task_id, agent_id, attempt, fence, state, namespace, kind)
    select id, agent_id, attempt, fence, 1, namespace, 'assigned' from assigned
)
select assigned.*, task_specs.body from assigned join task_specs on task_specs.id = assigned.spec_id;

-- name: read_assignments
-- What agents need to start attempts that are assigned and not to be stopped.
select tasks.id, tasks.fence, tasks.attempt, tasks.namespace, tasks.gpu_indexes, task_specs.body,
    live_attempts.alternative
from tasks join task_specs on task_specs.id = tasks.spec_id join live_attempts on live_attempts.task_id = tasks.id
where tasks.id = any(:ids::bigint[]) and tasks.attempt_state = 1 and tasks.desired = 1;

-- name: reserve_fences
-- Takes fences, each larger than all before.
select nextval('fences') as fence from generate_series(1, :count::int);

-- name: read_facts
-- What decisions about tasks are made from.
select tasks.id, tasks.state, desired, attempt, fence, attempt_state, agent_id, at_most_once, failures,
    infra_failures, preemptions, start_time, namespace, priority, shape_id, task_specs.retry
from tasks join task_specs on task_specs.id = tasks.spec_id
where tasks.id = any(:ids::bigint[]);

-- name: start_attempts
-- Records that attempts run, or prepare to, or are being stopped.
with changed as (
    update tasks set
        attempt_state = input.attempt_state,
        state = case when tasks.state = 1 then 2 else tasks.state end,
        reason = case when tasks.state = 1 then '' else tasks.reason end,
        start_time = coalesce(tasks.start_time, input.start_time)
    from unnest(:ids::bigint[], :fences::bigint[], :agent_ids::bigint[], :epochs::bigint[], :attempt_states::smallint[],
                :start_times::timestamptz[])
        as input (id, fence, agent_id, epoch, attempt_state, start_time)
    join agent_leases on agent_leases.agent_id = input.agent_id and agent_leases.epoch = input.epoch
    where tasks.id = input.id and tasks.fence = input.fence and tasks.agent_id = input.agent_id
        and tasks.attempt_state between 1 and 4 and tasks.attempt_state < input.attempt_state
    returning tasks.id, tasks.fence, tasks.agent_id, tasks.attempt, tasks.state, tasks.namespace, tasks.attempt_state
), noted as (
    insert into task_events (task_id, agent_id, attempt, state, namespace, kind)
    select id, agent_id, attempt, state, namespace,
        case attempt_state when 2 then 'preparing' when 3 then 'started' else 'stopping' end
    from changed
)
select id, fence, agent_id from changed;

-- name: end_attempts
-- Ends attempts and moves their tasks on, if nothing about them changed since it was decided; and records how much each
-- of them wrote to its streams, and the digests of it.
with changed as (
    update tasks set
        attempt_state = 5, state = input.state, reason = input.reason, message = input.message,
        exit_code = input.exit_code, start_time = coalesce(tasks.start_time, input.start_time),
        end_time = case when input.state >= 4 then input.end_time end,
        not_before = input.not_before, failures = coalesce(input.failures, tasks.failures),
        infra_failures = coalesce(input.infra_failures, tasks.infra_failures),
        preemptions = coalesce(input.preemptions, tasks.preemptions),
        next_cause = coalesce(input.next_cause, tasks.next_cause)
    from unnest(:ids::bigint[], :fences::bigint[], :agent_ids::bigint[], :seen_desired::smallint[],
                :states::smallint[], :reasons::text[], :messages::text[], :exit_codes::int[], :start_times::timestamptz[], :end_times::timestamptz[],
                :not_before::timestamptz[], :failures::smallint[], :infra_failures::smallint[],
                :preemptions::smallint[], :next_causes::text[], :outcomes::smallint[], :signals::smallint[],
                :outcome_messages::text[], :cpu_ms::bigint[], :max_memory_bytes::bigint[])
        as input (id, fence, agent_id, desired, state, reason, message, exit_code, start_time, end_time, not_before,
                  failures, infra_failures, preemptions, next_cause, outcome, signal, outcome_message, cpu_ms, max_memory_bytes)
    where tasks.id = input.id and tasks.fence = input.fence and tasks.agent_id = input.agent_id
        and tasks.attempt_state between 1 and 4 and tasks.desired = input.desired
    returning tasks.id, tasks.fence, tasks.agent_id, tasks.attempt, tasks.state, tasks.namespace, tasks.assign_time,
        tasks.start_time, input.end_time, tasks.message, tasks.attempt_cause, input.exit_code, input.outcome,
        input.signal, input.outcome_message, input.cpu_ms, input.max_memory_bytes
), ended as (
    insert into attempts (task_id, number, fence, agent_id, cause, assign_time, start_time, end_time, outcome, exit_code,
        signal, message, cpu_ms, max_memory_bytes)
    select id, attempt, fence, agent_id, attempt_cause, assign_time, start_time, end_time, outcome, exit_code, signal,
        outcome_message, cpu_ms, max_memory_bytes
    from changed
), dead as (
    delete from live_attempts using changed where live_attempts.task_id = changed.id
), noted as (
    insert into task_events (task_id, agent_id, attempt, fence, state, namespace, kind, message)
    select id, agent_id, attempt, fence, state, namespace, 'ended', message from changed
), finished as (
    insert into log_streams (task_id, attempt, stream, fence, total_bytes, sha256, gaps)
    select task_id, attempt, stream, fence, total_bytes, sha256, gaps::jsonb
    from unnest(:log_ids::bigint[], :log_attempts::int[], :log_streams::smallint[], :log_fences::bigint[],
                :totals::bigint[], :digests::bytea[], :gaps::text[])
        as input (task_id, attempt, stream, fence, total_bytes, sha256, gaps)
    -- A hash table, not a join that compares all with all.
    where (fence in (select fence from changed)) is true
    order by 1, 2, 3
    on conflict (task_id, attempt, stream) do update
    set total_bytes = greatest(excluded.total_bytes, log_streams.stored_bytes),
        -- An agent that lost what is stored here cannot know the digest of it.
        sha256 = case when excluded.total_bytes < log_streams.stored_bytes then '' else excluded.sha256 end,
        gaps = coalesce(excluded.gaps, log_streams.gaps)
    where log_streams.total_bytes is null
)
select id, fence, agent_id from changed;

-- name: cancel_waiting
-- Ends tasks that have no live attempt.
with changed as (
    update tasks set state = 6, desired = 2, reason = 'cancel_requested', message = :message,
        end_time = coalesce(:now::timestamptz, now()), not_before = null
    where id = any(:ids::bigint[]) and state = 1 and attempt_state in (0, 5)
    returning id, attempt, namespace, message
), noted as (
    insert into task_events (task_id, attempt, state, namespace, kind, message)
    select id, attempt, 6, namespace, 'cancelled', message from changed
)
select id from changed;

-- name: cancel_live
-- Asks the live attempts of tasks to stop.
with changed as (
    update tasks set state = 3, desired = 2, reason = 'cancel_requested', message = :message,
        stop_grace_ms = coalesce(:grace_ms::bigint, stop_grace_ms)
    where id = any(:ids::bigint[]) and attempt_state between 1 and 4
        and (state in (1, 2) or (state = 3 and :grace_ms::bigint is not null and stop_grace_ms is distinct from :grace_ms))
    returning id, agent_id, attempt, namespace, message
), noted as (
    insert into task_events (task_id, agent_id, attempt, state, namespace, kind, message)
    select id, agent_id, attempt, 3, namespace, 'cancel_requested', message from changed
)
select id from changed;

-- name: lock_tasks
-- Tasks as they are, locked until the end of the transaction.
select id, namespace from tasks where id = any(:ids::bigint[]) order by id for update;

-- name: find_stopping
-- Of some tasks, those that somebody asked to stop and whose live attempts have not ended yet.
select id, fence, agent_id, stop_grace_ms, desired from tasks where id = any(:ids::bigint[]) and state = 3;

-- name: preempt_live
-- Marks the live attempts of agents: they are to stop, because their machine goes away. One that ends now is passed over.
with due as (
    select task_id from live_attempts
    where agent_id = any(:agent_ids::bigint[]) and stop_cause is null
    for update skip locked
), marked as (
    update live_attempts set stop_cause = 2 from due where live_attempts.task_id = due.task_id
    returning live_attempts.task_id, live_attempts.agent_id, live_attempts.fence
), noted as (
    insert into task_events (task_id, agent_id, attempt, state, namespace, kind)
    select tasks.id, marked.agent_id, tasks.attempt, tasks.state, tasks.namespace, 'preempt_requested'
    from marked join tasks on tasks.id = marked.task_id
)
select task_id from marked;

-- name: reopen_task
-- Lets a task that ended without success, or is held, wait for one more attempt.
with changed as (
    update tasks set state = 1, desired = 1, reason = '', message = '', exit_code = null, end_time = null,
        not_before = null, stop_grace_ms = null, infra_failures = 0, next_cause = 'manual'
    where id = :id and attempt_state in (0, 5) and (state in (5, 6, 7, 8) or (state = 1 and reason = 'held'))
    returning id, attempt, namespace, priority, shape_id
), noted as (
    insert into task_events (task_id, attempt, state, namespace, kind)
    select id, attempt, 1, namespace, 'retry_requested' from changed
)
select id, namespace, priority, shape_id from changed;

-- name: get_tasks
-- Tasks as users see them, with or without their specs.
select tasks.id, tasks.namespace, task_specs.name, task_specs.labels, tasks.state,
    case when waits.for_shape then shapes.reason else tasks.reason end as reason,
    case when waits.for_shape then shapes.message else tasks.message end as message,
    tasks.exit_code, tasks.create_time, tasks.assign_time, tasks.start_time, tasks.end_time, tasks.not_before,
    tasks.agent_id, tasks.priority, tasks.attempt, tasks.attempt_state, tasks.fence, tasks.attempt_cause,
    case when :with_body::boolean then task_specs.body else '' end as body
from tasks
join task_specs on task_specs.id = tasks.spec_id
join shapes on shapes.id = tasks.shape_id
-- A wait for a time that has come is a wait for room.
cross join lateral (select tasks.state = 1 and tasks.attempt_state in (0, 5)
    and (tasks.reason = '' or tasks.not_before <= now()) as for_shape) as waits
where tasks.id = any(:ids::bigint[]);

-- name: get_status
-- The state of one task and little else.
select tasks.id, tasks.state,
    case when waits.for_shape then shapes.reason else tasks.reason end as reason,
    case when waits.for_shape then shapes.message else tasks.message end as message,
    tasks.exit_code, tasks.attempt, tasks.agent_id
from tasks join shapes on shapes.id = tasks.shape_id
cross join lateral (select tasks.state = 1 and tasks.attempt_state in (0, 5)
    and (tasks.reason = '' or tasks.not_before <= now()) as for_shape) as waits
where tasks.id = :id;

-- name: list_task_ids
-- Ids of tasks of a namespace that match, newest first, below an id.
select tasks.id
from tasks join task_specs on task_specs.id = tasks.spec_id
where tasks.namespace = :namespace and tasks.id < :below
    and (:states::smallint[] is null or tasks.state = any(:states))
    and (:not_states::smallint[] is null or tasks.state <> all(:not_states))
    and (:agent_ids::bigint[] is null or tasks.agent_id = any(:agent_ids))
    and (:not_agent_ids::bigint[] is null or tasks.agent_id is null or tasks.agent_id <> all(:not_agent_ids))
    and (:names::text[] is null or task_specs.name = any(:names))
    and (:not_names::text[] is null or task_specs.name <> all(:not_names))
    and (:labels::jsonb is null or task_specs.labels @> :labels)
    and (:not_labels::jsonb[] is null or not task_specs.labels @> any(:not_labels))
    and (:id_from::bigint is null or tasks.id >= :id_from)
    and (:id_to::bigint is null or tasks.id <= :id_to)
    and (:time_from::timestamptz is null or tasks.create_time >= :time_from)
    and (:time_to::timestamptz is null or tasks.create_time <= :time_to)
order by tasks.id desc
limit :count;

-- name: get_attempts
-- The attempts of a task that are over, oldest first.
select number, fence, agent_id, cause, assign_time, start_time, end_time, outcome, exit_code, signal, message, cpu_ms,
    max_memory_bytes
from attempts where task_id = :task_id order by number;

-- name: get_timeline
-- What happened to a task, oldest first.
select time, kind, state, attempt, agent_id, message
from task_events where task_id = :task_id order by txid, seq limit 1000;

-- name: count_tasks
-- How many tasks there are in each state.
select state, count(*) as count from tasks group by state;

-- name: read_feed
-- Changes behind a place in the order of commits, up to the oldest running transaction; at least one row, perhaps empty.
-- Settled: no transaction ran, so all that was committed before is here or in the next page.
select change.*, horizon.settled
from (
    select pg_snapshot_xmin(seen) as txid, pg_snapshot_xmin(seen) = pg_snapshot_xmax(seen) as settled
    from pg_current_snapshot() as seen
) as horizon
left join lateral (
    select task_events.txid::text as txid, seq, task_id, namespace
    from task_events
    where (task_events.txid, seq) > (:txid::text::xid8, :seq::bigint) and task_events.txid < horizon.txid
    order by task_events.txid, seq
    limit :count
) as change on true;

-- name: read_elsewhere
-- What other servers changed behind a place in the order of transactions, with the tasks as they are now; of this
-- server's own changes only old ones.
select task_events.txid::text as txid, task_events.seq, task_events.kind, task_events.fence, task_events.agent_id, tasks.id, tasks.namespace,
    tasks.priority, tasks.shape_id, tasks.not_before,
    tasks.state = 1 and desired = 1 and attempt_state in (0, 5) and reason <> 'held' as waits
from task_events join tasks on tasks.id = task_events.task_id
where (task_events.txid, task_events.seq) > (:txid::text::xid8, :seq::bigint)
    and (task_events.replica is distinct from :replica or task_events.txid < :own_before::text::xid8)
    and kind in ('submitted', 'assigned', 'ended', 'retry_requested')
order by task_events.txid, task_events.seq
limit :count;

-- name: feed_floor
-- The last change that retention dropped, if it dropped any.
select txid::text as txid, seq from retention_floors where name = 'task_events';

-- name: forget_requests
-- Removes some request ids that are too old to be repeated.
delete from requests where ctid = any(array(
    select ctid from requests where create_time < now() - make_interval(days => :days::int) limit :count::int))
returning 1;

-- name: feed_end
-- The place in the order of commits before which everything is visible now.
select pg_snapshot_xmin(pg_current_snapshot())::text as txid, pg_snapshot_xmax(pg_current_snapshot())::text as next_txid;

-- name: get_attempt_state
-- Where the latest attempt of a task is.
select id, state, reason, attempt, attempt_state, agent_id, fence from tasks where id = :id;

-- name: find_waiting
-- Which of these tasks still wait for an agent.
select id from tasks
where id = any(:ids::bigint[]) and state = 1 and desired = 1 and attempt_state in (0, 5) and reason <> 'held';

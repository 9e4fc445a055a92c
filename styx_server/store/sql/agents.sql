-- name: find_token
-- The token with this digest, if it is good.
select id, kind from tokens
where digest = :digest and revoke_time is null and (expire_time is null or expire_time > coalesce(:now::timestamptz, now()));

-- name: insert_token
-- Stores a token; the same digest again changes nothing.
insert into tokens (kind, digest, expire_time, max_uses, pool, labels)
values (:kind, :digest, :expire_time, :max_uses, :pool, :labels::jsonb)
on conflict (digest) do nothing
returning id, expire_time;

-- name: get_token_by_digest
-- When a stored token expires.
select id, expire_time from tokens where digest = :digest;

-- name: lock_join_token
-- A join token that can still be used, locked until the end of the transaction.
select id, pool, labels, instance_id from tokens
where digest = :digest and kind = 'join' and revoke_time is null and uses < max_uses
    and expire_time > coalesce(:now::timestamptz, now())
for update;

-- name: use_join_token
-- Counts one use.
update tokens set uses = uses + 1 where id = :id;

-- name: find_joined_agent
-- The agent that joined with this key, if its join token is the one given.
select agents.id from agents join tokens on tokens.id = agents.join_token_id
where agents.key_digest = :key_digest and tokens.digest = :token_digest;

-- name: insert_agent
-- A new agent with its lease; nothing when its key is taken.
with inserted as (
    insert into agents (name, key_digest, join_token_id, pool, token_labels, labels, version)
    values (:name, :key_digest, :join_token_id, :pool, :labels::jsonb, :labels::jsonb, :version)
    on conflict (key_digest) do nothing
    returning id
)
insert into agent_leases (agent_id) select id from inserted returning agent_id as id;

-- name: find_agent_key
-- The digest of an agent's key, and whether the agent was removed.
select id, key_digest, revoke_time is not null as removed from agents where id = :id;

-- name: open_session
-- Starts a session: an epoch above all before, whatever the agent or the database forgot.
update agent_leases set
    epoch = greatest(epoch, :last_epoch) + 1, lease_seq = lease_seq + 1, replica_id = :replica_id, boot_id = :boot_id,
    supervisor_id = :supervisor_id, connected = true, said_goodbye = false, leaving = :leaving, beat_time = coalesce(:now::timestamptz, now())
where agent_id = :agent_id
returning epoch, lease_seq;

-- name: update_agent
-- What an agent says of itself. Labels of its join token win over its own.
update agents set
    labels = :labels::jsonb || token_labels, capacity = :capacity::jsonb, facts = :facts::jsonb,
    isolation = :isolation, version = :version, queues = :queues
where id = :id
returning pool, labels, draining;

-- name: close_session
-- Ends a session, unless a newer one has begun.
update agent_leases set connected = false, said_goodbye = :goodbye::boolean
where agent_id = :agent_id and epoch = :epoch
returning agent_id;

-- name: end_sessions
-- Ends sessions from this side: what comes through them is void, and the agents must say Hello again.
update agent_leases set epoch = epoch + 1, connected = false where agent_id = any(:agent_ids::bigint[]);

-- name: renew_leases
-- Stores beats; those that are not returned belong to a session that was replaced.
update agent_leases set
    lease_seq = lease_seq + 1, beat_time = coalesce(:now::timestamptz, now()), connected = true, leaving = input.leaving,
    owing = input.owing
from unnest(:agent_ids::bigint[], :epochs::bigint[], :leavings::boolean[], :owings::boolean[])
    as input (id, epoch, leaving, owing)
join agents on agents.id = input.id and agents.revoke_time is null
where agent_leases.agent_id = input.id and agent_leases.epoch = input.epoch
returning agent_leases.agent_id, agent_leases.epoch;

-- name: live_attempts_of
-- Every live attempt of an agent, with what decisions need.
select tasks.id, tasks.fence, tasks.attempt, tasks.attempt_state, tasks.state, tasks.desired, tasks.stop_grace_ms,
    tasks.namespace, tasks.shape_id, tasks.gpu_indexes, tasks.agent_id, tasks.disconnect_ms, live_attempts.stop_cause,
    live_attempts.alternative
from live_attempts join tasks on tasks.id = live_attempts.task_id
where live_attempts.agent_id = any(:agent_ids::bigint[]);

-- name: read_held
-- What is stored about attempts that an agent says it holds.
select input.fence, input.task_id, tasks.fence as task_fence, tasks.agent_id, tasks.attempt, tasks.attempt_state,
    attempts.number as ended_number, attempts.agent_id as ended_agent_id,
    attempts.outcome as ended_outcome
from unnest(:task_ids::bigint[], :fences::bigint[]) as input (task_id, fence)
left join tasks on tasks.id = input.task_id
left join attempts on attempts.task_id = input.task_id and attempts.fence = input.fence;

-- name: list_agents
-- Agents by id, behind one.
select agents.id, agents.name, agents.pool, agents.labels, agents.token_labels, agents.capacity, agents.facts, agents.isolation,
    agents.version, agents.queues, agents.draining, agents.drain_deadline, agents.create_time, agent_leases.epoch,
    agent_leases.connected, agent_leases.leaving, agent_leases.said_goodbye, agent_leases.beat_time,
    extract(epoch from now() - agent_leases.beat_time)::float8 as beat_age_seconds,
    (select count(*) from live_attempts where live_attempts.agent_id = agents.id) as attempts
from agents join agent_leases on agent_leases.agent_id = agents.id
where agents.id > :after and agents.revoke_time is null and (:ids::bigint[] is null or agents.id = any(:ids))
order by agents.id
limit :count;

-- name: set_draining
-- Takes an agent out of service, with or without a deadline, or back in; what an earlier deadline marked is unmarked.
with changed as (
    update agents set draining = :draining, drain_deadline = coalesce(:now::timestamptz, now()) + :deadline::interval
    where id = :id and revoke_time is null
    returning id
), unmarked as (
    update live_attempts set stop_cause = null
    where task_id in (
        select task_id from live_attempts where agent_id = :id and stop_cause is not null for update skip locked)
)
select id from changed;

-- name: retiring_agents
-- Of some agents, those that are out of service or removed, and whether their deadline has passed.
select id, draining, revoke_time is not null as removed, coalesce(drain_deadline <= now(), false) as due
from agents where id = any(:ids::bigint[]) and (draining or revoke_time is not null);

-- name: lock_agent
-- An agent, removed or not, locked until the end of the transaction, with how it does.
select agents.id, agents.revoke_time is not null as removed, agent_leases.connected,
    extract(epoch from now() - agent_leases.beat_time)::float8 as beat_age_seconds,
    (select count(*) from live_attempts where live_attempts.agent_id = agents.id) as attempts
from agents join agent_leases on agent_leases.agent_id = agents.id
where agents.id = :id
for update of agent_leases;

-- name: revoke_agent
-- Removes an agent. The new epoch is a fence: nothing that its last session says is taken any more.
with removed as (
    update agents set revoke_time = coalesce(:now::timestamptz, now()) where id = :id and revoke_time is null returning id
)
update agent_leases set epoch = epoch + 1, connected = false from removed where agent_leases.agent_id = removed.id
returning agent_id;

-- name: tasks_on_agent
-- The first of the tasks that have a live attempt on an agent.
select task_id from live_attempts where agent_id = :agent_id order by task_id limit :count;

-- name: get_deployment
-- The identity of this database.
select id from deployment;

-- name: ping
-- Whether the database answers and can be written to.
select not pg_is_in_recovery() as writable;

-- name: lock_lease
-- The lease of an agent as its last session left it, locked until the end of the transaction.
select agents.revoke_time is not null as removed, boot_id, supervisor_id, replica_id, epoch,
    connected and beat_time > now() - make_interval(secs => :seconds::float8) as heard
from agent_leases join agents on agents.id = agent_leases.agent_id
where agent_id = :agent_id
for update of agent_leases;

-- name: find_live_fences
-- Which of these fences are live attempts, of one agent or of any.
select fence from live_attempts
where fence = any(:fences::bigint[]) and (:agent_id::bigint is null or agent_id = :agent_id);

-- name: read_leases
-- Every lease that carries a live attempt.
select agent_id, lease_seq from agent_leases
where exists (select from live_attempts where live_attempts.agent_id = agent_leases.agent_id);

-- name: lock_leases
-- Leases as they are, locked until the end of the transaction: a beat that comes now has to wait.
select agent_id, lease_seq from agent_leases where agent_id = any(:agent_ids::bigint[]) order by agent_id for update;

-- name: read_roster
-- Agents as scheduling sees them, all or some.
select agents.id, agent_leases.epoch, agent_leases.lease_seq, agent_leases.connected,
    agent_leases.connected and not agent_leases.leaving and not agents.draining as accepting,
    coalesce(pools.spec ->> 'spot', '') as pool_spot,
    coalesce(pools.spec -> 'machine_types', '[]') <> '[]' as pool_types
from agents join agent_leases on agent_leases.agent_id = agents.id left join pools on pools.name = agents.pool
where agents.revoke_time is null and (:ids::bigint[] is null or agents.id = any(:ids));

-- name: find_replaced
-- Of these sessions, those whose agents have newer ones; an agent that was removed has none.
select input.agent_id, input.epoch
from unnest(:agent_ids::bigint[], :epochs::bigint[]) as input (agent_id, epoch)
join agent_leases on agent_leases.agent_id = input.agent_id and agent_leases.epoch > input.epoch
join agents on agents.id = input.agent_id and agents.revoke_time is null;

-- name: read_orders
-- What these agents are to start or to stop, as long as their sessions are on this server.
select tasks.id, tasks.fence, tasks.attempt, tasks.agent_id, tasks.attempt_state, tasks.desired, tasks.stop_grace_ms,
    live_attempts.stop_cause, agent_leases.epoch, agent_leases.lease_seq
from live_attempts
join agent_leases on agent_leases.agent_id = live_attempts.agent_id
join tasks on tasks.id = live_attempts.task_id
where live_attempts.agent_id = any(:agent_ids::bigint[]) and agent_leases.replica_id = :replica_id
    and (tasks.attempt_state = 1 or tasks.desired = 2 or live_attempts.stop_cause is not null);

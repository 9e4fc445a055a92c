-- name: read_pools
-- All pools.
select name, spec, implicit, generation, create_time from pools order by name;

-- name: lock_pool
-- One pool, locked until the end of the transaction: what it may have is checked by one at a time.
select name, spec, implicit, generation, create_time from pools where name = :name for update;

-- name: may_rent
-- Whether machines may be rented at all, and by this leader.
select not frozen as allowed from deployment
where exists (select from leaders where name = 'scheduler' and term = :term);

-- name: pool_load
-- What a pool has, and what an hour of it costs.
select count(*) as machines, coalesce(sum(price_micros), 0)::bigint as price_micros
from instances where pool = :pool and state < 7;

-- name: next_instance_id
-- The number of an instance to come.
select nextval('instance_ids') as id;

-- name: insert_instance
-- Stores what is to be rented, before the provider hears of it.
with scope as (
    insert into cloud_scopes (provider, region) values (:provider, :region) on conflict do nothing
)
insert into instances (id, pool, provider, region, zone, machine_type, spot, price_micros, offer, request, key, expire_time)
values (:id, :pool, :provider, :region, :zone, :machine_type, :spot, :price_micros, :offer::jsonb, :request::jsonb, :key,
    :expire_time);

-- name: insert_machine_token
-- The join token of one machine.
insert into tokens (kind, digest, expire_time, max_uses, pool, labels, instance_id)
values ('join', :digest, :expire_time, 1, :pool, :labels::jsonb, :instance_id);

-- name: due_instances
-- What a provider is to be asked about now: machines to make, and machines to end.
select id, state, key, calls, provider, region, zone, cloud_id, request, reason, message,
    extract(epoch from now() - create_time)::float8 as age_seconds
from instances
where state in (1, 2, 6) and next_time <= now() and provider = any(:providers::text[])
order by next_time
limit :count;

-- name: hasten_calls
-- All calls are due now, but for those that are being made.
update instances set next_time = now() where state in (1, 2, 6) and next_time > now() and id <> all(:but::bigint[]);

-- name: claim_call
-- A call is about to be made; until `seconds` have passed nobody else makes it. Nothing when somebody else just did.
update instances set
    state = case when state = 1 then 2 else state end, calls = calls + 1,
    next_time = now() + make_interval(secs => :seconds::float8)
where id = :id and state in (1, 2, 6) and calls = :calls
returning state;

-- name: record_launch
-- The machine exists. Whoever gave it back meanwhile now knows what to end.
with changed as (
    update instances set
        state = case when state = 2 then 3 else state end, cloud_id = :cloud_id,
        zone = case when :zone::text = '' then zone else :zone end,
        launch_time = coalesce(launch_time, now()), calls = 0, next_time = now(), listed_time = now(), missed = 0, missed_time = null
    where id = :id and state between 2 and 6 and cloud_id in ('', :cloud_id)
    returning id, state, price_micros
), priced as (
    insert into instance_prices (instance_id, start_time, price_micros) select id, now(), price_micros from changed
    on conflict do nothing
)
select state from changed;

-- name: record_refusal
-- The provider said no, and nothing was made.
update instances set
    state = case when state = 6 then 7 else 8 end, end_time = now(), request = null, reason = :reason, message = :message
where id = :id and state in (2, 6) and cloud_id = ''
returning state;

-- name: forget_refused
-- Removes some instances that were refused so long ago that nobody asks why, with their tokens: there never was a machine.
with old as (
    select id from instances where state = 8 and end_time < now() - make_interval(days => :days::int)
    order by end_time limit :count
), unused as (
    delete from tokens using old where tokens.instance_id = old.id
)
delete from instances using old where instances.id = old.id
returning instances.id;

-- name: postpone_call
-- The call is to be made again.
update instances set
    next_time = now() + make_interval(secs => :seconds::float8), reason = :reason, message = :message
where id = :id and state in (2, 6)
returning state;

-- name: give_back
-- An instance is to end: one that nobody was asked for is over, the others are ended until the provider confirms it.
update instances set
    state = case when state = 1 then 8 else 6 end, end_time = case when state = 1 then now() end,
    request = case when state = 1 then null else request end,
    release_time = coalesce(release_time, now()), next_time = now(), calls = 0, reason = :reason, message = :message
where id = :id and state between 1 and 5
returning state, agent_id;

-- name: give_up
-- An instance for which the provider was asked in vain is to end, unless its agent has joined meanwhile.
update instances set
    state = 6, release_time = coalesce(release_time, now()), next_time = now(), calls = 0, reason = :reason, message = :message
where id = :id and state in (2, 3)
returning state;

-- name: drain_instance
-- An instance gets no new work, and ends when what runs there has; from the deadline on that is stopped.
with changed as (
    update instances set state = 5, reason = :reason, message = :message where id = :id and state = 4 returning agent_id
)
update agents set draining = true, drain_deadline = now() + :deadline::interval
from changed where agents.id = changed.agent_id
returning agents.id as agent_id;

-- name: hasten_drain
-- What runs on an instance that is out of service gets a deadline, unless it has one.
update agents set drain_deadline = now() + :deadline::interval
from instances
where instances.id = :id and instances.state = 5 and agents.id = instances.agent_id and agents.drain_deadline is null;

-- name: evict_instance
-- The provider takes a machine back: it gets no new work, and is out of time at the deadline. Nothing when the agent is
-- on no rented machine, or that is being given back.
with found as (
    select id, reason <> :reason as fresh from instances where agent_id = :agent_id and state in (4, 5) for update
), changed as (
    update instances set state = 5, reason = :reason, message = case when fresh then :message else message end
    from found where instances.id = found.id
    returning instances.id, agent_id, provider, region, zone, fresh
), drained as (
    update agents set draining = true,
        drain_deadline = least(drain_deadline, now() + make_interval(secs => :seconds::float8))
    from changed where agents.id = changed.agent_id
)
select provider, region, zone, fresh from changed;

-- name: join_instance
-- The agent of an instance has come. Nothing when the instance has one, or is being given back.
update instances set state = 4, agent_id = :agent_id, join_time = now(), request = null
where id = :id and state in (2, 3) and agent_id is null
returning id;

-- name: confirm_end
-- The provider says that the machine is gone.
with changed as (
    update instances set state = 7, end_time = now(), request = null where id = :id and state = 6
    returning id, agent_id, reason
), priced as (
    update instance_prices set end_time = greatest(now(), start_time) from changed
    where instance_prices.instance_id = changed.id and instance_prices.end_time is null
)
select agent_id, reason from changed;

-- name: note_idle
-- Since when machines are without work.
update instances set idle_time = case when busy then null else now() end
from (
    select id, exists (select from live_attempts where live_attempts.agent_id = instances.agent_id) as busy
    from instances where state = 4
) as looked
where instances.id = looked.id and instances.state = 4 and (instances.idle_time is null) <> busy;

-- name: live_instances
-- All that is rented or about to be, with how its agent does.
select instances.id, instances.pool, instances.state, instances.offer, instances.key, instances.cloud_id,
    instances.agent_id, instances.reason, instances.message, instances.create_time, instances.launch_time,
    instances.join_time, instances.idle_time, instances.release_time, instances.end_time, instances.expire_time,
    extract(epoch from now() - instances.launch_time)::float8 as launched_seconds,
    extract(epoch from now() - instances.join_time)::float8 as joined_seconds,
    extract(epoch from now() - instances.idle_time)::float8 as idle_seconds,
    instances.expire_time <= now() as expired,
    coalesce(agents.drain_deadline <= now() - interval '1 minute', false) as overdue,
    agents.drain_deadline is null as patient,
    coalesce(agents.revoke_time is not null, false) as revoked,
    coalesce(agent_leases.connected, false) as connected,
    coalesce(agent_leases.owing and agent_leases.beat_time > now() - interval '1 minute', false) as owing,
    (select count(*) from live_attempts where live_attempts.agent_id = instances.agent_id) as attempts
from instances
left join agents on agents.id = instances.agent_id
left join agent_leases on agent_leases.agent_id = instances.agent_id
where instances.state < 7
order by instances.id;

-- name: read_scopes
-- Where machines were ever rented, and how soon to look there again: something is unsure or ending, runs, or nothing.
select provider, region,
    exists (
        select from instances
        where instances.provider = cloud_scopes.provider and instances.region = cloud_scopes.region and instances.state between 2 and 6
    ) as live,
    coalesce((
        select max(case when instances.state in (2, 6) or not agent_leases.connected then 2 else 1 end)
        from instances left join agent_leases on agent_leases.agent_id = instances.agent_id
        where instances.provider = cloud_scopes.provider and instances.region = cloud_scopes.region and instances.state < 7
    ), 0) as urgency,
    extract(epoch from now() - list_time)::float8 as since_seconds
from cloud_scopes;

-- name: has_rented
-- Whether machines of other computers were ever rented from this database.
select exists (select from cloud_scopes where provider = any(:providers::text[])) as rented;

-- name: known_machines
-- Instances of a region that have not ended, and those of these keys that have.
select id, state, key, cloud_id, instances.agent_id, offer, calls, missed,
    extract(epoch from now() - missed_time)::float8 as missed_seconds, listed_time is not null as was_listed,
    coalesce(agent_leases.connected and agent_leases.beat_time > now() - interval '1 minute', false) as heard
from instances left join agent_leases on agent_leases.agent_id = instances.agent_id
where provider = :provider and region = :region and (state < 7 or key = any(:keys::text[]));

-- name: note_listed
-- What a list said: which instances it had, and which it lacked.
with looked as (
    update cloud_scopes set list_time = now() where provider = :provider and region = :region
)
update instances set
    listed_time = case when input.there then now() else listed_time end,
    missed = case when input.there then 0 else missed + 1 end,
    missed_time = case when input.there then null else coalesce(missed_time, now()) end
from unnest(:ids::bigint[], :theres::boolean[]) as input (id, there)
where instances.id = input.id and instances.state < 7;

-- name: note_strangers
-- Machines that carry our tag and have no row; returns those that were seen for long enough.
with seen as (
    insert into strangers (provider, region, cloud_id)
    select :provider, :region, unnest(:cloud_ids::text[])
    on conflict (provider, region, cloud_id) do update set last_time = now()
    returning cloud_id, first_time
)
select cloud_id from seen where first_time <= now() - make_interval(secs => :seconds::float8);

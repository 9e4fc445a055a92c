-- name: renting_frozen
-- Whether a person has stopped all renting.
select frozen from deployment;

-- name: set_renting_frozen
-- Stops all renting, or lets it go on.
update deployment set frozen = :frozen;

-- name: running_rate
-- How many machines are rented now, for one pool or all, and what they cost together for an hour.
select count(*) as instances, coalesce(sum(price_micros), 0)::bigint as price_micros
from instances where state < 7 and (:pool::text is null or pool = :pool);

-- name: priced_instances
-- Machines that cost something in a span of time, behind an id.
select id, pool, provider, agent_id, create_time, (offer -> 'estimate')::boolean as estimate,
    (offer -> 'size' ->> 'cpus_milli')::bigint as cpus_milli, (offer -> 'size' ->> 'gpu_count')::integer as gpu_count
from instances
where id > :after and (:pool::text is null or pool = :pool)
    and exists (
        select from instance_prices
        where instance_prices.instance_id = instances.id and start_time < :end_time::timestamptz
            and (end_time is null or end_time > :start_time::timestamptz))
order by id
limit :count;

-- name: attempts_on_agents
-- What ran on these agents in a span of time: attempts that are over, and live ones. Reads all attempts; for reports.
select attempts.agent_id, attempts.task_id, tasks.namespace, tasks.shape_id, task_specs.labels,
    attempts.assign_time as start_time, attempts.end_time
from attempts
join tasks on tasks.id = attempts.task_id
join task_specs on task_specs.id = tasks.spec_id
where attempts.agent_id = any(:agent_ids::bigint[]) and attempts.assign_time < :end_time::timestamptz
    and attempts.end_time > :start_time::timestamptz
union all
select tasks.agent_id, tasks.id, tasks.namespace, tasks.shape_id, task_specs.labels, tasks.assign_time, null
from live_attempts
join tasks on tasks.id = live_attempts.task_id
join task_specs on task_specs.id = tasks.spec_id
where live_attempts.agent_id = any(:agent_ids::bigint[]) and tasks.assign_time < :end_time::timestamptz;

-- name: list_budgets
-- Limits on money, behind one.
select scope, name, period, limit_micros, warn_share, create_time from budgets
where (scope, name, period) > (:scope, :name, :period)
order by scope, name, period
limit :count;

-- name: upsert_budget
-- Sets a limit on money, or changes it.
insert into budgets (scope, name, period, limit_micros, warn_share)
values (:scope, :name, :period, :limit_micros, :warn_share)
on conflict (scope, name, period) do update set limit_micros = excluded.limit_micros, warn_share = excluded.warn_share;

-- name: delete_budget
-- Takes a limit away.
delete from budgets where scope = :scope and name = :name and period = :period returning scope;

-- name: budget_spent
-- What was spent in each period, of everything, of each pool and of each namespace that has a limit, in millionths of a dollar; and what an hour of what is rented now costs.
with limits as (
    select scope, name, period,
        case period when 'day' then date_trunc('day', coalesce(:now::timestamptz, now()), 'UTC')
            when 'month' then date_trunc('month', coalesce(:now::timestamptz, now()), 'UTC')
            else '-infinity'::timestamptz end as since
    from budgets
)
select limits.scope, limits.name, limits.period,
    case limits.scope when 'namespace' then (
        select coalesce(sum(prices.price_micros::numeric / 3600 * greatest(0, extract(epoch from
            least(coalesce(held.end_time, coalesce(:now, now())), coalesce(prices.end_time, coalesce(:now, now())))
            - greatest(held.start_time, prices.start_time, limits.since)))
            * least(1, greatest(
                (shapes.body ->> 'cpus_milli')::numeric / greatest(1, (instances.offer -> 'size' ->> 'cpus_milli')::numeric),
                (shapes.body ->> 'gpu_count')::numeric / greatest(1, (instances.offer -> 'size' ->> 'gpu_count')::numeric)))
            ), 0)
        from (
            select attempts.agent_id, tasks.shape_id, attempts.assign_time as start_time, attempts.end_time
            from tasks join attempts on attempts.task_id = tasks.id
            where tasks.namespace = limits.name and attempts.end_time > limits.since
            union all
            select tasks.agent_id, tasks.shape_id, tasks.assign_time, null
            from live_attempts join tasks on tasks.id = live_attempts.task_id
            where tasks.namespace = limits.name
        ) as held
        join instances on instances.agent_id = held.agent_id
        join instance_prices as prices on prices.instance_id = instances.id
        join shapes on shapes.id = held.shape_id
    ) else (
        select coalesce(sum(prices.price_micros::numeric / 3600 * greatest(0, extract(epoch from
            coalesce(prices.end_time, coalesce(:now, now())) - greatest(prices.start_time, limits.since)))), 0)
        from instance_prices as prices join instances on instances.id = prices.instance_id
        where (limits.scope = 'all' or instances.pool = limits.name)
            and (prices.end_time is null or prices.end_time > limits.since)
    ) end::bigint as spent_micros,
    case limits.scope when 'namespace' then 0 else (
        select coalesce(sum(price_micros), 0)::bigint from instances
        where state < 7 and (limits.scope = 'all' or pool = limits.name)
    ) end as hourly_micros
from limits;

-- name: budget_room
-- What may still be spent for a pool, in millionths of a dollar: the least that any limit on everything or on it leaves, once what is rented already has been paid for another hour. Nothing: there is no limit. Locks the limits until the end of the transaction.
with limits as (
    select scope, name, limit_micros,
        case period when 'day' then date_trunc('day', coalesce(:now::timestamptz, now()), 'UTC')
            when 'month' then date_trunc('month', coalesce(:now::timestamptz, now()), 'UTC')
            else '-infinity'::timestamptz end as since
    from budgets
    where scope = 'all' or (scope = 'pool' and name = :pool)
    for update
)
select min(limit_micros
    - (select coalesce(sum(prices.price_micros::numeric / 3600 * greatest(0, extract(epoch from
            coalesce(prices.end_time, coalesce(:now, now())) - greatest(prices.start_time, limits.since)))), 0)
        from instance_prices as prices join instances on instances.id = prices.instance_id
        where (limits.scope = 'all' or instances.pool = :pool)
            and (prices.end_time is null or prices.end_time > limits.since))
    - (select coalesce(sum(price_micros), 0) from instances
        where state < 7 and (limits.scope = 'all' or pool = :pool)))::bigint as room_micros
from limits;

-- name: insert_pool
-- A new pool; nothing when its name is taken.
insert into pools (name, spec) values (:name, :spec::jsonb) on conflict (name) do nothing returning name;

-- name: list_pools
-- Pools by name, behind one, or one of them.
select name, spec, implicit, generation, create_time from pools
where name > :after and (:name::text is null or name = :name)
order by name
limit :count;

-- name: update_pool
-- Other words about a pool that is locked.
update pools set spec = :spec::jsonb, generation = generation + 1 where name = :name;

-- name: delete_pool
-- Removes a pool that is locked.
delete from pools where name = :name;

-- name: count_pool_agents
-- How many agents serve each of these pools.
select pool, count(*) as agents from agents where revoke_time is null and pool = any(:names::text[]) group by pool;

-- name: count_pool_instances
-- How many machines each of these pools has rented and not given back, and what they cost for an hour.
select pool, count(*) as instances, sum(price_micros)::bigint as price_micros
from instances where state < 7 and pool = any(:names::text[]) group by pool;

-- name: find_pool_task
-- A task of a pool that has not ended, if there is one. Looks through all tasks; a pool is seldom deleted.
select tasks.id from shapes join tasks on tasks.shape_id = shapes.id
where shapes.body ->> 'pool' = :name and tasks.state < 4
limit 1;

-- name: list_instances
-- Rented machines that match, newest first, below an id.
select id, pool, offer, state, key, cloud_id, agent_id, reason, message, create_time, launch_time, join_time, idle_time,
    release_time, end_time, expire_time
from instances
where id < :below and (:include_ended::boolean or state < 7)
    and (:states::smallint[] is null or state = any(:states))
    and (:not_states::smallint[] is null or state <> all(:not_states))
    and (:pools::text[] is null or pool = any(:pools))
    and (:not_pools::text[] is null or pool <> all(:not_pools))
    and (:providers::text[] is null or provider = any(:providers))
    and (:not_providers::text[] is null or provider <> all(:not_providers))
    and (:regions::text[] is null or region = any(:regions))
    and (:not_regions::text[] is null or region <> all(:not_regions))
    and (:agent_ids::bigint[] is null or agent_id = any(:agent_ids))
    and (:not_agent_ids::bigint[] is null or agent_id is null or agent_id <> all(:not_agent_ids))
order by id desc
limit :count;

-- name: view_instance
-- One rented machine.
select id, pool, offer, state, key, cloud_id, agent_id, reason, message, create_time, launch_time, join_time, idle_time,
    release_time, end_time, expire_time
from instances where id = :id;

-- name: list_prices
-- What an hour of these machines cost, and when.
select instance_id, start_time, end_time, price_micros from instance_prices
where instance_id = any(:instance_ids::bigint[])
order by instance_id, start_time;

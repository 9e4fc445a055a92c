-- name: list_refusals
-- All that is remembered of refusals; few rows.
select provider, region, zone, machine_type, spot, kind, code, message, strikes, time, until_time
from refusals
order by provider, region, zone, machine_type, spot;

-- name: upsert_refusal
-- Remembers a refusal, in the place of the last one with the same key.
insert into refusals (provider, region, zone, machine_type, spot, kind, code, message, strikes, time, until_time)
values (:provider, :region, :zone, :machine_type, :spot, :kind, :code, :message, :strikes, :time, :until_time)
on conflict (provider, region, zone, machine_type, spot) do update set
    kind = excluded.kind, code = excluded.code, message = excluded.message, strikes = excluded.strikes,
    time = excluded.time, until_time = excluded.until_time;

-- name: delete_refusals
-- Forgets refusals by their keys.
delete from refusals
using unnest(:providers::text[], :regions::text[], :zones::text[], :machine_types::text[], :spots::smallint[])
    as gone (provider, region, zone, machine_type, spot)
where refusals.provider = gone.provider and refusals.region = gone.region and refusals.zone = gone.zone
    and refusals.machine_type = gone.machine_type and refusals.spot = gone.spot;

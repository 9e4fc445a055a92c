-- name: read_refusals
-- Where providers refused, as far as it may still matter.
select provider, region, zone, machine_type, spot, kind, code, message, strikes, time, until_time from refusals;

-- name: put_refusal
-- Remembers that something is not to be tried for a while.
insert into refusals (provider, region, zone, machine_type, spot, kind, code, message, strikes, time, until_time)
values (:provider, :region, :zone, :machine_type, :spot, :kind, :code, :message, :strikes, :time, :until_time)
on conflict (provider, region, zone, machine_type, spot) do update set
    kind = excluded.kind, code = excluded.code, message = excluded.message, strikes = excluded.strikes,
    time = excluded.time, until_time = excluded.until_time;

-- name: drop_refusal
-- Forgets one: it is over, or was disproved.
delete from refusals
where provider = :provider and region = :region and zone = :zone and machine_type = :machine_type and spot = :spot;

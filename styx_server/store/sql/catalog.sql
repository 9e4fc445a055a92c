-- name: list_catalog_sources
-- Where what is known of each provider comes from, and its version.
select provider, source, version, entries, fetch_time, replace_time from catalog_sources order by provider;

-- name: insert_catalog_source
-- Says that a provider of which nothing is known is about to get its first rows; nothing when somebody was quicker.
insert into catalog_sources (provider, source, entries, fetch_time)
values (:provider, :source, :entries, :fetch_time)
on conflict (provider) do nothing
returning version;

-- name: upsert_catalog_source
-- Says that all rows of a provider are about to be replaced; who does the same at the time waits for the commit.
insert into catalog_sources (provider, source, entries, fetch_time)
values (:provider, :source, :entries, :fetch_time)
on conflict (provider) do update set
    source = excluded.source, entries = excluded.entries, fetch_time = excluded.fetch_time,
    version = catalog_sources.version + 1, replace_time = now()
returning version;

-- name: touch_catalog_source
-- Somebody has looked, and what is known still holds; nothing when it was replaced meanwhile.
update catalog_sources set fetch_time = greatest(fetch_time, :fetch_time)
where provider = :provider and version = :version;

-- name: delete_catalog_entries
-- All rows of a provider.
delete from catalog where provider = :provider;

-- name: page_catalog_entries
-- A part of what is known of a provider, in the order of the key.
select region, zone, machine_type, gpu_name, gpu_count, gpu_memory_bytes, cpus_milli, memory_bytes, arch, price_micros,
    spot_price_micros, gpus_attached, estimate, fetch_time
from catalog
where provider = :provider
    and (region, zone, machine_type, gpu_name, gpu_count)
        > (:region::text, :zone::text, :machine_type::text, :gpu_name::text, :gpu_count::integer)
order by region, zone, machine_type, gpu_name, gpu_count
limit :count;

-- Several servers on one database: who lives, who leads, and who wrote what.

-- A server that lives holds an advisory lock under its number. The lock is a quick sign of death and nothing else: what
-- must be safe rests on terms, epochs and fences.
create function replica_number(id uuid) returns integer language sql immutable as
    $$ select ('x0' || left(id::text, 7))::bit(32)::integer $$;

create view live_replicas as
select objid::bigint as number from pg_locks
where locktype = 'advisory' and classid = 1400142200 and objsubid = 2 and granted
    and database = (select oid from pg_database where datname = current_database());

-- A leader that leaves says so; the next one need not wait for its silence.
alter table leaders add column released boolean not null default false;
insert into leaders (name, replica_id, term, released)
select name, '00000000-0000-0000-0000-000000000000', 0, true from unnest('{scheduler,reaper,upkeep}'::text[]) as name
on conflict do nothing;

-- Whether the agent itself wants no new work.
alter table agent_leases add column leaving boolean not null default false;

-- Which attempt, and which server wrote it: a leader reads what others did.
alter table task_events add column fence bigint;
alter table task_events
    add column replica integer default nullif(current_setting('styx.replica', true), '')::integer;

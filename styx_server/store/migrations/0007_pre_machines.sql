-- Rented machines: what there is to rent, what was rented, where it was refused, what it cost.
--
-- Few rows that change seldom, unlike tasks: indexes on states are good here. What must never be is refused by the
-- database: an illegal step of an instance, and one machine in two rows.

create table pools (
    name text primary key,
    spec jsonb not null,
    implicit boolean not null default false,
    generation bigint not null default 1,
    create_time timestamptz not null default now()
);
-- Tasks that name no pool: machines are rented for them when a provider is configured.
insert into pools (name, spec, implicit) values ('default', '{}', true);

create table catalog (
    provider text not null,
    region text not null,
    zone text not null default '',
    machine_type text not null,
    gpu_name text not null default '',
    gpu_count integer not null default 0,
    gpu_memory_bytes bigint not null default 0,
    cpus_milli bigint not null check (cpus_milli > 0),
    memory_bytes bigint not null check (memory_bytes >= 0),
    arch text not null default 'x86_64',
    price_micros bigint check (price_micros >= 0),
    spot_price_micros bigint check (spot_price_micros >= 0),
    gpus_attached boolean not null default false,
    estimate boolean not null default false,
    fetch_time timestamptz not null,
    primary key (provider, region, zone, machine_type, gpu_name, gpu_count)
);

-- Where the rows of each provider in `catalog` come from. They are replaced together, and the version grows each time.
create table catalog_sources (
    provider text primary key,
    source text not null check (source in ('seed', 'provider', 'import')),
    version bigint not null default 1,
    entries integer not null check (entries > 0),
    fetch_time timestamptz not null,
    replace_time timestamptz not null default now()
);

create sequence instance_ids as bigint;

create table instances (
    id bigint primary key,
    pool text not null,
    provider text not null,
    region text not null,
    zone text not null,
    machine_type text not null,
    spot boolean not null,
    price_micros bigint not null check (price_micros >= 0),
    -- The request as it is sent, byte for byte the same in every call. Emptied once its token is used.
    offer jsonb not null,
    request jsonb,
    state smallint not null default 1 check (state between 1 and 8),
    -- Under this the provider knows the machine. Never used again, also not after the database was restored.
    key text not null unique check (length(key) between 1 and 64),
    cloud_id text not null default '',
    agent_id bigint unique references agents (id),
    reason text not null default '',
    message text not null default '',
    create_time timestamptz not null default now(),
    launch_time timestamptz,
    join_time timestamptz,
    idle_time timestamptz,
    release_time timestamptz,
    end_time timestamptz,
    expire_time timestamptz not null,
    -- When it is next to be looked after: a call that failed is repeated later and later.
    next_time timestamptz not null default now(),
    calls integer not null default 0,
    -- What the provider's list said: when it had the machine last, since when and how often it did not.
    listed_time timestamptz,
    missed_time timestamptz,
    missed integer not null default 0,
    constraint instances_ended_has_end_time check ((state >= 7) = (end_time is not null)),
    constraint instances_launched_has_name check (state <> 3 or cloud_id <> '')
);
create index instances_live on instances (provider, region) where state < 7;
create unique index instances_cloud_id on instances (provider, region, cloud_id) where cloud_id <> '';
create index instances_ended on instances (end_time) where state >= 7;

create function refuse_instance_step() returns trigger language plpgsql as $$
begin
    raise exception 'instance % may not go from state % to state %', old.id, old.state, new.state
        using errcode = 'check_violation', constraint = 'instances_transition_legal';
end $$;

create trigger instances_transition_legal before update on instances for each row
when (old.state <> new.state and (old.state::int, new.state::int) not in (
    (1, 2), (1, 8), (2, 3), (2, 4), (2, 6), (2, 8), (3, 4), (3, 6), (4, 5), (4, 6), (5, 6), (6, 7)))
execute function refuse_instance_step();

-- The machine's own join token: good once, for the agent of this instance and nobody else.
alter table tokens add column instance_id bigint references instances (id);

-- As of its last beat: the agent holds what has not ended, or of which something is not stored yet.
alter table agent_leases add column owing boolean not null default false;

-- Which of its task's alternatives a live attempt holds; null: the task has none.
alter table live_attempts add column alternative smallint;

-- What an hour cost, and when. An interval without an end goes on.
create table instance_prices (
    instance_id bigint not null references instances (id),
    start_time timestamptz not null,
    end_time timestamptz,
    price_micros bigint not null check (price_micros >= 0),
    primary key (instance_id, start_time),
    check (end_time is null or end_time >= start_time)
);
create unique index instance_prices_open on instance_prices (instance_id) where end_time is null;

-- Where machines were ever rented; looked through for ever, so that none is forgotten.
create table cloud_scopes (
    provider text not null,
    region text not null,
    first_time timestamptz not null default now(),
    list_time timestamptz,
    primary key (provider, region)
);

-- Where a provider refused, shared by all that wait. An empty part means any; spot: 0 on demand, 1 spot, 2 both.
create table refusals (
    provider text not null,
    region text not null default '',
    zone text not null default '',
    machine_type text not null default '',
    spot smallint not null default 2 check (spot between 0 and 2),
    kind text not null,
    code text not null default '',
    message text not null default '',
    strikes integer not null default 1 check (strikes > 0),
    time timestamptz not null default now(),
    until_time timestamptz not null,
    primary key (provider, region, zone, machine_type, spot)
);

-- Machines on a provider's list that no row knows. Ended when they were seen twice, long enough apart.
create table strangers (
    provider text not null,
    region text not null,
    cloud_id text not null,
    first_time timestamptz not null default now(),
    last_time timestamptz not null default now(),
    end_time timestamptz,
    primary key (provider, region, cloud_id)
);

-- Limits on money, warned of before they are met.
create table budgets (
    -- What it is for: everything, a pool, a namespace.
    scope text not null check (scope in ('all', 'pool', 'namespace')),
    name text not null default '',
    period text not null check (period in ('day', 'month', 'total')),
    limit_micros bigint not null check (limit_micros >= 0),
    warn_share real not null default 0.8 check (warn_share between 0 and 1),
    create_time timestamptz not null default now(),
    primary key (scope, name, period),
    check ((scope = 'all') = (name = ''))
);

-- A person's hand on the tap: nothing is rented while it is set; what is rented may end.
alter table deployment add column frozen boolean not null default false;

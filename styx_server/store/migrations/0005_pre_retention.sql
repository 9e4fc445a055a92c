-- How far old rows were dropped: whoever asks for what lies before it is told that it is gone.
create table retention_floors (
    name text primary key,
    txid xid8 not null,
    seq bigint not null
);

-- Request ids are removed by age. Rows come in the order of their time, so a few pages of index are enough.
create index requests_time on requests using brin (create_time);

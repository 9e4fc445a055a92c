-- name: get_streams
-- How far the output of attempts is stored.
select task_id, attempt, stream, fence, stored_bytes, total_bytes, sha256, sealed, corrupt, gaps
from log_streams where task_id = :task_id and (:attempt::int is null or attempt = :attempt)
order by attempt, stream;

-- name: get_streams_by_task
-- How far the output of some tasks is stored.
select task_id, attempt, stream, fence, stored_bytes, total_bytes, sha256, sealed, corrupt, gaps
from log_streams where task_id = any(:task_ids::bigint[]);

-- name: advance_streams
-- Stores pieces of streams and moves their ends, each only from where its pieces start; what is not returned did not fit.
with input as materialized (
    select * from unnest(:task_ids::bigint[], :attempts::int[], :streams::smallint[], :fences::bigint[],
            :starts::bigint[], :ends::bigint[], :gaps::text[])
        as input (task_id, attempt, stream, fence, old_end, new_end, gaps)
), begun as (
    insert into log_streams (task_id, attempt, stream, fence, stored_bytes, gaps)
    select task_id, attempt, stream, fence, new_end, gaps::jsonb from input where old_end = 0 order by 1, 2, 3
    -- The end of an attempt may be stored before its first output.
    on conflict (task_id, attempt, stream) do update set stored_bytes = excluded.stored_bytes,
        gaps = case when excluded.gaps is null or log_streams.gaps @> excluded.gaps then log_streams.gaps
            else coalesce(log_streams.gaps, '[]'::jsonb) || excluded.gaps end
    where log_streams.stored_bytes = 0
    returning task_id, attempt, stream
), moved as (
    update log_streams set stored_bytes = input.new_end,
        gaps = case when input.gaps is null or log_streams.gaps @> input.gaps::jsonb then log_streams.gaps
            else coalesce(log_streams.gaps, '[]'::jsonb) || input.gaps::jsonb end
    from input
    where input.old_end > 0 and log_streams.task_id = input.task_id and log_streams.attempt = input.attempt
        and log_streams.stream = input.stream and log_streams.stored_bytes = input.old_end
    returning log_streams.task_id, log_streams.attempt, log_streams.stream
), fitting as materialized (
    select * from begun union all select * from moved
), kept as (
    insert into log_chunks (task_id, attempt, stream, start_offset, length, codec, times, data, time)
    select * from unnest(:chunk_task_id::bigint[], :chunk_attempt::int[], :chunk_stream::smallint[],
            :chunk_start_offset::bigint[], :chunk_length::int[], :chunk_codec::smallint[], :chunk_times::bytea[],
            :chunk_data::bytea[], :chunk_time::timestamptz[])
        as chunk (task_id, attempt, stream, start_offset, length, codec, times, data, time)
    where (task_id, attempt, stream) in (select task_id, attempt, stream from fitting)
)
select * from fitting;

-- name: seal_streams
-- Records whether what is stored is what was written.
update log_streams set sealed = input.sealed, corrupt = not input.sealed
from unnest(:task_ids::bigint[], :attempts::int[], :streams::smallint[], :sealed::boolean[])
    as input (task_id, attempt, stream, sealed)
where log_streams.task_id = input.task_id and log_streams.attempt = input.attempt
    and log_streams.stream = input.stream and stored_bytes = total_bytes and not log_streams.sealed;

-- name: unsealed_streams
-- Streams that are complete and not yet compared with their digest.
select task_id, attempt, stream, fence, stored_bytes, total_bytes, sha256, sealed, corrupt, gaps
from log_streams where not sealed and not corrupt and stored_bytes = total_bytes and sha256 <> '' limit :count;

-- name: read_chunks
-- Stored pieces of a stream from a position on, in order.
select start_offset, length, codec, data, times, time
from log_chunks
where task_id = :task_id and attempt = :attempt and stream = :stream
    and start_offset > :position::bigint - :longest::bigint and start_offset + length > :position
order by start_offset
limit :count;

-- name: read_chunks_back
-- Stored pieces of a stream before a position, last first.
select start_offset, length, codec, data
from log_chunks
where task_id = :task_id and attempt = :attempt and stream = :stream and start_offset < :position
order by start_offset desc
limit :count;

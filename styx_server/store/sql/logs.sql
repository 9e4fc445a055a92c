-- name: get_streams
-- How far the output of attempts is stored.
select task_id, attempt, stream, fence, stored_bytes, total_bytes, sha256, sealed, corrupt, gaps
from log_streams where task_id = :task_id and (:attempt::int is null or attempt = :attempt)
order by attempt, stream;

-- name: get_streams_by_task
-- How far the output of some tasks is stored.
select task_id, attempt, stream, fence, stored_bytes, total_bytes, sha256, sealed, corrupt, gaps
from log_streams where task_id = any(:task_ids::bigint[]);

-- name: ensure_streams
-- Makes streams known before their first byte.
insert into log_streams (task_id, attempt, stream, fence)
select task_id, attempt, stream, fence
from unnest(:task_ids::bigint[], :attempts::int[], :streams::smallint[], :fences::bigint[])
    as input (task_id, attempt, stream, fence)
order by 1, 2, 3
on conflict do nothing;

-- name: advance_streams
-- Moves the ends of streams, each only from where the new bytes start; those that are not returned did not fit.
update log_streams set stored_bytes = input.new_end,
    gaps = case when input.gaps is null or log_streams.gaps @> input.gaps::jsonb then log_streams.gaps
        else coalesce(log_streams.gaps, '[]'::jsonb) || input.gaps::jsonb end
from unnest(:task_ids::bigint[], :attempts::int[], :streams::smallint[], :starts::bigint[], :ends::bigint[],
            :gaps::text[])
    as input (task_id, attempt, stream, old_end, new_end, gaps)
where log_streams.task_id = input.task_id and log_streams.attempt = input.attempt and log_streams.stream = input.stream
    and log_streams.stored_bytes = input.old_end
returning log_streams.task_id, log_streams.attempt, log_streams.stream;

-- name: seal_stream
-- Records whether what is stored is what was written.
update log_streams set sealed = :sealed, corrupt = not :sealed
where task_id = :task_id and attempt = :attempt and stream = :stream and stored_bytes = total_bytes and not sealed;

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

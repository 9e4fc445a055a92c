-- name: look_at_leaders
-- Who leads what, and whether it gives a sign of life.
select name, replica_id, term, seq, released,
    replica_number(replica_id) in (select number from live_replicas) as lives
from leaders;

-- name: take_lead
-- Becomes the leader under a new term, if nothing was heard of the one before.
update leaders set replica_id = :replica_id, term = term + 1, seq = seq + 1, released = false
where name = :name and term = :term and seq = :seq
returning term;

-- name: renew_leads
-- Says that a leader still leads; what is not returned has another leader.
update leaders set seq = seq + 1
from unnest(:names::text[], :terms::bigint[]) as input (name, term)
where leaders.name = input.name and leaders.term = input.term and replica_id = :replica_id
returning leaders.name;

-- name: settle_lead
-- Waits until nothing that a leader stored under its term is still on its way.
select term from leaders where name = :name for no key update;

-- name: release_leads
-- Leaves: the next leader may come at once.
update leaders set released = true where replica_id = :replica_id;

-- name: list_replicas
-- Numbers of the servers that live.
select number from live_replicas order by number;

-- name: disconnect_gone
-- Sessions of servers that are gone are not open any more.
update agent_leases set connected = false
where connected and replica_number(replica_id) = any(:numbers::int[]) and replica_number(replica_id) not in (
    select number from live_replicas)
returning agent_id;

-- name: list_gone
-- Numbers of servers that give no sign of life and whose sessions are called open.
select distinct replica_number(replica_id) as number from agent_leases
where connected and replica_number(replica_id) not in (select number from live_replicas);

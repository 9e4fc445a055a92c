"""No statement decides by the database's wall clock, but for those that are about times which people gave."""

from __future__ import annotations

import re

from styx_server.store.queries import load

ABOUT_TIMES = {
    "find_token": "tokens expire at a time",
    "lock_join_token": "tokens expire at a time",
    "submit_tasks": "a task may start no earlier than a time; only what is shown depends on it here",
    "get_tasks": "the same",
    "get_status": "the same",
    "forget_requests": "request ids are promised for a time",
    "retiring_agents": "operators give deadlines",
    "due_instances": "a call that costs money is made again after a while; too soon or too late, its key is the same",
    "hasten_calls": "the same",
    "forget_refused": "what never was a machine is kept for a while, for people to look at",
    "live_instances": "machines have a time at which they leave, and drains have deadlines",
    "known_machines": "an agent heard of lately keeps its machine, whatever a list says; a jump delays that",
    "note_strangers": "a machine that nobody knows is left alone for a while",
    "lock_lease": "a copied agent is refused while the original was heard of lately; a jump delays that or undoes it",
}
_COMPARED = re.compile(r"(?:[<>]=?\s*(?:coalesce\([^()]*,\s*)?now\(\)|now\(\)\)?\s*[<>])")


def test_nothing_but_what_is_about_times_compares_with_the_clock() -> None:
    assert {name for name, query in load().items() if _COMPARED.search(query.sql)} == set(ABOUT_TIMES)


def test_nothing_that_concerns_leases_reads_a_time() -> None:
    # Every statement whose rows the reaper decides by, or that is held against a lease.
    for name in ("read_leases", "lock_leases", "live_attempts_of", "start_attempts"):
        assert not re.search(r"beat_time|assign_time|now\(\)", load()[name].sql), name

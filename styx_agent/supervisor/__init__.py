"""The supervisor: the parent of every task of one agent, in a process of its own.

It starts, captures, limits, stops and remembers. It may import the standard library, its own room and
`styx/failpoints.py`, nothing else: it must stay small, start quickly and outlive every upgrade of the link.

Read `main.py` (how it is built), `warden.py` (what it does), `attempt.py` (one command from start to end), then
`rules.py` (every decision about time and outcome), `wire.py` (how the link speaks to it).
"""

"""Decides. Plain synchronous functions over values: no I/O, no clock, no dice, no protobuf, no logging.

May import nothing but the standard library's data types and itself. Read `states.py` first, then `task.py`,
`outcome.py` (what follows when an attempt ends) and `placement/plan.py` (who runs where).
"""

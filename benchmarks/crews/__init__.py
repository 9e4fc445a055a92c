"""Owns: agents by the thousand that run nothing, as programs of their own, so that what they cost is not the server's.

`program.py` is the program, `running.py` starts it and asks it questions. The agents themselves are those of the tests
(`tests/support/light_agents.py`).
"""

"""Owns: the scenarios, a file each with a `SCENARIO` in it. `catalog.py` finds them; a new file is a new scenario."""

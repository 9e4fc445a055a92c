"""Owns: the benchmark. It starts a real Styx, works it, and sets every figure beside its floor from the same run.

May import everything; nothing imports it, and it is no part of the wheel. `README.md` says what is measured and how to
read it. Next: `__main__.py` runs scenarios one after the other, `scenarios/` says what each does, `bench.py` is what a
scenario is given, `figures.py` what it gives back.
"""

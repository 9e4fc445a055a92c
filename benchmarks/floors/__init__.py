"""Owns: the floors, each a program that does the least that could be called the same work.

A floor is started by `process.py`, answers questions on stdin with `answering.py`, and knows nothing of Styx but the
shape of its rows.
"""

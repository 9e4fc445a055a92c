"""Repeats: a file for each pass that has something of its own to remember between two rounds.

`supervise.py` does the repeating, `app.py` says how often. Uses services, is used by nobody else.
"""

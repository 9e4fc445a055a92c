"""Repeats: each file is one pass, `once`, over the services; `supervise.py` does the repeating."""

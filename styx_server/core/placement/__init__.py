"""Decides who runs where: what is free (`capacity`), whose turn it is (`backlog`), and the plan of a round (`plan`).

Pure like all of `core`, but mutable: a round must not copy a hundred thousand waiting tasks. Everything here is a cache
that the database can rebuild at any time.
"""

"""Rents machines: a file for each provider behind the one port of four verbs (`ports.py`).

Knows `core` and the provider's library, which is imported only when a provider is configured, and called off the event
loop. Decides nothing: which offer to rent and what a refusal means is `core/machines`.
"""

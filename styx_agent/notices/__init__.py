"""Hears that a provider takes this machine back: from a file, a metadata service, or the signal to end.

Looks and tells, in a thread of its own; what follows is `eviction.py`'s business. Stands on the standard library: it
must work when nothing else does. May not import gRPC. Next: `notice.py` for what is told, `watching.py` for the thread,
`sources.py` for who can be asked.
"""

"""The agent: holds a session with a server and runs things on this machine.

Two processes. The link (the modules of this package) speaks gRPC and may crash or be upgraded at will. The supervisor
(`supervisor/`) is small, standard library only, and the parent of every task. This package may import `styx` and never
`styx_server` or `styx_cli`; nothing is imported here, because the supervisor starts through this file too.

Next: `app.py` builds the link, `supervisor/main.py` the supervisor.
"""

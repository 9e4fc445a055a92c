"""A whole Styx on this machine: a server and agents as child processes, kept alive and stopped in order.

Starts `styx_server` and `styx_agent` as programs and never imports them. Read `stack.py` first, then `children.py`.
"""

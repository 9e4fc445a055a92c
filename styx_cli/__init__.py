"""The command line of Styx: a thin skin over the SDK.

It reads words, calls the SDK, prints answers. It may import `styx` and `click`, never the server or the agent:
`styx up` starts those as processes. Every command is a module of `commands/` and is loaded alone; gRPC is imported by
the commands that need it, while they run. Read `main.py` next, then `commands/run.py`.
"""

"""Machines that are processes of this computer: an agent, its supervisor, its tasks, and a keeper above them all.

Serves the providers `local` and `fake`. All that is known of a machine is in a folder of its own, so every server
process on this computer sees the same, and a machine outlives whoever rented it. Standard library only: a keeper is a
process for each machine and should be small. Start reading at `room.py` (rent, list, release), then `keeper.py` (one
machine from start to end), `folder.py` (what is on disk), `kin.py` (which processes belong to it).
"""

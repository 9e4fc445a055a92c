"""The control plane: decides, remembers, does, repeats, speaks, shows.

A line of code knows its room by its verb: what decides lives in `core`, what says SQL in `store`, what opens a
transaction around the two in `services`, what repeats that in `loops`, what names a protobuf message in `transport`,
what answers curl in `web`. `app.py` is the one place that knows them all. Imports point down only.
Start reading at `app.py`, or follow one task through `docs/tour.md`.
"""

VERSION = "0.1.0"

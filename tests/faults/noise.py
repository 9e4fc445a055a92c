"""A task that writes, for tests in which something else dies under it."""

from __future__ import annotations

# Writes what the seed says, to its output and to a record of its own, until a file is there.
NOISE = """
import os, random, sys, time
dice, record, go = random.Random(int(sys.argv[1])), open(sys.argv[2], "ab", buffering=0), sys.argv[3]
while not os.path.exists(go):
    piece = dice.randbytes(dice.randint(1, 3000))
    record.write(piece)
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    time.sleep(dice.random() * 0.01)
sys.exit(7)
"""

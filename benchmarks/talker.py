"""Prints lines of 100 bytes at a steady rate; each begins with when it was written, in nanoseconds of CLOCK_MONOTONIC.

A task: it starts by the hundred, so it imports next to nothing. It begins when somebody has opened its gate, which is a
FIFO, for writing.
"""

import os
import sys
import time


def main() -> None:
    """GATE LINES PER_SECOND."""
    gate, lines, per_second = sys.argv[1], *map(int, sys.argv[2:])
    os.open(gate, os.O_RDONLY)
    begin = time.monotonic_ns()
    for number in range(lines):
        due = begin + number * 1_000_000_000 // per_second
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        os.write(1, b"%-99s\n" % (b"%d line %d" % (time.monotonic_ns(), number)))


main()

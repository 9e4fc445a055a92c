"""Prints lines of 100 bytes, so many at once; each begins with when it was written, in nanoseconds of CLOCK_MONOTONIC.

A task: it starts by the hundred, so it imports next to nothing. It begins when somebody has opened its gate, which is a
FIFO, for writing.
"""

import os
import sys
import time


def main() -> None:
    """GATE WRITES LINES_PER_WRITE WRITES_PER_SECOND."""
    gate, writes, lines, per_second = sys.argv[1], *map(int, sys.argv[2:])
    os.open(gate, os.O_RDONLY)
    begin = time.monotonic_ns()
    for number in range(writes):
        due = begin + number * 1_000_000_000 // per_second
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        first = number * lines
        now = time.monotonic_ns()
        os.write(1, b"".join(b"%-99s\n" % (b"%d line %d" % (now, line)) for line in range(first, first + lines)))


main()

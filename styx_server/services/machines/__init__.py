"""Machines that are rented: wished for (`scaling`), asked for and given back (`renting`), looked for (`sweeping`).

Whatever is done to a row is in `instances`. Only the server that leads the scheduler rents, because it knows what
waits; that two believe it for a moment does no harm, since every call has its key and every step is compare-and-set.
"""

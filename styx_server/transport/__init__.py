"""Speaks gRPC: decode, one service call, encode. No ifs about the domain.

`codec.py` is the only file that has both messages and domain values in its head; `errors.py` turns exceptions into
statuses once; `auth.py` is the one door through which every call comes.
"""

"""Decides which machines to rent, keep and give back: what there is (`offer`), what is wanted (`needs`), which is best
(`book`, `choose`, `cover`), where not to try again (`failover`), how a machine lives (`instance`), what a pool may have
(`pool`).

Pure like all of `core`. Prices are whole millionths of a US dollar for an hour, so that sums are exact.
"""

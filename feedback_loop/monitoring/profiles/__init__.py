"""Profiles: mergeable, subtractable statistics of rows, from which metrics and drift of any window follow.

`layout` says what is counted, `fold` counts rows into a `tally` of `blocks`, and `profile` reads it, column by column
(`columns`).
"""

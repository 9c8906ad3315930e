"""Recorded tasks: enqueued in a transaction, run under a lease, ended once.

Both stores and both views pass the same tests. What must happen while a task runs is done by the
task itself, so that the order of events is fixed.
"""

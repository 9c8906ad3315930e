"""Recorded tasks: they are enqueued in a transaction, run under a lease, and end once.

Both stores and both views pass the same tests. If something must happen while a task runs, the task
itself does it, so that the order of events is fixed.
"""

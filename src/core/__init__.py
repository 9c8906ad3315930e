"""Values and decisions: everything that can be right or wrong about a task.

Nothing in here does anything. Time, ids, environment and answers from the outside come in as
arguments or through the protocols of `ports`; frozen values go out. Only attrs and the standard
library are imported, and no clock, randomness, logging or socket among it: a test walks the
imports and holds it to that.
"""

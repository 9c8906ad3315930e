"""Values and decisions: everything that can be right or wrong about a task.

Nothing in here does anything. Time, ids, environment and answers from the outside come in as
arguments; frozen values go out. Where a decision needs to know more, it says what, and is told.
`ports` names what the shells ask of the outside; nothing in here calls it. Only attrs and the
standard library are imported, and no clock, randomness, logging or socket among it. Tests walk the
imports and hold it to that.
"""

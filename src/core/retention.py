"""How long records are kept."""

import re
from collections.abc import Collection
from datetime import datetime, timedelta

from .records import State, TaskRecord

FINISHED = (State.SUCCESSFUL, State.FAILED, State.CANCELLED)
"""The states in which a record may be pruned: the final ones."""


def may_prune(record: TaskRecord, states: Collection[State], before: datetime) -> bool:
    """Whether a record in one of these states finished before that time."""
    return record.state in states and record.finished_at is not None and record.finished_at < before


_AGE = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """Read an age such as `30d`: seconds, minutes, hours, days or weeks.

    Raises:
        ValueError: it is none.
    """
    found = _AGE.fullmatch(text)
    if not found:
        raise ValueError(
            f"{text!r} is not an age: write a number and s, m, h, d or w, such as 30d."
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})

"""Retention: which records can be pruned, and ages such as `30d`."""

import re
from collections.abc import Collection
from datetime import datetime, timedelta

from .records import State, TaskRecord

FINISHED = (State.SUCCESSFUL, State.FAILED, State.CANCELLED)
"""The states in which a record can be pruned: the final states."""


def may_prune(record: TaskRecord, states: Collection[State], before: datetime) -> bool:
    """Return whether a record is in one of these states and finished before this time."""
    return record.state in states and record.finished_at is not None and record.finished_at < before


_AGE = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_LONGEST = timedelta(days=36_525)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """Return the duration for an age such as `30d`, in seconds, minutes, hours, days or weeks.

    Raises:
        ValueError: the text has another format, or the age is longer than 100 years.
    """
    found = _AGE.fullmatch(text)
    if not found:
        raise ValueError(
            f"{text!r} is not an age: write a number and s, m, h, d or w, such as 30d."
        )
    duration = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if duration > _LONGEST:
        raise ValueError(f"{text!r} is longer than 100 years. Write a shorter age, such as 30d.")
    return duration

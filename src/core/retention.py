"""How long records are kept."""

import re
from collections.abc import Collection
from datetime import datetime, timedelta

from .records import LONGEST_LIFE, State, TaskRecord

FINISHED = (State.SUCCESSFUL, State.FAILED, State.CANCELLED)
"""The states in which a record may be pruned. One that waits or runs never is, and a failed one
not while its queue may repeat it."""

RETRIED_FOR = LONGEST_LIFE
"""How long a failed record that is not final is kept: its queue may repeat the task."""


def may_prune(
    record: TaskRecord, states: Collection[State], *, before: datetime, given_up: datetime
) -> bool:
    """Whether a record in one of these states finished long enough ago, and nothing waits for it.

    Args:
        before: it finished before that time.
        given_up: the same for those that are not final, and may be repeated.
    """
    if record.state not in states or record.finished_at is None:
        return False
    if record.final:
        return record.finished_at < before
    # One whose delivery was turned away is sent again by the relay, however old it is.
    return record.finished_at < min(before, given_up) and not record.turned_away


_AGE = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """Read an age such as `30d`: seconds, minutes, hours, days or weeks.

    Raises:
        ValueError: it is none.
    """
    found = _AGE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no age: write a number and s, m, h, d or w, such as 30d.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})

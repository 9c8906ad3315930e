"""How long records are kept."""

import re
from datetime import timedelta

from .records import State

FINISHED = (State.SUCCESSFUL, State.FAILED, State.CANCELLED)
"""The states in which a record may be pruned. One that waits or runs never is, and a failed one
not while its queue may repeat it."""

RETRIED_FOR = timedelta(days=31)
"""How long a queue may repeat a failed task: that long it lives at most."""

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

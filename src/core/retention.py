"""How long records are kept."""

import re
from collections.abc import Collection
from datetime import datetime, timedelta

import attrs

from .lifecycle import LONGEST_LIFE
from .records import State, TaskRecord

FINISHED = (State.SUCCESSFUL, State.FAILED, State.CANCELLED)
"""The states in which a record may be pruned. One that waits or runs never is, and a failed one
not while its queue may repeat it."""


@attrs.frozen(kw_only=True)
class Cutoffs:
    """Which finished records may be pruned.

    Attributes:
        final: those that are final and finished before that time.
        failed: those that are not final and failed before that time: their queue has given up.
    """

    final: datetime
    failed: datetime


def cutoffs(older_than: timedelta, *, now: datetime) -> Cutoffs:
    """The cutoffs for records that finished longer ago than that."""
    final = now - older_than
    return Cutoffs(final=final, failed=min(final, now - LONGEST_LIFE))


def may_prune(record: TaskRecord, states: Collection[State], before: Cutoffs) -> bool:
    """Whether a record in one of these states finished long enough ago, and is not awaited."""
    if record.state not in states or record.finished_at is None:
        return False
    if record.final:
        return record.finished_at < before.final
    # One whose delivery was turned away is sent again by the relay, however old it is.
    return record.finished_at < before.failed and not record.redelivery.turned_away


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

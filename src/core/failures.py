"""Final failures: their groups, the selection of some of them, and the rate of replays.

A group contains the failures of one task with one class of the final error. A failure that was
replayed is not selected by default, because a person has handled it.
"""

import re
from datetime import datetime, timedelta

import attrs

from .records import LONGEST_NAME, State, TaskRecord


@attrs.frozen(kw_only=True)
class FailureGroup:
    """The final failures of one task with one class of error.

    Attributes:
        task_path: the path of the task.
        failure: the class path of the error, cut to the length that a store keeps.
        count: the number of failures.
        first, last: when the first and the last failure happened.
    """

    task_path: str
    failure: str
    count: int
    first: datetime
    last: datetime


@attrs.frozen(order=True)
class FailedTask:
    """The position of a failed task in its group. The oldest failure is the first."""

    finished_at: datetime
    task_id: str


@attrs.frozen(kw_only=True)
class FailureSelection:
    """A selection of failures of one group.

    Attributes:
        task_path, failure: the group.
        since, until: the times of the failures, both included; None for no limit.
        after: select only the failures after this one; None for all.
        replayed: whether to select failures that were replayed too.
    """

    task_path: str
    failure: str
    since: datetime | None = None
    until: datetime | None = None
    after: FailedTask | None = None
    replayed: bool = False


def selects(selection: FailureSelection, record: TaskRecord) -> bool:
    """Return whether the selection contains a record."""
    return (
        group_of(record) == (selection.task_path, selection.failure)
        and record.finished_at is not None
        and (selection.since is None or record.finished_at >= selection.since)
        and (selection.until is None or record.finished_at <= selection.until)
        and (
            selection.after is None
            or FailedTask(record.finished_at, record.task_id) > selection.after
        )
        and (selection.replayed or not record.replayed_as)
    )


def group_of(record: TaskRecord) -> tuple[str, str] | None:
    """Return the task and the error of a record's group; None if the task has not failed."""
    if record.state is not State.FAILED or not record.failure:
        return None
    return record.payload.task_path, record.failure[:LONGEST_NAME]


def is_class(class_path: str, name: str) -> bool:
    """Return whether `name` is the name of the class, with or without its module."""
    return class_path == name or class_path.endswith(f".{name}")


_RATE = re.compile(r"([1-9][0-9]{0,5})/([sm])", re.ASCII)
_PERIODS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1)}


def interval(rate: str) -> timedelta:
    """Return the time between two replays at a rate such as `20/s` or `30/m`.

    Raises:
        ValueError: the text has another format.
    """
    found = _RATE.fullmatch(rate)
    if not found:
        raise ValueError(f"{rate!r} is not a rate: write a number and /s or /m, such as 20/s.")
    return _PERIODS[found[2]] / int(found[1])

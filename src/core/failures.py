"""Final failures: their groups, which of them are chosen, and how fast they are replayed.

A failure belongs to the group of its task and of the class of its final error. A failure that was
replayed is left out unless it is asked for: somebody has taken care of it.
"""

import re
from datetime import datetime, timedelta

import attrs

from .records import LONGEST_NAME, State, TaskRecord


@attrs.frozen(kw_only=True)
class FailureGroup:
    """The final failures of one task with one class of error.

    Attributes:
        task_path: the task.
        failure: the class path of the error, cut to the length that a store keeps.
        count: how many there are.
        first, last: when the first and the last of them failed.
    """

    task_path: str
    failure: str
    count: int
    first: datetime
    last: datetime


@attrs.frozen(order=True)
class FailedTask:
    """A failed task by its place in its group: the oldest failure is the first."""

    finished_at: datetime
    task_id: str


@attrs.frozen(kw_only=True)
class FailureSelection:
    """Failures of one group.

    Attributes:
        task_path, failure: of the group.
        since, until: when they failed, both included.
        after: only those behind this one.
        replayed: whether those that were replayed are among them.
    """

    task_path: str
    failure: str
    since: datetime | None = None
    until: datetime | None = None
    after: FailedTask | None = None
    replayed: bool = False


def selects(selection: FailureSelection, record: TaskRecord) -> bool:
    """Whether a record is among the chosen failures."""
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
    """The task and the error of the group that a record belongs to; None if it has not failed."""
    if record.state is not State.FAILED or not record.failure:
        return None
    return record.payload.task_path, record.failure[:LONGEST_NAME]


def is_class(class_path: str, name: str) -> bool:
    """Whether `name` names the class: with its module, or without."""
    return class_path == name or class_path.endswith(f".{name}")


_RATE = re.compile(r"([1-9][0-9]{0,5})/([sm])", re.ASCII)
_PERIODS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1)}


def interval(rate: str) -> timedelta:
    """The time from one to the next at a rate such as `20/s` or `30/m`.

    Raises:
        ValueError: it is no rate.
    """
    found = _RATE.fullmatch(rate)
    if not found:
        raise ValueError(f"{rate!r} is not a rate: write a number and /s or /m, such as 20/s.")
    return _PERIODS[found[2]] / int(found[1])

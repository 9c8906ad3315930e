"""What a result store keeps about a task. `lifecycle` tells how it changes.

A record is made of values: the task as it travels, the attempts at it, the claim of who runs it,
and what the relay does for it. A store keeps each leaf of them on its own (`leaves`), and changes
only those that differ.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import Any

import attrs

from .errors import TaskCancelledError, WorkerLostError
from .payload import Json, TaskPayload

WORKER_LOST = f"{WorkerLostError.__module__}.{WorkerLostError.__qualname__}"
TASK_CANCELLED = f"{TaskCancelledError.__module__}.{TaskCancelledError.__qualname__}"

CANCELLED_TEXT = "The task was cancelled.\n"
"""What stands for a traceback where there is none."""

UNKNOWN_WORKER = "unknown"
"""The worker of an attempt that was made before there was a record."""

LONGEST_NAME = 255
"""Characters of a task's id, and of its path: every database can index so many."""


class State(Enum):
    """The state of a task: those of Django, and cancelled, which Django calls failed."""

    READY = "READY"
    RUNNING = "RUNNING"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@attrs.frozen
class AttemptError:
    """Why an attempt failed: the dotted path of the exception's class, and the traceback."""

    exception_class_path: str
    traceback: str


@attrs.frozen
class Attempt:
    """One attempt at a task. Its number is its place among the attempts, from 1.

    Attributes:
        worker: names who made it; `UNKNOWN_WORKER` where nobody knows.
        started_at, finished_at: None where nobody knows, or while it runs.
        error: why it failed; None if it did not, or runs.
    """

    worker: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: AttemptError | None = None


@attrs.frozen
class Claim:
    """Who may run the task, and write how the attempt ended.

    Attributes:
        token: of the latest claim; kept when the attempt is over, as a fence against others.
        expires_at: when the lease ends, unless it is renewed; None while nobody runs the task.
    """

    token: str = ""
    expires_at: datetime | None = None


@attrs.frozen
class Redelivery:
    """The Cloud Tasks that were made for a task.

    Attributes:
        count: how many were made beyond the first.
        sent: whether Cloud Tasks took the latest of them.
        turned_away: a delivery came while an attempt ran, and was sent away; it may have been the
            queue's last.
    """

    count: int = 0
    sent: bool = False
    turned_away: bool = False


@attrs.frozen
class RelayStatus:
    """What the relay does for a task.

    Attributes:
        at: when it looks at the task next; None exactly where the task is final.
        failures: creations that failed in a row.
        error: why the latest of those failed.
    """

    at: datetime | None = None
    failures: int = 0
    error: str = ""


@attrs.frozen(kw_only=True)
class TaskRecord:
    """A task as a store keeps it. Times are aware.

    Attributes:
        payload: the task as it travels; its arguments are what JSON made of them.
        run_after: when the task is due, if not at once.
        state: FAILED means that the latest attempt failed; the queue may bring another.
        final: nothing will run this task again.
        attempts: oldest first.
        finished_at: when the latest attempt ended, or the task was cancelled; None while one runs.
        cancel_requested: somebody wants the running attempt to stop.
    """

    payload: TaskPayload
    run_after: datetime | None = None
    state: State = State.READY
    final: bool = False
    attempts: tuple[Attempt, ...] = ()
    finished_at: datetime | None = None
    return_value: Json = None
    cancel_requested: bool = False
    claim: Claim = Claim()
    redelivery: Redelivery = Redelivery()
    relay: RelayStatus = RelayStatus()

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.payload.task_id

    @property
    def cloud_task_id(self) -> str:
        """The id of the Cloud Task that is to deliver this task now.

        A name stays taken for a day after its task is gone, so a Cloud Task that is made again
        needs another one. It follows from the record, so that two who make it make one.
        """
        count = self.redelivery.count
        return f"{self.task_id}-{count}" if count else self.task_id

    @property
    def started_at(self) -> datetime | None:
        """When the first attempt began that anyone knows of."""
        return next((a.started_at for a in self.attempts if a.started_at), None)

    @property
    def last_attempted_at(self) -> datetime | None:
        """When the latest attempt began."""
        return self.attempts[-1].started_at if self.attempts else None

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """One for each attempt."""
        return tuple(attempt.worker for attempt in self.attempts)

    @property
    def errors(self) -> tuple[AttemptError, ...]:
        """One for each failed attempt, and one for having been cancelled."""
        failed = tuple(attempt.error for attempt in self.attempts if attempt.error)
        if self.state is State.CANCELLED:
            return (*failed, AttemptError(TASK_CANCELLED, CANCELLED_TEXT))
        return failed

    def lease_holds(self, now: datetime) -> bool:
        """Whether somebody runs the task, as far as anyone can know."""
        expires_at = self.claim.expires_at
        return self.state is State.RUNNING and expires_at is not None and now < expires_at


_IMPLIED = "recorded"  # of a payload: a record says it by being there


def _paths(kind: type, prefix: str = "") -> Iterator[str]:
    for field in attrs.fields(kind):
        if field.name == _IMPLIED:
            continue
        nested = field.type if isinstance(field.type, type) and attrs.has(field.type) else None
        if nested is None:
            yield prefix + field.name
        else:
            yield from _paths(nested, f"{prefix}{field.name}.")


LEAVES: Mapping[str, Callable[[TaskRecord], Any]] = {
    path: attrgetter(path) for path in _paths(TaskRecord)
}
"""The paths of all leaves of a record, such as `claim.token`, with what reads each."""

FENCE = (
    "state",
    "claim.token",
    "claim.expires_at",
    "cancel_requested",
    "redelivery.count",
    "redelivery.turned_away",
)
"""The leaves that decisions rest on: a change goes through only where they are as they were.

The end of the lease is one of them: who takes a task from a runner whose lease is over must not do
so when the runner has renewed it meanwhile.
"""


def fence_of(record: TaskRecord) -> tuple[object, ...]:
    """The values of the fence."""
    return tuple(LEAVES[path](record) for path in FENCE)


def changes(before: TaskRecord, then: TaskRecord) -> dict[str, Any]:
    """The leaves that differ, by their paths, with their values in `then`."""
    return {path: read(then) for path, read in LEAVES.items() if read(then) != read(before)}


def with_leaves(record: TaskRecord, values: Mapping[str, Any]) -> TaskRecord:
    """The record with other values of those leaves."""
    own: dict[str, Any] = {}
    for path, value in values.items():
        outer, _, inner = path.partition(".")
        if inner:
            own[outer] = attrs.evolve(own.get(outer, getattr(record, outer)), **{inner: value})
        else:
            own[outer] = value
    return attrs.evolve(record, **own)


@attrs.frozen(kw_only=True)
class Backlog:
    """Records that Cloud Tasks did not take, or that could not be handled, and that wait.

    Attributes:
        count: how many there are.
        next_at: when the relay tries the first of them; None if there are none.
        error: why that one was not taken.
    """

    count: int
    next_at: datetime | None = None
    error: str = ""


@attrs.frozen
class UnreadableRecord:
    """A record that is damaged, or that a newer version wrote. `reason` names the task."""

    task_id: str
    reason: str

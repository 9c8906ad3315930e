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

from .errors import TaskCancelledError, TaskLostError, WorkerLostError
from .names import cloud_task_id
from .payload import Json, TaskPayload

WORKER_LOST = f"{WorkerLostError.__module__}.{WorkerLostError.__qualname__}"
TASK_LOST = f"{TaskLostError.__module__}.{TaskLostError.__qualname__}"
TASK_CANCELLED = f"{TaskCancelledError.__module__}.{TaskCancelledError.__qualname__}"

CANCELLED_TEXT = "The task was cancelled.\n"
"""What stands for a traceback where there is none."""

UNKNOWN_WORKER = "unknown"
"""The worker of an attempt that was made before there was a record."""

LONGEST_NAME = 255
"""Characters of a task's id, and of its path: every database can index so many."""


class State(Enum):
    """The state of a task: those of Django, and cancelled, which Django calls failed.

    READY also means that the task waits for another attempt. The last three are final.
    """

    READY = "READY"
    RUNNING = "RUNNING"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL_STATES = frozenset({State.SUCCESSFUL, State.FAILED, State.CANCELLED})


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
        note: a remark for people, such as that it took too long.
    """

    worker: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: AttemptError | None = None
    note: str = ""


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
        at: when the latest of them is due; None for the first, and for those that are due at once.
        sent: whether Cloud Tasks took the latest of them.
        turned_away: a delivery came while an attempt ran, and was sent away; it may have been the
            queue's last.
    """

    count: int = 0
    at: datetime | None = None
    sent: bool = False
    turned_away: bool = False


@attrs.frozen
class RelayStatus:
    """What the relay does for a task.

    Attributes:
        at: when it looks at the task next; None exactly where the state is final.
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
        state: FAILED means that the task will not be attempted again.
        attempts: oldest first. One that snoozed is not among them.
        finished_at: when the task reached a final state.
        lost: what is known of a task that Cloud Tasks lost; empty for all others.
        cancel_requested: somebody wants the running attempt to stop.
        replay_of: the id of the task that this one repeats, after that one had ended.
        replayed_as: the id of the latest task that repeats this one.
    """

    payload: TaskPayload
    run_after: datetime | None = None
    state: State = State.READY
    attempts: tuple[Attempt, ...] = ()
    finished_at: datetime | None = None
    return_value: Json = None
    lost: str = ""
    cancel_requested: bool = False
    replay_of: str = ""
    replayed_as: str = ""
    claim: Claim = Claim()
    redelivery: Redelivery = Redelivery()
    relay: RelayStatus = RelayStatus()

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.payload.task_id

    @property
    def final(self) -> bool:
        """Whether nothing will run this task again."""
        return self.state in FINAL_STATES

    @property
    def cloud_task_id(self) -> str:
        """The id of the Cloud Task that is to deliver this task now."""
        return cloud_task_id(self.task_id, self.redelivery.count)

    @property
    def due_at(self) -> datetime | None:
        """When that Cloud Task is due, if not at once."""
        return self.redelivery.at if self.redelivery.count else self.run_after

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
        """One for each failed attempt, and one for having been cancelled or lost."""
        failed = tuple(attempt.error for attempt in self.attempts if attempt.error)
        if self.state is State.CANCELLED:
            return (*failed, AttemptError(TASK_CANCELLED, CANCELLED_TEXT))
        if self.lost:
            return (*failed, AttemptError(TASK_LOST, self.lost))
        return failed

    @property
    def failure(self) -> str:
        """The class path of the error that a failed task ended with; empty for all others."""
        errors = self.errors if self.state is State.FAILED else ()
        return errors[-1].exception_class_path if errors else ""

    def lease_holds(self, now: datetime) -> bool:
        """Whether somebody runs the task, as far as anyone can know."""
        expires_at = self.claim.expires_at
        return self.state is State.RUNNING and expires_at is not None and now < expires_at


# Of a payload: a record says the one by being there, and what the other says in more detail.
_IMPLIED = {"recorded", "progress"}


def _paths(kind: type, prefix: str = "") -> Iterator[str]:
    for field in attrs.fields(kind):
        if field.name in _IMPLIED:
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
    "replayed_as",
)
"""The leaves that decisions rest on: a change goes through only where they are as they were.

The end of the lease is one of them: who takes a task from a runner whose lease is over must not do
so when the runner has renewed it meanwhile. So is the replay: of two that replay a task at once,
the second must not replace the first.
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

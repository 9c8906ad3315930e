"""The record of a task in a result store. `lifecycle` defines its transitions.

A record contains the payload, the attempts, the claim of the worker and the state of the relay. A
leaf is an attribute without further attributes, such as `claim.token` (see `LEAVES`). A store keeps
each leaf separately, and writes only the leaves that differ.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import Any

import attrs

from .errors import TaskCancelledError, TaskLostError, WorkerLostError
from .names import CloudTaskName, cloud_task_id
from .payload import Json, TaskPayload

WORKER_LOST = f"{WorkerLostError.__module__}.{WorkerLostError.__qualname__}"
TASK_LOST = f"{TaskLostError.__module__}.{TaskLostError.__qualname__}"
TASK_CANCELLED = f"{TaskCancelledError.__module__}.{TaskCancelledError.__qualname__}"

CANCELLED_TEXT = "The task was cancelled.\n"
"""The text in place of a traceback in the error of a cancelled task."""

UNKNOWN_WORKER = "unknown"
"""The worker of an attempt before the task had a record."""

LONGEST_NAME = 255
"""The maximum length of a task's id and of its path. Every database can index text of this size."""


class State(Enum):
    """The state of a task: the statuses of Django, and CANCELLED, which Django shows as FAILED.

    READY also means that the task waits for another attempt. The last three states are final.
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
    """One attempt at a task. Its number is its position among the attempts, from 1.

    Attributes:
        worker: the id of the worker; `UNKNOWN_WORKER` if it is not known.
        started_at, finished_at: when the attempt started and ended; None if it is not known.
            `finished_at` is also None while the attempt runs.
        error: why the attempt failed; None if it did not fail, or still runs.
        note: a remark for people, for example that the attempt took too long.
    """

    worker: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: AttemptError | None = None
    note: str = ""


@attrs.frozen
class Claim:
    """The claim of the worker that runs the task. Only its holder can store the end of the attempt.

    Attributes:
        token: the token of the latest claim. It stays after the attempt, as part of the fence.
        expires_at: when the lease ends, unless it is renewed; None while no worker runs the task.
    """

    token: str = ""
    expires_at: datetime | None = None


@attrs.frozen
class Redelivery:
    """The Cloud Tasks that were created for a task.

    Attributes:
        count: the number of Cloud Tasks after the first.
        at: when the latest Cloud Task is due; None for the first one, and if it is due at once.
        first: the number of the first one that may still run the task. The endpoint has replaced
            those before it.
        name: the full name of the one that was accepted or delivered last, so that it is found
            after a change of the settings; empty if it is not known.
        sent: whether Cloud Tasks accepted the latest one.
        turned_away: whether a delivery was refused because an attempt was running. It may have been
            the last delivery by the queue.
    """

    count: int = 0
    first: int = 0
    name: str = ""
    at: datetime | None = None
    sent: bool = False
    turned_away: bool = False

    @property
    def resent(self) -> int:
        """How many times the relay has sent the current attempt again."""
        return self.count - self.first


@attrs.frozen
class RelayStatus:
    """The state of the relay for a task.

    Attributes:
        at: when the relay next handles the task. It is None if and only if the state is final.
        failures: the number of consecutive failures to create the Cloud Task.
        error: the reason for the latest failure; empty without one.
    """

    at: datetime | None = None
    failures: int = 0
    error: str = ""


@attrs.frozen(kw_only=True)
class TaskRecord:
    """The record of a task. All times are aware.

    Attributes:
        payload: the payload, with the arguments as JSON represents them.
        run_after: when the task is due; None if it is due at once.
        state: the state. FAILED means that no further attempt follows.
        attempts: the attempts, oldest first. An attempt that raised `Snooze` is not among them.
        finished_at: when the task reached a final state.
        return_value: the value that the task returned.
        lost: a text about a task that Cloud Tasks lost; empty for other tasks.
        cancel_requested: whether the running attempt should stop.
        replay_of: the id of the ended task that this task repeats.
        replayed_as: the id of the latest task that repeats this task.
        claim: see `Claim`.
        redelivery: see `Redelivery`.
        relay: see `RelayStatus`.
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
        """The id of the task."""
        return self.payload.task_id

    @property
    def final(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL_STATES

    @property
    def cloud_task_id(self) -> str:
        """The id of the latest Cloud Task for this task."""
        known = self.cloud_task_name
        if known and self.redelivery.sent:
            return known.cloud_task_id
        return cloud_task_id(self.task_id, self.redelivery.count)

    @property
    def cloud_task_name(self) -> CloudTaskName | None:
        """The name of the Cloud Task that was accepted or delivered last; None if not known."""
        return CloudTaskName.parse(self.redelivery.name)

    @property
    def due_at(self) -> datetime | None:
        """When the latest Cloud Task is due; None if it is due at once."""
        return self.redelivery.at if self.redelivery.count else self.run_after

    @property
    def started_at(self) -> datetime | None:
        """When the first attempt with a known start began; None without one."""
        return next((a.started_at for a in self.attempts if a.started_at), None)

    @property
    def last_attempted_at(self) -> datetime | None:
        """When the latest attempt began; None without an attempt, or if it is not known."""
        return self.attempts[-1].started_at if self.attempts else None

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """The ids of the workers, one for each attempt."""
        return tuple(attempt.worker for attempt in self.attempts)

    @property
    def errors(self) -> tuple[AttemptError, ...]:
        """The errors: one for each failed attempt, and one for a cancelled or lost task."""
        failed = tuple(attempt.error for attempt in self.attempts if attempt.error)
        if self.state is State.CANCELLED:
            return (*failed, AttemptError(TASK_CANCELLED, CANCELLED_TEXT))
        if self.lost:
            return (*failed, AttemptError(TASK_LOST, self.lost))
        return failed

    @property
    def failure(self) -> str:
        """The class path of the last error of a failed task; empty for other tasks."""
        errors = self.errors if self.state is State.FAILED else ()
        return errors[-1].exception_class_path if errors else ""

    def lease_holds(self, now: datetime) -> bool:
        """Return whether the task runs under a lease that has not ended."""
        expires_at = self.claim.expires_at
        return self.state is State.RUNNING and expires_at is not None and now < expires_at


# These attributes of a payload are not stored. `recorded` is always true for a record. The record
# contains the data of `progress` in more detail.
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
"""The paths of all leaves of a record, such as `claim.token`, with a function that reads each."""

FENCE = (
    "state",
    "claim.token",
    "claim.expires_at",
    "cancel_requested",
    "redelivery.count",
    "redelivery.turned_away",
    "replayed_as",
)
"""The leaves that decisions depend on. A change is written only if they have not changed.

The end of the lease is one of them. Otherwise a worker could take over a task whose lease has been
renewed since the decision.
"""


def fence_of(record: TaskRecord) -> tuple[object, ...]:
    """Return the values of the leaves in `FENCE`."""
    return tuple(LEAVES[path](record) for path in FENCE)


def changes(before: TaskRecord, then: TaskRecord) -> dict[str, Any]:
    """Return the values in `then` of the leaves that differ, by path."""
    return {path: read(then) for path, read in LEAVES.items() if read(then) != read(before)}


def with_leaves(record: TaskRecord, values: Mapping[str, Any]) -> TaskRecord:
    """Return the record with new values for some leaves.

    Args:
        record: the record.
        values: the new values, by the path of the leaf.
    """
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
    """The records that the relay could not send or handle, and that it will try again.

    Attributes:
        count: the number of these records.
        next_at: when the relay tries the first of them; None if there are none.
        error: why the first of them failed.
    """

    count: int
    next_at: datetime | None = None
    error: str = ""


@attrs.frozen
class UnreadableRecord:
    """A record that is damaged, or that a newer version wrote.

    Attributes:
        task_id: the id of the task.
        reason: why the record cannot be read, with the id of the task.
    """

    task_id: str
    reason: str

"""What a result store keeps about a task, and how it changes along the task's life.

A task waits, runs under a lease, and ends. Whoever wants to run it claims it: the claim puts a
fresh token on the record, and from then on only the holder of that token can renew the lease or
write how the attempt ended. A store carries out each change as one comparison and swap
(`ResultStore.replace`): it goes through only where what the decision was made on, the record's
fence, still is as it was. So of two that decide at once one wins, and the other decides anew.

A lease that ran out is a runner that died, or was cut off; the next delivery takes over.

One invariant holds after every change: a record that is not final has a `relay_at`, the time when
the relay looks at it next, whatever has become of its deliveries meanwhile. So a task that is not
over, and that nobody runs, is never forgotten. `outbox.relay` decides what a look leads to.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import attrs

from .errors import TaskCancelledError, WorkerLostError
from .payload import Json, TaskPayload
from .retries import RetryPolicy

WORKER_LOST = f"{WorkerLostError.__module__}.{WorkerLostError.__qualname__}"
TASK_CANCELLED = f"{TaskCancelledError.__module__}.{TaskCancelledError.__qualname__}"

CANCELLED_TEXT = "The task was cancelled.\n"
"""What stands for a traceback where there is none."""

LONGEST_LIFE = timedelta(days=31)
"""How long Cloud Tasks keeps a task, and so how long its queue may repeat a failed one."""

LONGEST_NAME = 255
"""Characters of a task's id, and of its path: every database can index so many."""

LONGEST_TRACEBACK = 10_000
"""Characters that are kept of one traceback: a record is written whole at each attempt."""

_MOST_UNKNOWN = 100  # a header says it, and may say anything
_AGAIN = RetryPolicy(min_backoff=60.0, max_backoff=3600.0, max_doublings=16)


def again_after(dispatch: int) -> timedelta:
    """How long to leave a task to its queue before the Cloud Task of that number is made."""
    return timedelta(seconds=_AGAIN.backoff(dispatch)) if dispatch else timedelta()


class State(Enum):
    """Where a task stands. Those of Django, and cancelled, which Django calls failed."""

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


@attrs.frozen(kw_only=True)
class TaskRecord:
    """A task as a store keeps it. Times are aware.

    Attributes:
        args, kwargs: what JSON made of the arguments.
        run_after: when the task is due, if not at once.
        state: FAILED means that the latest attempt failed; the queue may bring another.
        final: nothing will run this task again.
        started_at: of the first attempt; `last_attempted_at` of the latest.
        finished_at: of the latest attempt, unless one runs.
        errors: one for each failed attempt, oldest first.
        worker_ids: one for each attempt, oldest first.
        token: of the latest claim; kept when the attempt is over, as a fence against others.
        lease_expires_at: until when the runner's claim holds, while one runs.
        cancel_requested: somebody wants the running attempt to stop.
        turned_away: a delivery came while this attempt ran, and was sent away; it may have been
            the queue's last.
        relay_at: when the relay looks at the task next; None exactly where the task is final.
        relay_failures: creations that failed in a row, and `relay_error`, why the latest did.
        dispatch: how many Cloud Tasks were made anew for this task, beyond the first.
        sent: whether Cloud Tasks took the latest of them.
    """

    task_id: str
    task_path: str
    queue_name: str
    backend: str
    priority: int
    takes_context: bool
    args: Sequence[object]
    kwargs: Mapping[str, object]
    enqueued_at: datetime | None
    run_after: datetime | None = None
    state: State = State.READY
    final: bool = False
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    finished_at: datetime | None = None
    return_value: Json = None
    errors: tuple[AttemptError, ...] = ()
    worker_ids: tuple[str, ...] = ()
    token: str = ""
    lease_expires_at: datetime | None = None
    cancel_requested: bool = False
    turned_away: bool = False
    relay_at: datetime | None = None
    relay_failures: int = 0
    relay_error: str = ""
    dispatch: int = 0
    sent: bool = False

    @classmethod
    def of(
        cls,
        payload: TaskPayload,
        *,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        relay_at: datetime,
        run_after: datetime | None = None,
        sent: bool = False,
        earlier_attempts: int = 0,
    ) -> "TaskRecord":
        """The record of a task that nobody has claimed.

        Args:
            sent: whether Cloud Tasks has the task already.
            earlier_attempts: made before there was a record, by workers that nobody knows.
        """
        return cls(
            task_id=payload.task_id,
            task_path=payload.task_path,
            queue_name=payload.queue_name,
            backend=payload.backend,
            priority=payload.priority,
            takes_context=payload.takes_context,
            args=args,
            kwargs=kwargs,
            enqueued_at=payload.enqueued_at,
            run_after=run_after,
            relay_at=relay_at,
            sent=sent,
            worker_ids=("unknown",) * min(earlier_attempts, _MOST_UNKNOWN),
        )

    @property
    def payload(self) -> TaskPayload:
        """The task as it travels."""
        return TaskPayload(
            task_id=self.task_id,
            task_path=self.task_path,
            args=self.args,
            kwargs=self.kwargs,
            queue_name=self.queue_name,
            backend=self.backend,
            priority=self.priority,
            takes_context=self.takes_context,
            enqueued_at=self.enqueued_at,
            recorded=True,
        )

    @property
    def cloud_task_id(self) -> str:
        """The id of the Cloud Task that is to deliver this task now.

        A name stays taken for a day after its task is gone, so a Cloud Task made anew needs
        another one. It follows from the record, so that two who make it make one.
        """
        return f"{self.task_id}-{self.dispatch}" if self.dispatch else self.task_id

    @property
    def fence(self) -> "Fence":
        """What a decision rests on: it is carried out only where this is as it was."""
        return Fence(
            state=self.state,
            token=self.token,
            turned_away=self.turned_away,
            cancel_requested=self.cancel_requested,
            dispatch=self.dispatch,
            lease_expires_at=self.lease_expires_at,
        )

    def changes_to(self, then: "TaskRecord") -> dict[str, Any]:
        """What differs in `then`, by the names of attributes."""
        return {
            field.name: getattr(then, field.name)
            for field in attrs.fields(TaskRecord)
            if getattr(then, field.name) != getattr(self, field.name)
        }

    def lease_holds(self, now: datetime) -> bool:
        """Whether somebody runs the task, as far as anyone can know."""
        return (
            self.state is State.RUNNING
            and self.lease_expires_at is not None
            and now < self.lease_expires_at
        )

    @property
    def lost_at(self) -> datetime | None:
        """When the relay is to have the task delivered anew, should its runner have died by then.

        At the end of the lease; later and later for a task that kills one runner after another.
        """
        if self.lease_expires_at is None:
            return None
        return self.lease_expires_at + again_after(self.dispatch)


@attrs.frozen(kw_only=True)
class Fence:
    """The parts of a record that decisions rest on, by the names that they have there.

    The end of the lease is one of them: who takes a task from a runner whose lease is over must
    not do so when the runner has renewed it meanwhile.
    """

    state: State
    token: str
    turned_away: bool
    cancel_requested: bool
    dispatch: int
    lease_expires_at: datetime | None


@attrs.frozen(kw_only=True)
class Refused:
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
class Unreadable:
    """A record that is damaged, or that a newer version wrote. `reason` names the task."""

    task_id: str
    reason: str


@attrs.frozen
class Claimed:
    """The task may run, once `record` is stored."""

    record: TaskRecord


@attrs.frozen
class Taken:
    """Somebody runs the task until `until` at least.

    `record` remembers it: the delivery that is sent away now may have been the queue's last, and
    if the attempt that runs fails, the task must not be lost.
    """

    record: TaskRecord
    until: datetime


@attrs.frozen
class Closed:
    """The task must not run (again). `record` is to be stored if it differs."""

    record: TaskRecord


def claim(
    record: TaskRecord, *, now: datetime, token: str, worker: str, lease: timedelta
) -> Claimed | Taken | Closed:
    """Decide whether a delivery may run its task.

    Args:
        token: fresh, and nobody else's.
        worker: names who runs it.
        lease: for how long, unless it is renewed.
    """
    if record.final:
        return Closed(record)
    if record.lease_holds(now) and record.lease_expires_at:
        return Taken(attrs.evolve(record, turned_away=True), record.lease_expires_at)
    errors = record.errors
    if record.state is State.RUNNING:
        errors = (*errors, _worker_lost(record))
    if record.cancel_requested:
        return Closed(withdrawn(record, now))
    claimed = attrs.evolve(
        record,
        state=State.RUNNING,
        started_at=record.started_at or now,
        last_attempted_at=now,
        finished_at=None,
        errors=errors,
        worker_ids=(*record.worker_ids, worker),
        token=token,
        lease_expires_at=now + lease,
        turned_away=False,
        relay_failures=0,
        relay_error="",
        sent=True,
    )
    return Claimed(attrs.evolve(claimed, relay_at=claimed.lost_at))


def renewed(record: TaskRecord, *, now: datetime, lease: timedelta) -> TaskRecord:
    """The record of a task that still runs."""
    return attrs.evolve(record, lease_expires_at=now + lease)


def succeeded(record: TaskRecord, value: Json, *, now: datetime) -> TaskRecord:
    """The record of a task that returned `value`."""
    return attrs.evolve(
        record,
        state=State.SUCCESSFUL,
        final=True,
        finished_at=now,
        return_value=value,
        lease_expires_at=None,
        relay_at=None,
    )


def failed(
    record: TaskRecord, error: AttemptError, *, now: datetime, final: bool = False
) -> TaskRecord:
    """The record of a task whose attempt failed; one that was to stop is cancelled by that.

    Args:
        final: whether the task must not be repeated.
    """
    # What was sent away meanwhile may have been the last delivery. If it was not, the queue comes
    # first: another claim takes this back.
    wait = again_after(record.dispatch + 1) if record.turned_away else LONGEST_LIFE
    ended = attrs.evolve(
        record,
        state=State.FAILED,
        final=final,
        finished_at=now,
        errors=(*record.errors, _shortened(error)),
        lease_expires_at=None,
        relay_at=None if final else now + wait,
    )
    return _cancelled(ended, now) if record.cancel_requested else ended


@attrs.frozen
class Withdrawn:
    """The task will not run, once `record` is stored; its Cloud Task can be deleted."""

    record: TaskRecord


@attrs.frozen
class Requested:
    """The task runs, and is told, once `record` is stored."""

    record: TaskRecord


@attrs.frozen
class TooLate:
    """The task has ended."""


def cancel(record: TaskRecord, *, now: datetime) -> Withdrawn | Requested | TooLate:
    """Decide what cancelling a task means now."""
    if record.final:
        return TooLate()
    if record.lease_holds(now):
        return Requested(attrs.evolve(record, cancel_requested=True))
    return Withdrawn(withdrawn(record, now))


def withdrawn(record: TaskRecord, now: datetime) -> TaskRecord:
    """The record of a task that nobody runs, and that is cancelled now."""
    if record.state is State.RUNNING:
        record = attrs.evolve(record, errors=(*record.errors, _worker_lost(record)))
    return _cancelled(record, now)


def _cancelled(record: TaskRecord, now: datetime) -> TaskRecord:
    error = AttemptError(TASK_CANCELLED, CANCELLED_TEXT)
    return attrs.evolve(
        record,
        state=State.CANCELLED,
        final=True,
        finished_at=now,
        errors=(*record.errors, error),
        lease_expires_at=None,
        relay_at=None,
    )


def _worker_lost(record: TaskRecord) -> AttemptError:
    worker = record.worker_ids[-1] if record.worker_ids else "unknown"
    return AttemptError(
        WORKER_LOST,
        f"The worker {worker} began at {record.last_attempted_at}, and its lease ran out at "
        f"{record.lease_expires_at} without a word: it was killed, or cut off.\n",
    )


def _shortened(error: AttemptError) -> AttemptError:
    """Beginning and end of a long traceback: where it came from, and what it was."""
    text = error.traceback
    if len(text) <= LONGEST_TRACEBACK:
        return error
    half = LONGEST_TRACEBACK // 2
    left_out = len(text) - 2 * half
    return attrs.evolve(
        error, traceback=f"{text[:half]}\n... {left_out:,} characters ...\n{text[-half:]}"
    )

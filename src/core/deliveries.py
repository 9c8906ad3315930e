"""A delivery: its headers, and the decision on a delivery of a recorded task."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

import attrs

from .lifecycle import Claimed, Ended, Exhausted, Outdated, TurnedAway, adopted, claim
from .names import CloudTaskName, cloud_task_number, is_queue_id, is_task_id
from .outcomes import AttemptsUsedUp, BadPayload, Busy, Duplicate, Outcome, Superseded, Unrecorded
from .payload import Progress, TaskPayload
from .records import LONGEST_NAME, TaskRecord

# No queue reaches this retry count in the 31 days that a task exists. A larger count would only
# make the list of workers longer.
_HIGHEST_RETRY_COUNT = 99_999
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?", re.ASCII)
_SMALL = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen(kw_only=True)
class Delivery:
    """One dispatch of a task. A request by hand has the default values.

    Attributes:
        retry_count: the number of earlier dispatches of this Cloud Task.
        cloud_task_id: the id of the Cloud Task; empty if it is not known.
        queue: the id of the queue; empty if it is not known.
        eta: when the dispatch was due, by the clock of Cloud Tasks; None if it is not known.
    """

    retry_count: int = 0
    cloud_task_id: str = ""
    queue: str = ""
    eta: datetime | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, object]) -> Self:
        """Read the headers `X-CloudTasks-*` from a WSGI environment or Django's `request.META`.

        A header with an invalid value counts as missing.
        """
        count = str(environ.get("HTTP_X_CLOUDTASKS_TASKRETRYCOUNT", ""))
        name = str(environ.get("HTTP_X_CLOUDTASKS_TASKNAME", ""))
        queue = str(environ.get("HTTP_X_CLOUDTASKS_QUEUENAME", ""))
        return cls(
            retry_count=(min(int(count), _HIGHEST_RETRY_COUNT) if _COUNT.fullmatch(count) else 0),
            cloud_task_id=name if is_task_id(name) else "",
            queue=queue if is_queue_id(queue) else "",
            eta=_eta(str(environ.get("HTTP_X_CLOUDTASKS_TASKETA", ""))),
        )

    @property
    def name(self) -> CloudTaskName | None:
        """The name of the Cloud Task, without project and location; None if it is not known."""
        if not (self.queue and self.cloud_task_id):
            return None
        return CloudTaskName(self.queue, self.cloud_task_id)

    def ahead_of(self, now: datetime) -> timedelta:
        """Return by how much the clock of Cloud Tasks is at least ahead of `now`.

        Times for Cloud Tasks are computed with its clock, because the clock of an emulator can be
        years ahead. A difference of up to a second counts as none.
        """
        ahead = timedelta() if self.eta is None else self.eta - now
        return ahead if ahead > _SMALL else timedelta()

    def earlier_attempts(self, progress: Progress) -> int:
        """Return the number of earlier attempts at a task without a record.

        It is computed from the retry count. The execution count is not suitable, because production
        does not count responses with 5xx and timeouts in it.
        """
        return min(progress.attempts + self.retry_count, _HIGHEST_RETRY_COUNT)


def _eta(text: str) -> datetime | None:
    """Return the time in a header with seconds since 1970; None if it has another format."""
    if not _SECONDS.fullmatch(text):
        return None
    return _EPOCH + timedelta(seconds=float(text))


@attrs.frozen
class Adopt:
    """The task has no record. The caller must add this one, and call `receive` again."""

    record: TaskRecord


@attrs.frozen
class Run:
    """The task runs under the claim in `record`. The caller must store `record` first."""

    record: TaskRecord


@attrs.frozen
class Decline:
    """The task must not run now.

    Attributes:
        outcome: how the request ends.
        record: the record to store first, if it differs from the current one; None without one.
    """

    outcome: Outcome
    record: TaskRecord | None = None


def decide_delivery(
    payload: TaskPayload,
    record: TaskRecord | None,
    *,
    delivery: Delivery,
    now: datetime,
    token: str,
    worker: str,
    lease: timedelta,
    max_attempts: int,
) -> Adopt | Run | Decline:
    """Decide on a delivery of a task whose backend keeps results.

    Args:
        payload: the payload of the delivery.
        record: the record of the task; None without one.
        delivery: the headers of the delivery.
        now: the current time.
        token: a new token for the claim.
        worker: the id of the worker that makes the claim.
        lease: the duration of the lease.
        max_attempts: the maximum number of attempts of the task.
    """
    if record is None:
        return _without_record(payload, delivery, now)
    known = record.payload
    if (known.task_path, known.backend) != (payload.task_path, payload.backend):
        return Decline(BadPayload(("task_id belongs to another task",)))
    decision = claim(
        record,
        now=now,
        token=token,
        worker=worker,
        lease=lease,
        max_attempts=max_attempts,
        number=cloud_task_number(delivery.cloud_task_id, payload.task_id),
        name=delivery.name,
    )
    match decision:
        case Claimed(then):
            return Run(then)
        case TurnedAway(then, until):
            return Decline(Busy(payload.task_id, (until - now).total_seconds()), then)
        case Outdated(then):
            return Decline(Superseded(payload.task_id), then)
        case Exhausted(then):
            return Decline(AttemptsUsedUp(payload.task_id, len(then.attempts)), then)
        case Ended(then):
            return Decline(Duplicate(payload.task_id, then.state), then)


def _without_record(payload: TaskPayload, delivery: Delivery, now: datetime) -> Adopt | Decline:
    if payload.recorded:
        return Decline(Unrecorded(payload.task_id))
    if not is_task_id(payload.task_id) or len(payload.task_id) > LONGEST_NAME:
        return Decline(BadPayload(("task_id cannot be the id of a Cloud Task",)))
    # The task was enqueued before RESULTS was set, or by another program.
    earlier = delivery.earlier_attempts(payload.progress)
    return Adopt(adopted(payload, earlier_attempts=earlier, now=now))

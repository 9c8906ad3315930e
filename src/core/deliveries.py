"""A delivery: what its headers say, and what it means for a task that is recorded."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

import attrs

from .lifecycle import Claimed, Ended, Exhausted, Outdated, TurnedAway, adopted, claim
from .names import cloud_task_number, is_queue_id, is_task_id
from .outcomes import AttemptsUsedUp, BadPayload, Busy, Duplicate, Outcome, Superseded, Unrecorded
from .payload import Progress, TaskPayload
from .records import LONGEST_NAME, TaskRecord

# A retry count that no queue reaches in the 31 days a task lives is not worth a longer list of
# workers: the number of the attempt stays there.
_HIGHEST_RETRY_COUNT = 99_999
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen(kw_only=True)
class Delivery:
    """One dispatch of a task.

    Attributes:
        retry_count: dispatches of this Cloud Task before this one.
        cloud_task_id: of the Cloud Task; empty where a person made the request.
        queue: id of its queue; likewise.
        eta: when it was due, by the clock of Cloud Tasks; None where a person made the request.
    """

    retry_count: int = 0
    cloud_task_id: str = ""
    queue: str = ""
    eta: datetime | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, object]) -> Self:
        """Read `X-CloudTasks-*` from where CGI, WSGI and Django's `request.META` keep headers.

        Headers that are absent or make no sense count as absent: a delivery by hand has none.
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

    def earlier_attempts(self, progress: Progress) -> int:
        """How many attempts were made before this one, by what is known without a record.

        From the retry count: the execution count leaves out 5xx answers and time-outs, as
        production was seen to do.
        """
        return min(progress.attempts + self.retry_count, _HIGHEST_RETRY_COUNT)


def _eta(text: str) -> datetime | None:
    """The time in a header that has seconds since 1970, with a fraction or not."""
    if not _SECONDS.fullmatch(text):
        return None
    return _EPOCH + timedelta(seconds=float(text))


@attrs.frozen
class Adopt:
    """There is no record: add this one, and decide again."""

    record: TaskRecord


@attrs.frozen
class Run:
    """The task is to run under the claim of `record`, once that is stored."""

    record: TaskRecord


@attrs.frozen
class Decline:
    """The task must not run now.

    Attributes:
        outcome: how the request ends.
        record: to be stored first, where it is not the one that was seen; None if there is none.
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
    """Decide what a delivery means for a task that is to be recorded.

    Args:
        record: of the task, if there is one.
        token, worker, lease: of the claim, should the task run.
        max_attempts: of the task.
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
    # Enqueued before results were kept, or by someone else.
    earlier = delivery.earlier_attempts(payload.progress)
    return Adopt(adopted(payload, earlier_attempts=earlier, now=now))

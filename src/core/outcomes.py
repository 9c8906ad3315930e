"""The outcomes of a request to execute a task, and the response to each of them.

Cloud Tasks deletes a Cloud Task after a response with 200-299. After any other response it repeats
the Cloud Task, by the retry settings of the Cloud Task or of its queue. So the status of a response
also decides whether the task is delivered again.
"""

import math
from collections.abc import Mapping
from http import HTTPStatus

import attrs

from .payload import Json
from .records import State


@attrs.frozen
class Succeeded:
    """The task returned."""

    task_id: str


@attrs.frozen
class AttemptFailed:
    """The attempt failed, and another attempt follows.

    Attributes:
        task_id: the id of the task.
        error: `Class: message` of the exception.
        traceback: the traceback of the exception.
        by_queue: whether the queue delivers the next attempt. Otherwise another Cloud Task does. It
            already exists, or the record tells the relay to create it.
    """

    task_id: str
    error: str
    traceback: str
    by_queue: bool = True


@attrs.frozen
class Failed:
    """The task has failed, and no further attempt follows."""

    task_id: str
    error: str
    traceback: str


@attrs.frozen
class Snoozed:
    """The task raised `Snooze`. Another Cloud Task delivers it later."""

    task_id: str


@attrs.frozen
class NotDue:
    """The task is not due yet, because Cloud Tasks cannot schedule so far ahead.

    Another Cloud Task delivers it later.
    """

    task_id: str


@attrs.frozen
class NextNotCreated:
    """Another Cloud Task is needed for the task, but Cloud Tasks did not accept it."""

    task_id: str


@attrs.frozen
class AttemptsUsedUp:
    """The task has used up its attempts, and the worker of the last one died."""

    task_id: str
    attempts: int


@attrs.frozen
class Superseded:
    """This Cloud Task is out of date. A later one delivers the next attempt of the same task."""

    task_id: str


@attrs.frozen
class Duplicate:
    """The task had already ended before this delivery, with this state."""

    task_id: str
    state: State


@attrs.frozen
class Cancelled:
    """The attempt failed after the cancellation of the task was requested, so it is cancelled."""

    task_id: str


@attrs.frozen
class Busy:
    """Another attempt is running. Its lease ends in `seconds`, unless it is renewed."""

    task_id: str
    seconds: float


@attrs.frozen
class LeaseLost:
    """The attempt is over, but another worker has taken over the task. Its end is not recorded."""

    task_id: str


@attrs.frozen
class Unrecorded:
    """The task was recorded when it was enqueued, but its record no longer exists."""

    task_id: str


@attrs.frozen
class EndNotRecorded:
    """The attempt is over, but its end could not be stored before the lease ended."""

    task_id: str


@attrs.frozen
class Unreadable:
    """The record of the task cannot be read."""

    task_id: str


@attrs.frozen
class Relayed:
    """The result of a run of the relay.

    Attributes:
        sent: the number of tasks that Cloud Tasks accepted.
        failed: the number of tasks that could not be sent or handled.
        more: whether more tasks may be due while Cloud Tasks answers.
    """

    sent: int
    failed: int
    more: bool = False

    def and_then(self, later: "Relayed") -> "Relayed":
        """Return the sum of two runs."""
        return Relayed(self.sent + later.sent, self.failed + later.failed, later.more)


@attrs.frozen
class Scheduled:
    """The result of a call of the endpoint for schedules.

    Attributes:
        enqueued: the number of schedules whose task was enqueued, or had been enqueued before.
        failed: the number of schedules whose task could not be enqueued.
    """

    enqueued: int
    failed: int


@attrs.frozen
class UnknownSchedule:
    """No backend that the caller may use has a schedule with this name."""

    name: str


@attrs.frozen
class BadPayload:
    """The body of the request does not contain a task."""

    faults: tuple[str, ...]


@attrs.frozen
class UnknownTask:
    """This process does not know the task.

    The delivery is repeated, because another version of the site may know it during a deployment.
    """

    task_id: str
    reason: str


@attrs.frozen
class Unauthenticated:
    """The request contains no valid proof of its sender."""


@attrs.frozen
class Forbidden:
    """The request contains a valid proof, but its sender has no permission to run the task."""


@attrs.frozen
class WrongMethod:
    """The method of the request is not POST."""


type Refused = BadPayload | UnknownTask | Unauthenticated | Forbidden | WrongMethod

type Outcome = (
    Succeeded
    | AttemptFailed
    | Failed
    | Snoozed
    | NotDue
    | NextNotCreated
    | AttemptsUsedUp
    | Superseded
    | Duplicate
    | Cancelled
    | Busy
    | LeaseLost
    | Unrecorded
    | Unreadable
    | EndNotRecorded
    | Relayed
    | Scheduled
    | UnknownSchedule
    | Refused
)


@attrs.frozen
class Response:
    """An HTTP response: status, JSON document and additional headers."""

    status: HTTPStatus
    document: dict[str, Json]
    headers: Mapping[str, str] = attrs.field(factory=dict)


def response_to(outcome: Outcome, *, debug: bool) -> Response:
    """Return the response to a request.

    A response to a caller without valid proof contains nothing about tasks.

    Args:
        outcome: how the request ended.
        debug: the setting DEBUG. Only with DEBUG the response contains a traceback.
    """
    match outcome:
        case Succeeded(task_id):
            return Response(HTTPStatus.OK, {"status": "success", "task_id": task_id})
        case AttemptFailed() | Failed() | AttemptsUsedUp():
            return _fail(outcome, debug=debug)
        case Snoozed(task_id) | NotDue(task_id):
            return Response(HTTPStatus.OK, {"status": "snoozed", "task_id": task_id})
        case Superseded(task_id):
            return Response(HTTPStatus.OK, {"status": "superseded", "task_id": task_id})
        case Duplicate(task_id, state):
            return Response(
                HTTPStatus.OK, {"status": "duplicate", "task_id": task_id, "ended": state.value}
            )
        case Cancelled(task_id):
            return Response(HTTPStatus.OK, {"status": "cancelled", "task_id": task_id})
        case Relayed(sent, failed, _):
            status = HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK
            word = "error" if failed else "success"
            return Response(status, {"status": word, "sent": sent, "failed": failed})
        case Scheduled(enqueued, failed):
            status = HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK
            word = "error" if failed else "success"
            return Response(status, {"status": word, "enqueued": enqueued, "failed": failed})
        case UnknownSchedule(name):
            return Response(
                HTTPStatus.NOT_FOUND,
                {"status": "error", "error": "unknown schedule", "name": name},
            )
        case (
            Busy() | LeaseLost() | Unrecorded() | Unreadable() | EndNotRecorded() | NextNotCreated()
        ):
            return _repeat(outcome)
        case _:
            return _refuse(outcome)


def _fail(outcome: AttemptFailed | Failed | AttemptsUsedUp, *, debug: bool) -> Response:
    """Return the response to a failed attempt: 500 only if the queue delivers the next one."""
    status, document = HTTPStatus.OK, {"status": "failed", "task_id": outcome.task_id}
    match outcome:
        case AttemptFailed(_, error, traceback, by_queue):
            document["status"] = "error"
            status = HTTPStatus.INTERNAL_SERVER_ERROR if by_queue else HTTPStatus.OK
        case Failed(_, error, traceback):
            pass
        case AttemptsUsedUp(_, attempts):
            error, traceback = f"The workers of all {attempts} attempts died.", ""
    document["error"] = error
    if debug and traceback:
        document["traceback"] = traceback
    return Response(status, {**document})


def _repeat(
    outcome: Busy | LeaseLost | Unrecorded | Unreadable | EndNotRecorded | NextNotCreated,
) -> Response:
    """Return a response after which Cloud Tasks delivers the task again."""
    match outcome:
        # 503 slows the queue down. That is right here, because Cloud Tasks accepts no tasks now.
        case NextNotCreated(task_id):
            reason = "Another Cloud Task is needed for this task, and Cloud Tasks did not take it."
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, reason, task_id=task_id)
        # Cloud Tasks repeats the delivery after any status except 2xx. 429 and 503 would also slow
        # the whole queue down, so the status here is 409.
        case Busy(task_id, seconds):
            wait = max(1, math.ceil(seconds))
            reason = f"Another attempt is running, for at least {wait} s more."
            return _error(HTTPStatus.CONFLICT, reason, {"Retry-After": str(wait)}, task_id=task_id)
        case LeaseLost(task_id):
            reason = "Another attempt took over. The end of this one is not recorded."
            return _error(HTTPStatus.CONFLICT, reason, task_id=task_id)
        case Unrecorded(task_id):
            reason = "The record of this task is gone."
            return _error(HTTPStatus.NOT_FOUND, reason, task_id=task_id)
        case EndNotRecorded(task_id):
            reason = "The attempt is over, but its end could not be written to the database."
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, reason, task_id=task_id)
        case Unreadable(task_id):
            reason = "The record of this task cannot be read."
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, reason, task_id=task_id)


def _refuse(outcome: Refused) -> Response:
    """Return the response to a request that is refused before a task runs."""
    match outcome:
        case BadPayload(faults):
            return _error(HTTPStatus.BAD_REQUEST, "The body is not a task.", faults=list(faults))
        case UnknownTask(task_id, reason):
            return _error(HTTPStatus.NOT_FOUND, reason, task_id=task_id)
        case Unauthenticated():
            return Response(
                HTTPStatus.UNAUTHORIZED,
                {"status": "error", "error": "Unauthorized"},
                {"WWW-Authenticate": "Bearer"},
            )
        case Forbidden():
            return _error(HTTPStatus.FORBIDDEN, "Forbidden")
        case WrongMethod():
            return Response(
                HTTPStatus.METHOD_NOT_ALLOWED,
                {"status": "error", "error": "Method not allowed"},
                {"Allow": "POST"},
            )


def _error(
    status: HTTPStatus, error: str, headers: Mapping[str, str] | None = None, **more: Json
) -> Response:
    return Response(status, {"status": "error", "error": error, **more}, headers or {})

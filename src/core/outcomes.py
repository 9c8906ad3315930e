"""How a request to execute a task ended, and what to answer Cloud Tasks.

Cloud Tasks removes a Cloud Task on 200-299. On everything else it repeats it, by the retry settings
of the Cloud Task or of its queue. So a status here is a decision about the task's future as well.
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
    """The attempt failed, and the task will be attempted again.

    Attributes:
        error: `Class: message`.
        traceback: of the exception.
        by_queue: the queue brings the next attempt; otherwise another Cloud Task does, which
            exists or is recorded.
    """

    task_id: str
    error: str
    traceback: str
    by_queue: bool = True


@attrs.frozen
class Failed:
    """The task has failed, and will not be attempted again."""

    task_id: str
    error: str
    traceback: str


@attrs.frozen
class Snoozed:
    """The task asked to be called later. Another Cloud Task does that."""

    task_id: str


@attrs.frozen
class NotDue:
    """The task is due later than Cloud Tasks can be told. Another Cloud Task takes it further."""

    task_id: str


@attrs.frozen
class NextNotCreated:
    """Another Cloud Task is needed for the task, and Cloud Tasks did not take it."""

    task_id: str


@attrs.frozen
class AttemptsUsedUp:
    """The workers of all attempts died, and the task may not be attempted again."""

    task_id: str
    attempts: int


@attrs.frozen
class Superseded:
    """A later Cloud Task of the same task brings its next attempt."""

    task_id: str


@attrs.frozen
class Duplicate:
    """The task has ended before: `state` says how."""

    task_id: str
    state: State


@attrs.frozen
class Cancelled:
    """The task failed after it was asked to stop: it did."""

    task_id: str


@attrs.frozen
class Busy:
    """Another attempt runs, for `seconds` at least."""

    task_id: str
    seconds: float


@attrs.frozen
class LeaseLost:
    """The attempt was made, but another runner had taken over: how it ended is not recorded."""

    task_id: str


@attrs.frozen
class Unrecorded:
    """The task was recorded when it was enqueued, and there is no record of it now."""

    task_id: str


@attrs.frozen
class EndNotRecorded:
    """The attempt was made, and the store did not take how it ended before the lease was over."""

    task_id: str


@attrs.frozen
class Unreadable:
    """The task is recorded, and its record cannot be read."""

    task_id: str


@attrs.frozen
class Relayed:
    """The relay looked for tasks to send.

    Attributes:
        sent: how many Cloud Tasks took.
        failed: how many it did not.
        more: whether more may be due, and Cloud Tasks answers.
    """

    sent: int
    failed: int
    more: bool = False

    def and_then(self, later: "Relayed") -> "Relayed":
        """Both together."""
        return Relayed(self.sent + later.sent, self.failed + later.failed, later.more)


@attrs.frozen
class BadPayload:
    """The body is not a task."""

    faults: tuple[str, ...]


@attrs.frozen
class UnknownTask:
    """There is no such task here. A rolling deploy may know it in a minute, so it is repeated."""

    task_id: str
    reason: str


@attrs.frozen
class Unauthenticated:
    """No proof, or a bad one."""


@attrs.frozen
class Forbidden:
    """The proof is good but is someone else's."""


@attrs.frozen
class WrongMethod:
    """Not a POST."""


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
    | Refused
)


@attrs.frozen
class Response:
    """The HTTP response: status, JSON document, further headers."""

    status: HTTPStatus
    document: dict[str, Json]
    headers: Mapping[str, str] = attrs.field(factory=dict)


def response_to(outcome: Outcome, *, debug: bool) -> Response:
    """The answer to Cloud Tasks; tracebacks are part of it only under DEBUG.

    To a caller that proved nothing the answer tells nothing about tasks.
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
        case (
            Busy() | LeaseLost() | Unrecorded() | Unreadable() | EndNotRecorded() | NextNotCreated()
        ):
            return _repeat(outcome)
        case _:
            return _refuse(outcome)


def _fail(outcome: AttemptFailed | Failed | AttemptsUsedUp, *, debug: bool) -> Response:
    """The answer after a failed attempt: 500 only where the queue is to bring the next one."""
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
    """The answer that has Cloud Tasks deliver a task again."""
    match outcome:
        # Here the queue is to slow down: Cloud Tasks itself takes no tasks now.
        case NextNotCreated(task_id):
            reason = "Another Cloud Task is needed for this task, and Cloud Tasks did not take it."
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, reason, task_id=task_id)
        # 409 has the delivery repeated, as every status but 2xx does. Not 429 or 503: those make
        # Cloud Tasks slow the whole queue down.
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
    """The answer to a request of which no task came."""
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

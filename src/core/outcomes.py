"""How a request to execute a task ended, and what to answer Cloud Tasks.

Cloud Tasks removes a task on 200-299 and repeats it by the queue's policy on everything else;
there is no answer that means "never again". So a status here is a decision about the task's
future as well.
"""

from collections.abc import Mapping
from http import HTTPStatus

import attrs

from .payload import Json


@attrs.frozen
class Succeeded:
    """The task returned."""

    task_id: str


@attrs.frozen
class Failed:
    """The task raised. `error` is `Class: message`, `traceback` the whole story."""

    task_id: str
    error: str
    traceback: str


@attrs.frozen
class Unserializable:
    """The task returned what JSON cannot carry: its work is done, and would only be done again."""

    task_id: str
    error: str


@attrs.frozen
class BadPayload:
    """The body is no task."""

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


type Outcome = (
    Succeeded
    | Failed
    | Unserializable
    | BadPayload
    | UnknownTask
    | Unauthenticated
    | Forbidden
    | WrongMethod
)


@attrs.frozen
class Answer:
    """The HTTP response: status, JSON document, further headers."""

    status: HTTPStatus
    document: dict[str, Json]
    headers: Mapping[str, str] = attrs.field(factory=dict)


def decide(outcome: Outcome, *, debug: bool) -> Answer:
    """The answer to Cloud Tasks; tracebacks are part of it only under DEBUG.

    To a caller that proved nothing the answer tells nothing about tasks.
    """
    match outcome:
        case Succeeded(task_id):
            return Answer(HTTPStatus.OK, {"status": "success", "task_id": task_id})
        case Failed(task_id, error, traceback):
            document: dict[str, Json] = {"status": "error", "task_id": task_id, "error": error}
            if debug:
                document["traceback"] = traceback
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, document)
        case Unserializable(task_id, error):
            return Answer(HTTPStatus.OK, {"status": "error", "task_id": task_id, "error": error})
        case BadPayload(faults):
            return _error(HTTPStatus.BAD_REQUEST, "The body is no task.", faults=list(faults))
        case UnknownTask(task_id, reason):
            return _error(HTTPStatus.NOT_FOUND, reason, task_id=task_id)
        case Unauthenticated():
            return Answer(
                HTTPStatus.UNAUTHORIZED,
                {"status": "error", "error": "Unauthorized"},
                {"WWW-Authenticate": "Bearer"},
            )
        case Forbidden():
            return _error(HTTPStatus.FORBIDDEN, "Forbidden")
        case WrongMethod():
            return Answer(
                HTTPStatus.METHOD_NOT_ALLOWED,
                {"status": "error", "error": "Method not allowed"},
                {"Allow": "POST"},
            )


def _error(status: HTTPStatus, error: str, **more: Json) -> Answer:
    return Answer(status, {"status": "error", "error": error, **more})

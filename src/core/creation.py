"""Calling Cloud Tasks over an unreliable network: how long to try, when to stop, what to say.

A creation that failed may have worked: the answer, not the request, may be what was lost. With
the task named after its id, doing it again is harmless, because the service answers
ALREADY_EXISTS, and on a repetition that means that an earlier attempt got through.
"""

from enum import Enum

import attrs

from .errors import (
    CancelError,
    CloudTasksError,
    EnqueueError,
    PermissionDeniedError,
    QueueNotFoundError,
    RunNowError,
    ServiceUnavailableError,
    TaskRejectedError,
)
from .requests import TaskRequest
from .retries import RetryPolicy


class Code(Enum):
    """Status codes of gRPC that decide what becomes of a creation; all others are OTHER."""

    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    ABORTED = "ABORTED"
    INTERNAL = "INTERNAL"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    OTHER = "OTHER"

    @classmethod
    def named(cls, name: str) -> "Code":
        """The code of that gRPC name."""
        return cls.__members__.get(name, cls.OTHER)


_TRANSIENT = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.INTERNAL}
_BACKOFF = RetryPolicy(min_backoff=0.1, max_backoff=2.0, max_doublings=8)
_SHORTEST_ATTEMPT = 1.0


@attrs.frozen(kw_only=True)
class Failure:
    """A failed attempt to create a task.

    Attributes:
        code: what kind of failure.
        status: gRPC's name of the status code.
        details: what the service or the network said.
        attempt: its number, 1 for the first.
        elapsed: seconds since the first attempt began.
    """

    code: Code
    status: str
    details: str
    attempt: int
    elapsed: float


@attrs.frozen
class Created:
    """The task is stored after all."""


@attrs.frozen
class TryAgain:
    """Repeat the creation after `delay` seconds."""

    delay: float


@attrs.frozen
class GiveUp[E: CloudTasksError]:
    """Raise `error`."""

    error: E


class Control(Enum):
    """What can be done to a task that is in its queue."""

    DELETE = "delete"
    RUN = "run"


@attrs.frozen
class Missing:
    """There is no such task: it has ended, or was never created."""


def attempt_timeout(*, remaining: float) -> float:
    """Seconds that the next attempt may take, so that another one fits behind a lost answer."""
    return max(remaining / 2, min(remaining, _SHORTEST_ATTEMPT))


def after_failure(
    failure: Failure,
    *,
    request: TaskRequest,
    timeout: float,
    jitter: float,
    emulated: bool = False,
) -> Created | TryAgain | GiveUp[EnqueueError]:
    """What to do after a failed attempt.

    Args:
        timeout: seconds that all attempts together may take.
        jitter: 0 to 1, at random, so that clients that failed together do not return together.
        emulated: whether an emulator was asked: then the advice is another.
    """
    repeated = failure.attempt > 1 or request.may_exist
    if failure.code is Code.ALREADY_EXISTS and repeated and request.task_id:
        return Created()
    delay = _delay(failure, timeout, jitter)
    if delay is not None:
        return TryAgain(delay)
    return GiveUp(_error(failure, request, timeout, emulated=emulated))


def after_failed_control(
    failure: Failure, *, control: Control, name: str, timeout: float, jitter: float
) -> Missing | TryAgain | GiveUp[CancelError | RunNowError]:
    """What to do after a failed attempt to have something done to the task of that name.

    To delete a task twice deletes it, and to run it twice delivers it twice at worst.
    """
    if failure.code is Code.NOT_FOUND:
        return Missing()
    delay = _delay(failure, timeout, jitter)
    if delay is not None:
        return TryAgain(delay)
    advice = ""
    if failure.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}:
        role = "taskDeleter" if control is Control.DELETE else "taskRunner"
        advice = f" Grant the account roles/cloudtasks.{role}."
    message = (
        f"Cloud Tasks did not {control.value} {name}.{advice} ({failure.status}: {failure.details})"
    )
    return GiveUp(CancelError(message) if control is Control.DELETE else RunNowError(message))


def _delay(failure: Failure, timeout: float, jitter: float) -> float | None:
    """Seconds before the next attempt, where one may help and there is time for it."""
    if failure.code not in _TRANSIENT:
        return None
    delay = _BACKOFF.backoff(failure.attempt) * (0.5 + jitter / 2)
    return delay if failure.elapsed + delay < timeout else None


def _error(
    failure: Failure, request: TaskRequest, timeout: float, *, emulated: bool
) -> EnqueueError:
    queue = request.queue
    said = f"({failure.status}: {failure.details})"
    if failure.code is Code.NOT_FOUND:
        advice = (
            f"Start the emulator with --queue {queue} or --auto-create-queues."
            if emulated
            else f"Create it with: gcloud tasks queues create {queue.queue} "
            f"--location={queue.location} --project={queue.project}"
        )
        return QueueNotFoundError(f"The queue {queue} does not exist. {advice} {said}")
    if failure.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}:
        identity = (
            f" and roles/iam.serviceAccountUser on {request.oidc.service_account_email}, "
            "whose token it asks for"
            if request.oidc
            else ""
        )
        return PermissionDeniedError(
            f"These credentials may not create tasks in {queue}. Grant their account "
            f"roles/cloudtasks.enqueuer in the project {queue.project}{identity}. {said}"
        )
    if failure.code in _TRANSIENT:
        return ServiceUnavailableError(
            f"Cloud Tasks did not take the task for {queue} within {timeout:g} s "
            f"({failure.attempt} attempts). Check the network and, for an emulator, its address; "
            f"ENQUEUE_TIMEOUT sets how long to try. {said}"
        )
    return TaskRejectedError(f"Cloud Tasks refused a task for {queue} {said}")

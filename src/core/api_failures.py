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


class Repeat(Enum):
    """Whether a call that ended with a status is made again."""

    NEVER = "never"
    """The service has understood the call, and refuses it."""

    AGAIN = "again"
    """It may pass."""

    RECONNECTED = "reconnected"
    """It may pass, and may be due to the connection: a proxy, a network, or a freeze of the
    instance can have left one that swallows everything. The next attempt makes another one."""


class Code(Enum):
    """The status codes of gRPC, each with what it means for a call to Cloud Tasks."""

    CANCELLED = Repeat.RECONNECTED, "a stream that was reset, or closed by a fork"
    UNKNOWN = Repeat.RECONNECTED, "an answer that broke off, or HTTP 408 or 500 of a proxy"
    INVALID_ARGUMENT = Repeat.NEVER, "the request is wrong"
    DEADLINE_EXCEEDED = Repeat.RECONNECTED, "no answer in time"
    NOT_FOUND = Repeat.NEVER, "there is no such queue or task"
    ALREADY_EXISTS = Repeat.NEVER, "the name is taken"
    PERMISSION_DENIED = Repeat.NEVER, "the account may not"
    RESOURCE_EXHAUSTED = Repeat.AGAIN, "a quota, for a minute at most"
    FAILED_PRECONDITION = Repeat.NEVER, "the queue or the project is not in a state for it"
    ABORTED = Repeat.AGAIN, "two calls met"
    OUT_OF_RANGE = Repeat.NEVER, "a value of the request is out of its range"
    UNIMPLEMENTED = Repeat.NEVER, "the service has no such method"
    INTERNAL = Repeat.RECONNECTED, "a fault of the service or of the framing on the way"
    UNAVAILABLE = Repeat.AGAIN, "no connection"
    DATA_LOSS = Repeat.NEVER, "the service has lost data for good"
    UNAUTHENTICATED = Repeat.NEVER, "no credentials, or bad ones"
    OTHER = Repeat.NEVER, "a code that gRPC did not have when this was written"

    def __init__(self, repeat: Repeat, meaning: str) -> None:
        self.repeat = repeat
        self.meaning = meaning

    @classmethod
    def named(cls, name: str) -> "Code":
        """The code of that gRPC name."""
        return cls.__members__.get(name, cls.OTHER)


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
        before: how the attempt before it failed.
        refused: whether nobody listens at the address.
        retry_after: seconds that the service asked to be left alone for (`RetryInfo`).
    """

    code: Code
    status: str
    details: str
    attempt: int
    elapsed: float
    before: "Failure | None" = None
    retry_after: float = 0.0
    refused: bool = False

    @property
    def said(self) -> str:
        """What was said last, and before that if it was something else.

        An attempt that runs out of time hides why the ones before it failed.
        """
        earlier = self.before
        while earlier is not None and earlier.status == self.status:
            earlier = earlier.before
        told = f"{self.status}: {self.details}"
        if earlier is None:
            return told
        return f"{told}; before that {earlier.status}: {earlier.details}"


@attrs.frozen
class Created:
    """The call has worked after all: an earlier attempt did, and its answer was lost."""


@attrs.frozen
class TryAgain:
    """Make the call again after `delay` seconds.

    Attributes:
        reconnect: whether over a new connection.
    """

    delay: float
    reconnect: bool = False


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
    emulator: str | None = None,
) -> Created | TryAgain | GiveUp[EnqueueError]:
    """What to do after a failed attempt.

    Args:
        timeout: seconds that all attempts together may take.
        jitter: 0 to 1, at random, so that clients that failed together do not return together.
        emulator: the address of the emulator that was asked, if one was: then the advice is
            another, and nobody waits for a program that is not running.
    """
    repeated = failure.attempt > 1 or request.may_exist
    if failure.code is Code.ALREADY_EXISTS and repeated and request.task_id:
        return Created()
    if emulator and failure.refused:
        return GiveUp(
            ServiceUnavailableError(
                f"No emulator listens at {emulator}. Start it: python manage.py "
                f"cloudtasks_emulator --port {emulator.rpartition(':')[2]} --auto-create-queues"
            )
        )
    # Without a name each creation makes a task; these two may have, without a word.
    doubles = request.task_id is None and failure.code in {Code.CANCELLED, Code.UNKNOWN}
    again = None if doubles else _again(failure, timeout, jitter)
    if again is not None:
        return again
    return GiveUp(_error(failure, request, timeout, emulated=emulator is not None))


def after_failed_control(
    failure: Failure, *, control: Control, name: str, timeout: float, jitter: float
) -> Created | Missing | TryAgain | GiveUp[CancelError | RunNowError]:
    """What to do after a failed attempt to have something done to the task of that name.

    To delete a task twice deletes it, and to run it twice delivers it twice at worst.
    """
    if failure.code is Code.NOT_FOUND:
        is_deleted = control is Control.DELETE and failure.attempt > 1
        return Created() if is_deleted else Missing()
    again = _again(failure, timeout, jitter)
    if again is not None:
        return again
    advice = (" " + _asked(failure)).rstrip()
    if failure.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}:
        role = "taskDeleter" if control is Control.DELETE else "taskRunner"
        advice = f" Grant the account roles/cloudtasks.{role}."
    message = f"Cloud Tasks did not {control.value} {name}.{advice} ({failure.said})"
    kind = CancelError if control is Control.DELETE else RunNowError
    return GiveUp(kind(message, unanswered=failure.code.repeat is not Repeat.NEVER))


def _asked(failure: Failure) -> str:
    """What the service asked for, as a sentence."""
    if not failure.retry_after:
        return ""
    return f"Cloud Tasks asks to be left alone for {failure.retry_after:g} s. "


def _again(failure: Failure, timeout: float, jitter: float) -> TryAgain | None:
    """The next attempt, where one may help and there is time for it."""
    if failure.code.repeat is Repeat.NEVER:
        return None
    backoff = _BACKOFF.backoff(failure.attempt) * (0.5 + jitter / 2)
    delay = max(backoff, failure.retry_after)
    if failure.elapsed + delay >= timeout:
        return None
    return TryAgain(delay, reconnect=failure.code.repeat is Repeat.RECONNECTED)


def _error(
    failure: Failure, request: TaskRequest, timeout: float, *, emulated: bool
) -> EnqueueError:
    queue = request.queue
    said = f"({failure.said})"
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
    if failure.code.repeat is not Repeat.NEVER:
        wait = _asked(failure)
        return ServiceUnavailableError(
            f"Cloud Tasks did not take the task for {queue} within {timeout:g} s "
            f"({failure.attempt} attempts). {wait}Check the network and, for an emulator, its "
            f"address; ENQUEUE_TIMEOUT sets how long to try. {said}"
        )
    return TaskRejectedError(f"Cloud Tasks refused a task for {queue} {said}")

"""Failures of the Cloud Tasks API: whether to repeat a call, when to give up, which error to raise.

The generator `calling` makes one call and its repetitions. It does no input or output: it yields
the next step (`Call` or `Sleep`), and its caller sends the result back (`Told`).

A creation that failed may have created the task, because only the response may be lost. If the
Cloud Task is named after the task's id, the repetition cannot create a second one: Cloud Tasks
answers ALREADY_EXISTS. On a repetition, that means that an earlier attempt created the task.
"""

from collections.abc import Callable, Generator, Mapping
from enum import Enum

import attrs

from .backoff import Backoff
from .errors import (
    CancelError,
    CloudTasksError,
    ControlError,
    EnqueueError,
    LookUpError,
    PermissionDeniedError,
    QueueNotFoundError,
    RunNowError,
    ServiceUnavailableError,
    TaskRejectedError,
)
from .requests import TaskRequest


class Repeat(Enum):
    """Whether a call that failed with a status is repeated."""

    NEVER = "never"
    """The call is not repeated, because a repetition would fail too."""

    AGAIN = "again"
    """The call is repeated, because the failure may be temporary."""

    RECONNECTED = "reconnected"
    """The call is repeated on a new connection. The failure may be temporary, or the connection may
    be dead: a proxy, a network fault or a frozen instance can cause a connection that loses data
    without an error."""


class Code(Enum):
    """The status codes of gRPC, each with its meaning for a call to Cloud Tasks."""

    CANCELLED = Repeat.RECONNECTED, "the stream was reset, or a fork closed it"
    UNKNOWN = Repeat.RECONNECTED, "the response is incomplete, or a proxy answered HTTP 408 or 500"
    INVALID_ARGUMENT = Repeat.NEVER, "the request is not valid"
    DEADLINE_EXCEEDED = Repeat.RECONNECTED, "there was no response before the deadline"
    NOT_FOUND = Repeat.NEVER, "the queue or the task does not exist"
    ALREADY_EXISTS = Repeat.NEVER, "the name is in use"
    PERMISSION_DENIED = Repeat.NEVER, "the account does not have the permission"
    RESOURCE_EXHAUSTED = Repeat.AGAIN, "a quota is used up, for at most one minute"
    FAILED_PRECONDITION = Repeat.NEVER, "the state of the queue or the project forbids the call"
    ABORTED = Repeat.AGAIN, "two calls conflicted"
    OUT_OF_RANGE = Repeat.NEVER, "a value in the request is out of range"
    UNIMPLEMENTED = Repeat.NEVER, "the service does not have this method"
    INTERNAL = Repeat.RECONNECTED, "the service or the framing on the way failed"
    UNAVAILABLE = Repeat.AGAIN, "there is no connection"
    DATA_LOSS = Repeat.NEVER, "the service lost data permanently"
    UNAUTHENTICATED = Repeat.NEVER, "the credentials are missing or not valid"
    OTHER = Repeat.NEVER, "this package does not know the code"

    def __init__(self, repeat: Repeat, meaning: str) -> None:
        self.repeat = repeat
        self.meaning = meaning

    @classmethod
    def named(cls, name: str) -> "Code":
        """Return the code with this gRPC name; OTHER for an unknown name."""
        return cls.__members__.get(name, cls.OTHER)


_BACKOFF = Backoff(first=0.1, longest=2.0)
_SHORTEST_ATTEMPT = 1.0


@attrs.frozen(kw_only=True)
class Reply:
    """The response to a failed call, or the error of the network.

    Attributes:
        code: the status code.
        status: gRPC's name of the status code.
        details: the message of the service or of the network.
        refused: whether no server listens at the address, or a server that is not Cloud Tasks.
        retry_after: the seconds that the service asks the client to wait (`RetryInfo`); 0 if it
            does not ask.
    """

    code: Code
    status: str
    details: str
    refused: bool = False
    retry_after: float = 0.0


@attrs.frozen(kw_only=True)
class Failure:
    """A failed attempt at a call.

    Attributes:
        reply: how the attempt failed.
        attempt: the number of the attempt; 1 is the first.
        elapsed: the seconds since the start of the first attempt.
        before: the failure of the previous attempt; None for the first attempt.
    """

    reply: Reply
    attempt: int
    elapsed: float
    before: "Failure | None" = None

    @property
    def code(self) -> Code:
        """The status code of the failure."""
        return self.reply.code

    @property
    def said(self) -> str:
        """The message of this failure, and of the latest earlier failure with another status.

        If an attempt exceeds its deadline, only the earlier failures show the cause.
        """
        earlier = self.before
        while earlier is not None and earlier.reply.status == self.reply.status:
            earlier = earlier.before
        told = f"{self.reply.status}: {self.reply.details}"
        if earlier is None:
            return told
        return f"{told}; before that {earlier.reply.status}: {earlier.reply.details}"


@attrs.frozen
class Done:
    """The call succeeded, or an earlier attempt succeeded and its response was lost.

    Attributes:
        found: whether the task existed.
    """

    found: bool = True


@attrs.frozen
class TryAgain:
    """Repeat the call.

    Attributes:
        delay: the wait before the call, in seconds.
        reconnect: whether to use a new connection.
    """

    delay: float
    reconnect: bool = False


@attrs.frozen
class GiveUp[E: CloudTasksError]:
    """Raise `error`."""

    error: E


type NextStep[E: CloudTasksError] = Done | TryAgain | GiveUp[E]


@attrs.frozen
class Call:
    """Make the call, with a timeout in seconds."""

    timeout: float


@attrs.frozen
class Sleep:
    """Wait before the next call.

    Attributes:
        seconds: the wait in seconds.
        reconnect: whether to drop the connection first, so that the next call opens a new one.
    """

    seconds: float
    reconnect: bool = False


@attrs.frozen
class Told:
    """The result of a step, which the caller sends into the generator `calling`.

    Attributes:
        elapsed: the seconds since the start of the first attempt.
        reply: the failure of the call; None if the call succeeded, or after `Sleep`.
    """

    elapsed: float
    reply: Reply | None = None


def calling[E: CloudTasksError](
    decide: Callable[[Failure], NextStep[E]], *, timeout: float
) -> Generator[Call | Sleep, Told, bool]:
    """Make a call, and repeat it after failures, as `decide` says.

    Args:
        decide: decides what follows from a failed attempt.
        timeout: the seconds that all attempts and waits may take together.

    Returns:
        Whether the task existed. True for a creation.

    Raises:
        CloudTasksError: the error of the `GiveUp` that `decide` returned.
    """
    failure: Failure | None = None
    remaining, attempt = timeout, 1
    while True:
        told = yield Call(attempt_timeout(remaining=remaining))
        if told.reply is None:
            return True
        failure = Failure(reply=told.reply, attempt=attempt, elapsed=told.elapsed, before=failure)
        decision = decide(failure)
        match decision:
            case Done(found):
                return found
            case GiveUp(error):
                raise error
            case TryAgain(delay, reconnect):
                told = yield Sleep(delay, reconnect)
                remaining, attempt = timeout - told.elapsed, attempt + 1


class Control(Enum):
    """A call for a Cloud Task that is in its queue."""

    DELETE = "delete"
    RUN = "run"
    LOOK_UP = "look up"


def attempt_timeout(*, remaining: float) -> float:
    """Return the timeout of the next attempt, in seconds.

    It is half of the remaining time, but at least 1 second if so much remains. So there is time
    for another attempt if the response is lost.

    Args:
        remaining: the seconds that remain for all attempts.
    """
    return max(remaining / 2, min(remaining, _SHORTEST_ATTEMPT))


def after_failure(
    failure: Failure,
    *,
    request: TaskRequest,
    timeout: float,
    jitter: float,
    emulator: str | None = None,
) -> NextStep[EnqueueError]:
    """Decide what follows from a failed attempt to create a task.

    Args:
        failure: the failed attempt.
        request: the request of the call.
        timeout: the seconds that all attempts and waits may take together.
        jitter: a random number from 0 to 1. It spreads the repetitions of clients that failed at
            the same time.
        emulator: the address (HOST:PORT) if the call went to an emulator. The error messages then
            differ. If no emulator listens there, the call is not repeated.
    """
    repeated = failure.attempt > 1 or request.may_exist
    if failure.code is Code.ALREADY_EXISTS and repeated and request.task_id:
        return Done()
    if emulator and failure.reply.refused:
        return GiveUp(
            ServiceUnavailableError(
                f"No emulator listens at {emulator}. Start it: python manage.py "
                f"cloudtasks_emulator --port {emulator.rpartition(':')[2]} --auto-create-queues "
                f"({failure.said})"
            )
        )
    # Without a task id, each creation makes a new task. A call that failed with one of these two
    # codes may have created one, so it is not repeated.
    doubles = request.task_id is None and failure.code in {Code.CANCELLED, Code.UNKNOWN}
    again = None if doubles else _again(failure, timeout, jitter)
    if again is not None:
        return again
    return GiveUp(_error(failure, request, timeout, emulated=emulator is not None))


def after_failed_control(
    failure: Failure, *, control: Control, name: str, timeout: float, jitter: float
) -> NextStep[ControlError]:
    """Decide what follows from a failed attempt to delete, run or look up a Cloud Task.

    These calls can be repeated: a second deletion changes nothing, and a second run causes at most
    one more delivery.

    Args:
        failure: the failed attempt.
        control: the kind of the call.
        name: the name of the Cloud Task, for the error message.
        timeout: the seconds that all attempts and waits may take together.
        jitter: a random number from 0 to 1, as in `after_failure`.
    """
    if failure.code is Code.NOT_FOUND:
        is_deleted = control is Control.DELETE and failure.attempt > 1
        return Done(found=is_deleted)
    again = _again(failure, timeout, jitter)
    if again is not None:
        return again
    advice = (" " + _asked(failure)).rstrip()
    forbidden = failure.code in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}
    if forbidden:
        advice = f" Grant the account roles/cloudtasks.{_ROLES[control]}."
    message = f"Cloud Tasks did not {control.value} {name}.{advice} ({failure.said})"
    unanswered = failure.code.repeat is not Repeat.NEVER
    match control:
        case Control.DELETE:
            return GiveUp(CancelError(message, unanswered=unanswered))
        case Control.RUN:
            return GiveUp(RunNowError(message, unanswered=unanswered))
        case Control.LOOK_UP:
            return GiveUp(LookUpError(message, unanswered=unanswered, forbidden=forbidden))


_ROLES: Mapping[Control, str] = {
    Control.DELETE: "taskDeleter",
    Control.RUN: "taskRunner",
    Control.LOOK_UP: "viewer",
}


def _asked(failure: Failure) -> str:
    """Return a sentence with the wait that the service asks for; empty if it does not ask."""
    if not failure.reply.retry_after:
        return ""
    return f"Cloud Tasks asks to wait {failure.reply.retry_after:g} s before the next try. "


def _again(failure: Failure, timeout: float, jitter: float) -> TryAgain | None:
    """Return the next attempt; None if it cannot succeed, or if there is no time left for it."""
    if failure.code.repeat is Repeat.NEVER:
        return None
    backoff = _BACKOFF.seconds(failure.attempt) * (0.5 + jitter / 2)
    delay = max(backoff, failure.reply.retry_after)
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
            "because the task carries a token of that account"
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
            f"Cloud Tasks did not accept the task for {queue} within {timeout:g} s "
            f"({failure.attempt} attempts). {wait}Check the network. If you use an emulator, "
            f"check its address. ENQUEUE_TIMEOUT limits the time for all attempts. {said}"
        )
    return TaskRejectedError(f"Cloud Tasks refused a task for {queue} {said}")

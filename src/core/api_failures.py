"""What failures of the Cloud Tasks API mean: whether to call again, when to stop, what to say.

A call with its repetitions is one generator, `calling`. It needs a network and a clock, and has
neither: it yields what to do next (`Call`, `Sleep`), and is told how that went.

A creation that failed may have worked: the answer, not the request, may be what was lost. With
the task named after its id, doing it again is harmless, because the service answers
ALREADY_EXISTS, and on a repetition that means that an earlier attempt got through.
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


_BACKOFF = Backoff(first=0.1, longest=2.0)
_SHORTEST_ATTEMPT = 1.0


@attrs.frozen(kw_only=True)
class Reply:
    """How a call ended that the service, or the network, failed.

    Attributes:
        code: what kind of failure.
        status: gRPC's name of the status code.
        details: what the service or the network said.
        refused: whether nobody, or no Cloud Tasks, listens at the address.
        retry_after: seconds that the service asked to be left alone for (`RetryInfo`).
    """

    code: Code
    status: str
    details: str
    refused: bool = False
    retry_after: float = 0.0


@attrs.frozen(kw_only=True)
class Failure:
    """A failed attempt at a call, among the others.

    Attributes:
        attempt: its number, 1 for the first.
        elapsed: seconds since the first attempt began.
        before: how the attempt before it failed.
    """

    reply: Reply
    attempt: int
    elapsed: float
    before: "Failure | None" = None

    @property
    def code(self) -> Code:
        """What kind of failure."""
        return self.reply.code

    @property
    def said(self) -> str:
        """What was said last, and before that if it was something else.

        An attempt that runs out of time hides why the ones before it failed.
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
    """The call has worked, or an earlier attempt did whose answer was lost.

    Attributes:
        found: whether there was a task to do it to.
    """

    found: bool = True


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


type NextStep[E: CloudTasksError] = Done | TryAgain | GiveUp[E]


@attrs.frozen
class Call:
    """Make the call. It may take `timeout` seconds."""

    timeout: float


@attrs.frozen
class Sleep:
    """Do nothing for so many seconds.

    Attributes:
        reconnect: whether the connection is to be given up before: the next call makes another.
    """

    seconds: float
    reconnect: bool = False


@attrs.frozen
class Told:
    """What the generator is told: how the call ended (None: it worked), and the time.

    Attributes:
        elapsed: seconds since the first attempt began.
    """

    elapsed: float
    reply: Reply | None = None


def calling[E: CloudTasksError](
    decide: Callable[[Failure], NextStep[E]], *, timeout: float
) -> Generator[Call | Sleep, Told, bool]:
    """A call with its repetitions.

    Args:
        decide: what a failed attempt leads to.
        timeout: seconds that all attempts together may take.

    Returns:
        Whether there was something to do it to.

    Raises:
        CloudTasksError: the one that `decide` gives up with.
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
    """What can be done to a task that is in its queue."""

    DELETE = "delete"
    RUN = "run"
    LOOK_UP = "look up"


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
) -> NextStep[EnqueueError]:
    """What to do after a failed attempt.

    Args:
        timeout: seconds that all attempts together may take.
        jitter: 0 to 1, at random, so that clients that failed together do not return together.
        emulator: the address of the emulator that was asked, if one was: then the advice is
            another, and nobody waits for a program that is not running.
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
    # Without a name each creation makes a task; these two may have, without a word.
    doubles = request.task_id is None and failure.code in {Code.CANCELLED, Code.UNKNOWN}
    again = None if doubles else _again(failure, timeout, jitter)
    if again is not None:
        return again
    return GiveUp(_error(failure, request, timeout, emulated=emulator is not None))


def after_failed_control(
    failure: Failure, *, control: Control, name: str, timeout: float, jitter: float
) -> NextStep[ControlError]:
    """What to do after a failed attempt to have something done to the task of that name.

    To delete a task twice deletes it, and to run it twice delivers it twice at worst.
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
    """What the service asked for, as a sentence."""
    if not failure.reply.retry_after:
        return ""
    return f"Cloud Tasks asks to wait {failure.reply.retry_after:g} s before the next try. "


def _again(failure: Failure, timeout: float, jitter: float) -> TryAgain | None:
    """The next attempt, where one may help and there is time for it."""
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
            f"Cloud Tasks did not take the task for {queue} within {timeout:g} s "
            f"({failure.attempt} attempts). {wait}Check the network and, for an emulator, its "
            f"address; ENQUEUE_TIMEOUT sets how long to try. {said}"
        )
    return TaskRejectedError(f"Cloud Tasks refused a task for {queue} {said}")

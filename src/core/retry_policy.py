"""How often a task is attempted, how long one attempt may take, and what follows from a failure.

A task has a policy. The OPTIONS of its backend complete it. The policy decides what brings the next
attempt:

| the policy | what brings the next attempt | answer to Cloud Tasks |
|---|---|---|
| sets nothing | the queue, by its own retry settings | 500 |
| is data (`max_attempts`, `Backoff`) | the queue, by settings of the Cloud Task | 500 |
| is data that the client cannot send | the endpoint, which makes another Cloud Task | 200 |
| has a function as `backoff` | the endpoint | 200 |
| any, and the task raised `Retry` or `Snooze` | the endpoint | 200 |

The client can send the retry settings of a task since google-cloud-tasks 2.25.0. It cannot send a
`Backoff` with 0 doublings, because 0 means the default on the wire.
"""

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import attrs

from .backoff import Backoff, seconds_of
from .errors import UnserializableReturnError

DEFAULT_MAX_ATTEMPTS = 100
"""Attempts that a queue makes by default."""

DEFAULT_BACKOFF = Backoff(first=0.1, longest=3600.0, doublings=16)
"""The waits of a queue by default."""

SHORTEST_TIMEOUT, LONGEST_TIMEOUT = timedelta(seconds=15), timedelta(minutes=30)
"""What Cloud Tasks takes as the dispatch deadline of an HTTP task."""

DEFAULT_DISPATCH_DEADLINE = timedelta(minutes=10)
"""How long Cloud Tasks waits for an attempt whose task names no deadline."""

ANSWER_TIME = timedelta(seconds=1)
"""A coroutine is stopped so long before its timeout, so that the answer arrives in time."""

LONGEST_AGE = timedelta(days=31)
"""How old a task without a record may become by snoozing, from the time when it was due."""

_MOST_ATTEMPTS = 1_000_000

type BackoffFunction = Callable[[BaseException, Any], float | timedelta | None]
"""Takes the exception and Django's `TaskResult`; returns seconds, a timedelta, or None: give up."""


@attrs.frozen(kw_only=True)
class TaskPolicy:
    """The policy of a task, or the defaults of a backend. None means: not set.

    Attributes:
        max_attempts: the number of attempts after which the task has failed.
        backoff: the wait before the next attempt, as data or as a function.
        timeout: the time that an attempt may take.
    """

    max_attempts: int | None = None
    # A callable object can be unhashable, for example an instance of a dataclass.
    backoff: Backoff | BackoffFunction | None = attrs.field(default=None, hash=False)
    timeout: timedelta | None = None

    def over(self, defaults: "TaskPolicy") -> "TaskPolicy":
        """Return this policy, completed by the defaults."""
        return TaskPolicy(
            max_attempts=defaults.max_attempts if self.max_attempts is None else self.max_attempts,
            backoff=defaults.backoff if self.backoff is None else self.backoff,
            timeout=self.timeout or defaults.timeout,
        )

    @property
    def limit(self) -> int:
        """The number of attempts after which the task has failed."""
        return self.max_attempts or DEFAULT_MAX_ATTEMPTS

    @property
    def waits(self) -> Backoff:
        """The waits as data. If a function decides or nothing is set: the defaults of a queue."""
        return self.backoff if isinstance(self.backoff, Backoff) else DEFAULT_BACKOFF


def read_max_attempts(value: object) -> int:
    """Check a number of attempts.

    Raises:
        ValueError: the value is not a number of attempts.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_ATTEMPTS:
        return value
    raise ValueError(f"a whole number from 1 to {_MOST_ATTEMPTS:,}")


def read_timeout(value: object) -> timedelta:
    """Convert seconds or a timedelta to a timeout.

    Raises:
        ValueError: Cloud Tasks does not accept it as a dispatch deadline.
    """
    try:
        timeout = timedelta(seconds=seconds_of(value))
    except ValueError:
        timeout = timedelta()
    if SHORTEST_TIMEOUT <= timeout <= LONGEST_TIMEOUT:
        return timeout
    raise ValueError("15 seconds to 30 minutes, as a number of seconds or a timedelta")


def read_backoff(value: object) -> Backoff | BackoffFunction:
    """Check a backoff: a `Backoff`, or a function of an exception and a `TaskResult`.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, Backoff):
        return value
    if not callable(value) or isinstance(value, type):
        raise ValueError("a Backoff, or a function of an exception and a TaskResult")  # noqa: TRY004 - one kind of fault
    if inspect.iscoroutinefunction(value):
        raise ValueError("a Backoff or a function; a coroutine function cannot be called here")
    try:
        inspect.signature(value).bind(None, None)
    except TypeError:
        raise ValueError(
            "a function that takes two positional arguments, the exception and the TaskResult"
        ) from None
    except ValueError:
        pass  # Some built-in functions have no signature.
    function: BackoffFunction = value
    return function


_READERS: Mapping[str, Callable[[object], object]] = {
    "max_attempts": read_max_attempts,
    "backoff": read_backoff,
    "timeout": read_timeout,
}


def read_policy(values: Mapping[str, object]) -> TaskPolicy:
    """Check the values that a task declares. None means: not set.

    Raises:
        ValueError: a value is wrong. The message names it and says what it must be.
    """
    said: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            continue
        try:
            said[name] = _READERS[name](value)
        except ValueError as error:
            raise ValueError(f"{name} must be {error}, not {value!r}.") from error
    return TaskPolicy(**said)


class Repeater(Enum):
    """What brings the next attempt after an ordinary failure."""

    QUEUE = "the queue, by its own settings"
    CLOUD_TASK = "the queue, by the settings that the Cloud Task carries"
    ENDPOINT = "the endpoint, which makes another Cloud Task"


def repeater(policy: TaskPolicy, *, sends_retry_config: bool) -> Repeater:
    """Decide what brings the next attempt at a task with this policy.

    Args:
        sends_retry_config: whether the client can send the retry settings of one task.
    """
    if policy.max_attempts is None and policy.backoff is None:
        return Repeater.QUEUE
    is_data = policy.backoff is None or isinstance(policy.backoff, Backoff)
    # 0 doublings cannot be sent: on the wire a 0 means the default.
    if is_data and sends_retry_config and policy.waits.doublings:
        return Repeater.CLOUD_TASK
    return Repeater.ENDPOINT


@attrs.frozen
class RetrySettings:
    """The retry settings that a Cloud Task carries."""

    max_attempts: int
    backoff: Backoff


def retry_settings(policy: TaskPolicy, *, sends_retry_config: bool) -> RetrySettings | None:
    """Return the retry settings for the Cloud Task; None if those of the queue apply."""
    if repeater(policy, sends_retry_config=sends_retry_config) is Repeater.CLOUD_TASK:
        return RetrySettings(policy.limit, policy.waits)
    return None


# What the exception of a task means.


@attrs.frozen
class RetryAt:
    """The attempt failed. The next attempt is due at that time (aware)."""

    at: datetime


@attrs.frozen
class SnoozeUntil:
    """The attempt does not count. The next attempt is due at that time (aware)."""

    until: datetime


class Said(Enum):
    """The meaning of an exception that names no time."""

    FAILURE = "an ordinary failure"
    DISCARD = "the task has failed, without another attempt"
    WORK_DONE = "the work is done, but JSON cannot represent its result"


type Wish = RetryAt | SnoozeUntil | Said


# What follows an attempt.


@attrs.frozen
class Again:
    """Another attempt follows.

    Attributes:
        at: when it is due; None if the queue decides.
        by_queue: whether the queue brings it. Otherwise the endpoint creates another Cloud Task.
        counted: whether the attempt that ends now counts.
    """

    at: datetime | None
    by_queue: bool
    counted: bool = True


@attrs.frozen
class Over:
    """The task has failed. No other attempt follows. `reason` completes "because ..."."""

    reason: str


@attrs.frozen
class NeedsWait:
    """Call the function to get the wait. Then call `after_answer`."""

    function: BackoffFunction


def after_failure(
    wish: Wish,
    *,
    policy: TaskPolicy,
    by: Repeater,
    attempt: int,
    dispatch: int,
    now: datetime,
    snooze_before: datetime | None = None,
) -> Again | Over | NeedsWait:
    """Decide what follows an attempt that raised an exception.

    Args:
        wish: the meaning of the exception.
        by: what brings the next attempt after an ordinary failure.
        attempt: the number of this attempt, from 1.
        dispatch: the number of this dispatch of its Cloud Task, from 1.
        snooze_before: the latest end of a snooze; None if there is no limit.
    """
    match wish:
        case Said.DISCARD:
            return Over("the task was discarded")
        case Said.WORK_DONE:
            return Over("its work is done")
        case SnoozeUntil(until):
            if snooze_before is not None and until > snooze_before:
                return Over(
                    f"it snoozes until {until:%Y-%m-%d %H:%M} UTC, more than {LONGEST_AGE.days} "
                    "days after it was due, and a task without a record is not kept longer"
                )
            return Again(max(until, now), by_queue=False, counted=False)
    if attempt >= policy.limit:
        return Over(f"it was attempt {attempt} of {policy.limit}")
    if isinstance(wish, RetryAt):
        return Again(max(wish.at, now), by_queue=False)
    if by is Repeater.QUEUE:
        return Again(None, by_queue=True)
    if policy.backoff is None or isinstance(policy.backoff, Backoff):
        return default_wait(policy, by=by, attempt=attempt, dispatch=dispatch, now=now)
    return NeedsWait(policy.backoff)


def after_answer(answer: object, *, now: datetime) -> Again | Over:
    """Decide what follows the answer of a backoff function.

    Raises:
        ValueError: the answer is neither a duration nor None.
    """
    if answer is None:
        return Over("its backoff function returned None")
    return Again(now + timedelta(seconds=seconds_of(answer)), by_queue=False)


def default_wait(
    policy: TaskPolicy, *, by: Repeater, attempt: int, dispatch: int, now: datetime
) -> Again:
    """Return the next attempt, after the wait of the policy or the default wait.

    The queue counts the dispatches of the Cloud Task. They are fewer than the attempts if `Retry`
    or a function led to a new Cloud Task.
    """
    failures = dispatch if by is Repeater.CLOUD_TASK else attempt
    wait = timedelta(seconds=policy.waits.seconds(failures))
    return Again(now + wait, by_queue=by is not Repeater.ENDPOINT)


def ends_for_good(error: BaseException) -> bool:
    """Return whether the exception means that the work is done and must not be repeated."""
    return isinstance(error, UnserializableReturnError)


def deadline_of(policy: TaskPolicy, dispatch_deadline: timedelta | None) -> timedelta:
    """Return how long Cloud Tasks waits for an attempt.

    Args:
        dispatch_deadline: the option DISPATCH_DEADLINE.
    """
    return policy.timeout or dispatch_deadline or DEFAULT_DISPATCH_DEADLINE

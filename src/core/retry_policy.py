"""How often a task is attempted, how long one attempt may take, and what follows from a failure.

A task has a policy; what it leaves open comes from the OPTIONS of its backend. Somebody must bring
the next attempt:

| the policy | who brings the next attempt | answer to Cloud Tasks |
|---|---|---|
| sets nothing | the queue, by its own retry settings | 500 |
| is data (`max_attempts`, `Backoff`) | the queue, by settings of the Cloud Task | 500 |
| is data that the client cannot send | the endpoint, which makes another Cloud Task | 200 |
| has a function as `backoff` | the endpoint | 200 |
| any, and the task raised `Retry` or `Snooze` | the endpoint | 200 |

To send the retry settings of one task needs google-cloud-tasks 2.25.0. A `Backoff` with 0
doublings cannot be sent: 0 means the default there.
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
    """What a task, or the OPTIONS of a backend, say about attempts. None: not said.

    Attributes:
        max_attempts: after so many failed attempts the task has failed.
        backoff: the wait before the next attempt.
        timeout: how long an attempt may take.
    """

    max_attempts: int | None = None
    backoff: Backoff | BackoffFunction | None = None
    timeout: timedelta | None = None

    def over(self, defaults: "TaskPolicy") -> "TaskPolicy":
        """This policy, with the defaults where it says nothing."""
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
        """The waits as data; those of a queue where a function decides or nothing is said."""
        return self.backoff if isinstance(self.backoff, Backoff) else DEFAULT_BACKOFF


def read_max_attempts(value: object) -> int:
    """A number of attempts.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_ATTEMPTS:
        return value
    raise ValueError(f"a whole number from 1 to {_MOST_ATTEMPTS:,}")


def read_timeout(value: object) -> timedelta:
    """A timeout, from seconds or a timedelta.

    Raises:
        ValueError: it is none that Cloud Tasks takes.
    """
    try:
        timeout = timedelta(seconds=seconds_of(value))
    except ValueError:
        timeout = timedelta()
    if SHORTEST_TIMEOUT <= timeout <= LONGEST_TIMEOUT:
        return timeout
    raise ValueError("15 seconds to 30 minutes, as a number of seconds or a timedelta")


def read_backoff(value: object) -> Backoff | BackoffFunction:
    """A backoff: data, or a function of an exception and a `TaskResult`.

    Raises:
        ValueError: it is neither.
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
        pass  # A built-in function has no signature to look at.
    function: BackoffFunction = value
    return function


_READERS: Mapping[str, Callable[[object], object]] = {
    "max_attempts": read_max_attempts,
    "backoff": read_backoff,
    "timeout": read_timeout,
}


def read_policy(values: Mapping[str, object]) -> TaskPolicy:
    """The policy that a task declares; None means: not said.

    Raises:
        ValueError: names the value, and says what it must be.
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
    """Who brings the next attempt after an ordinary failure."""

    QUEUE = "the queue, by its own settings"
    CLOUD_TASK = "the queue, by the settings that the Cloud Task carries"
    ENDPOINT = "the endpoint, which makes another Cloud Task"


def repeater(policy: TaskPolicy, *, sends_retry_config: bool) -> Repeater:
    """Who brings the next attempt at a task of that policy.

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
    """What the Cloud Task carries; None leaves the settings of the queue in force."""
    if repeater(policy, sends_retry_config=sends_retry_config) is Repeater.CLOUD_TASK:
        return RetrySettings(policy.limit, policy.waits)
    return None


# What a task says by what it raises.


@attrs.frozen
class RetryAt:
    """This attempt failed; the next one is due then (aware)."""

    at: datetime


@attrs.frozen
class SnoozeUntil:
    """This was no attempt; the next one is due then (aware)."""

    until: datetime


class Said(Enum):
    """What else an exception means."""

    FAILURE = "an ordinary failure"
    DISCARD = "over, never again"
    WORK_DONE = "its work is done, and only its answer is missing"


type Wish = RetryAt | SnoozeUntil | Said


# What follows.


@attrs.frozen
class Again:
    """The task will be attempted again.

    Attributes:
        at: when the next attempt is due; None if the queue decides.
        by_queue: the queue brings it; otherwise the endpoint makes another Cloud Task.
        counted: whether this attempt counts.
    """

    at: datetime | None
    by_queue: bool
    counted: bool = True


@attrs.frozen
class Over:
    """The task has failed, and will not be attempted again. `reason` completes "because ..."."""

    reason: str


@attrs.frozen
class NeedsWait:
    """Ask the function how long to wait, and then `after_answer`."""

    function: BackoffFunction


def after_failure(
    wish: Wish,
    *,
    policy: TaskPolicy,
    by: Repeater,
    attempt: int,
    now: datetime,
    snooze_before: datetime | None = None,
) -> Again | Over | NeedsWait:
    """Decide what follows when an attempt raised something.

    Args:
        wish: what the exception means.
        by: who brings the next attempt, after an ordinary failure.
        attempt: the number of this attempt, from 1.
        snooze_before: a snooze must end before this time, where there is such a time.
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
        return default_wait(policy, by=by, attempt=attempt, now=now)
    return NeedsWait(policy.backoff)


def after_answer(answer: object, *, now: datetime) -> Again | Over:
    """Decide what follows from what a backoff function returned.

    Raises:
        ValueError: it is no wait.
    """
    if answer is None:
        return Over("its backoff function returned None")
    return Again(now + timedelta(seconds=seconds_of(answer)), by_queue=False)


def default_wait(policy: TaskPolicy, *, by: Repeater, attempt: int, now: datetime) -> Again:
    """The next attempt after the wait that the policy has as data, or the default one."""
    wait = timedelta(seconds=policy.waits.seconds(attempt))
    return Again(now + wait, by_queue=by is not Repeater.ENDPOINT)


def ends_for_good(error: BaseException) -> bool:
    """Whether the work of a task that raised this is done, and must not be done again."""
    return isinstance(error, UnserializableReturnError)


def deadline_of(policy: TaskPolicy, dispatch_deadline: timedelta | None) -> timedelta:
    """How long an attempt may take until Cloud Tasks gives it up.

    Args:
        dispatch_deadline: the option of that name.
    """
    return policy.timeout or dispatch_deadline or DEFAULT_DISPATCH_DEADLINE

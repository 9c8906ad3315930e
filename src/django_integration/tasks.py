"""What a task can declare, the context that its function gets, and what it can raise."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Concatenate, Literal, overload

from django.conf import settings
from django.tasks import task as django_task
from django.tasks.base import Task, TaskContext
from django.tasks.exceptions import InvalidTask
from django.utils import timezone

from ..core.backoff import Backoff, seconds_of
from ..core.errors import CloudTasksError
from ..core.payload import is_in_calendar
from ..core.retry_policy import (
    DEFAULT_MAX_ATTEMPTS,
    BackoffFunction,
    RetryAt,
    Said,
    SnoozeUntil,
    TaskPolicy,
    Wish,
    ends_for_good,
    read_policy,
)
from .timezones import from_site

_FRESH = 1.0  # seconds until the store is asked again


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CloudTask(Task):  # type: ignore[type-arg]  # generic in the stubs only
    """A task of `CloudTasksBackend`. It also runs under the backends of Django.

    Attributes:
        atomic: whether the function and the record of its success are one transaction, in the
            database that keeps the records.
        max_attempts: after so many failed attempts the task has failed. Default: MAX_ATTEMPTS.
        backoff: the wait before the next attempt: a `Backoff`, or a function of the exception and
            the `TaskResult` that returns seconds, a timedelta, or None to give up.
            Default: BACKOFF.
        timeout: how long an attempt may take, 15 seconds to 30 minutes. Default: TASK_TIMEOUT.

    Other backends ignore these.
    """

    atomic: bool = False
    max_attempts: int | None = None
    # A callable object can be unhashable, for example an instance of a dataclass.
    backoff: Backoff | BackoffFunction | None = dataclasses.field(default=None, hash=False)
    timeout: timedelta | float | None = None

    def call(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the task has them
        """Call the function, with a `CloudTaskContext` if it takes a context."""
        # `super()` does not work in a dataclass with slots, because that is a new class.
        return Task.call(self, *_with_own_context(self, args), **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the task has them
        """Await the function, with a `CloudTaskContext` if it takes a context."""
        return await Task.acall(self, *_with_own_context(self, args), **kwargs)


@overload
def task[**P, R](function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task[**P, R](
    *,
    atomic: bool = False,
    max_attempts: int | None = None,
    backoff: Backoff | BackoffFunction | None = None,
    timeout: timedelta | float | None = None,
    priority: int = 0,
    queue_name: str = "default",
    backend: str = "default",
    takes_context: Literal[False] = False,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


@overload
def task[**P, R](
    *,
    atomic: bool = False,
    max_attempts: int | None = None,
    backoff: Backoff | BackoffFunction | None = None,
    timeout: timedelta | float | None = None,
    priority: int = 0,
    queue_name: str = "default",
    backend: str = "default",
    takes_context: Literal[True],
) -> Callable[[Callable[Concatenate[CloudTaskContext, P], R]], Task[P, R]]: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    atomic: bool = False,
    max_attempts: int | None = None,
    backoff: Backoff | BackoffFunction | None = None,
    timeout: timedelta | float | None = None,
    **options: Any,
) -> Any:
    """The decorator `django.tasks.task` with four more arguments, for every version of Django.

    Args:
        atomic, max_attempts, backoff, timeout: see `CloudTask`. With Django 6.1,
            `django.tasks.task` takes them as well.

    Raises:
        InvalidTask: a value is wrong, or the backend cannot have atomic tasks.
    """
    declared_policy = {"max_attempts": max_attempts, "backoff": backoff, "timeout": timeout}

    def declare(declared: Callable[..., Any]) -> Task[..., Any]:
        made: Task[..., Any] = django_task(**options)(declared)
        if type(made) is Task:
            # A site can use another backend in its tests and import the same modules.
            made = CloudTask(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
        said: dict[str, Any] = {
            name: value for name, value in declared_policy.items() if value is not None
        }
        if not atomic and not said:
            return made
        if not isinstance(made, CloudTask):
            what = "be atomic" if atomic else f"have {next(iter(said))}"
            raise InvalidTask(
                f"{made.module_path} cannot {what}: its backend {made.backend!r} is not a "
                "CloudTasksBackend."
            )
        checked_policy(made.module_path, said)  # Other backends do not check them.
        return dataclasses.replace(made, atomic=atomic, **said)

    return declare if function is None else declare(function)


def _with_own_context(declared: CloudTask, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace a context of Django among the arguments by a `CloudTaskContext`."""
    if args and type(args[0]) is TaskContext:
        context = CloudTaskContext(
            task_result=args[0].task_result,
            max_attempts=declared.max_attempts or DEFAULT_MAX_ATTEMPTS,
            queue_name=declared.queue_name,
        )
        return (context, *args[1:])
    return args


def is_atomic(declared: Task[..., Any]) -> bool:
    """Return whether the task runs in one transaction with the record of its success."""
    return isinstance(declared, CloudTask) and declared.atomic


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Cancellation:
    """Whether a running task was cancelled. The store is asked at most once a second.

    Args:
        ask: asks the store; None if no records are kept.
    """

    def __init__(
        self, ask: Callable[[], bool] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._known = False
        self._asked_at: float | None = None

    def requested(self) -> bool:
        """Return whether the task was cancelled."""
        if self._ask is None or self._known:
            return self._known
        now = self._clock()
        if self._asked_at is None or now - self._asked_at >= _FRESH:
            self._asked_at = now
            self._known = self._ask()
        return self._known


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CloudTaskContext(TaskContext):  # type: ignore[type-arg,misc]  # the stubs: generic, not frozen
    """The first argument of a task that takes a context.

    It also has the attributes of Django: `task_result`, and `attempt`, from 1.

    Attributes:
        max_attempts: the number of attempts after which the task has failed.
        deadline: when Cloud Tasks gives this attempt up, and delivers the task again; a coroutine
            with a timeout is stopped a second before. Aware if USE_TZ is on. None under other
            backends.
        queue_name: the Cloud Tasks queue that delivered the task. Where Cloud Tasks did not
            deliver it: the queue of the task.
        cloud_task_name: the id of the Cloud Task; None where Cloud Tasks did not deliver it.
        scheduled_for: the tick of the schedule that enqueued the task. It is earlier than the
            attempt. Aware if USE_TZ is on. None for other tasks.
        cancellation: tells whether the task was cancelled.
    """

    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    deadline: datetime | None = None
    queue_name: str = ""
    cloud_task_name: str | None = None
    scheduled_for: datetime | None = None
    cancellation: Cancellation = dataclasses.field(default_factory=Cancellation)
    clock: Callable[[], datetime] = dataclasses.field(default=_utc_now, repr=False)

    @property
    def cancelled(self) -> bool:
        """Whether the task was cancelled while it runs. Then clean up, and return or raise.

        The answer can be one second old. It is always False if no records are kept.
        """
        return self.cancellation.requested()

    def remaining(self) -> timedelta:
        """The time until `deadline`, negative after it. Without a deadline: `timedelta.max`."""
        deadline = from_site(self.deadline)
        return timedelta.max if deadline is None else deadline - self.clock()


def policy_of(declared: Task[..., Any]) -> TaskPolicy:
    """Return the policy that a task declares.

    Raises:
        InvalidTask: a value is wrong.
    """
    if not isinstance(declared, CloudTask):
        return _NOTHING_SAID
    values = {name: getattr(declared, name) for name in _POLICY}
    if all(value is None for value in values.values()):
        return _NOTHING_SAID
    return checked_policy(declared.module_path, values)


_NOTHING_SAID = TaskPolicy()
_POLICY = ("max_attempts", "backoff", "timeout")


def checked_policy(name: str, values: Mapping[str, object]) -> TaskPolicy:
    """Check the values of a policy.

    Args:
        name: the name of the task, for the error.

    Raises:
        InvalidTask: a value is wrong.
    """
    try:
        return read_policy(values)
    except ValueError as error:
        raise InvalidTask(f"{name}: {error}") from None


# Exceptions that a task raises to say what follows.


class Retry(CloudTasksError):  # noqa: N818 - a request, not an error
    """The attempt failed, and the task chooses when the next attempt is due.

    The attempt counts. After the last attempt the task has failed.

    Args:
        after: the wait from now; seconds, or a timedelta.
        at: the time. It must be aware if USE_TZ is on.

    Raises:
        TypeError: not exactly one of them is given, or `at` is not a datetime.
        ValueError: `after` is negative, `at` is naive, or some time zones cannot express `at`.
    """

    def __init__(
        self, *, after: timedelta | float | None = None, at: datetime | None = None
    ) -> None:
        self._given: dict[str, Any] = {"after": after, "at": at}
        self.wait, self.at = _when("Retry", after=after, at=at)
        when = f"at {self.at}" if self.at else f"after {self.wait}"
        super().__init__(f"The task asked for another attempt {when}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how pickle makes a copy. By default it would not pass keyword arguments."""
        return partial(type(self), **self._given), (), self.__dict__


class Snooze(CloudTasksError):  # noqa: N818 - a request, not an error
    """The task wants to be called later. This is not a failure, and the attempt does not count.

    Without a record a task can snooze until 31 days after it was due. After that it has failed.

    Args:
        for_: the wait from now; seconds, or a timedelta.
        until: the time. It must be aware if USE_TZ is on.

    Raises:
        TypeError: not exactly one of them is given, or `until` is not a datetime.
        ValueError: `for_` is negative, `until` is naive, or some time zones cannot express it.
    """

    def __init__(
        self, *, for_: timedelta | float | None = None, until: datetime | None = None
    ) -> None:
        self._given: dict[str, Any] = {"for_": for_, "until": until}
        self.wait, self.until = _when("Snooze", for_=for_, until=until)
        when = f"until {self.until}" if self.until else f"for {self.wait}"
        super().__init__(f"The task snoozes {when}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how pickle makes a copy. By default it would not pass keyword arguments."""
        return partial(type(self), **self._given), (), self.__dict__


class Discard(CloudTasksError):  # noqa: N818 - a request, not an error
    """The task has failed, and no other attempt is made. The message says why."""


def wish_of(error: BaseException, *, now: datetime) -> Wish:
    """Return what an exception of a task means for its next attempt."""
    match error:
        case Retry():
            return RetryAt(_at(error.at, error.wait, now))
        case Snooze():
            return SnoozeUntil(_at(error.until, error.wait, now))
        case Discard():
            return Said.DISCARD
    return Said.WORK_DONE if ends_for_good(error) else Said.FAILURE


def _when(kind: str, **given: object) -> tuple[timedelta, datetime | None]:
    (wait_name, wait), (time_name, moment) = given.items()
    if (wait is None) == (moment is None):
        raise TypeError(f"{kind} takes {wait_name} or {time_name}, one of them.")
    if moment is None:
        try:
            return timedelta(seconds=seconds_of(wait)), None
        except ValueError as error:
            raise ValueError(f"{kind}({wait_name}=...): {error}") from None
    if not isinstance(moment, datetime):
        raise TypeError(f"{kind}({time_name}=...) takes a datetime, not {moment!r}.")
    if settings.USE_TZ and timezone.is_naive(moment):
        raise ValueError(
            f"{kind}({time_name}={moment!r}) has no time zone. Use timezone.now() + timedelta(...)."
        )
    try:
        aware = from_site(moment)
        is_possible = is_in_calendar(aware)
    except OverflowError:
        is_possible = False
    if not is_possible:
        raise ValueError(f"{kind}({time_name}={moment}): some time zones cannot express this time.")
    return timedelta(), aware


def _at(moment: datetime | None, wait: timedelta, now: datetime) -> datetime:
    return now + wait if moment is None else moment.astimezone(UTC)

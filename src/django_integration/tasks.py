"""What a task of this backend can declare, what its function is given, and what it may raise."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, Literal, overload

from django.conf import settings
from django.tasks import task as django_task
from django.tasks.base import Task, TaskContext
from django.tasks.exceptions import InvalidTask
from django.utils import timezone

from ..core.backoff import Backoff, seconds_of
from ..core.errors import CloudTasksError
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

_FRESH = 1.0  # seconds that an answer to "cancelled?" is good for


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CloudTask(Task):  # type: ignore[type-arg]  # generic in the stubs only
    """A task of `CloudTasksBackend`, which runs under Django's own backends as well.

    Attributes:
        atomic: whether the function and the mark of its success are one transaction of the
            database that keeps the results.
        max_attempts: after so many failed attempts the task has failed. Default: MAX_ATTEMPTS.
        backoff: the wait before the next attempt: a `Backoff`, or a function of the exception and
            the `TaskResult` that returns seconds, a timedelta, or None to give up.
            Default: BACKOFF.
        timeout: how long an attempt may take, 15 seconds to 30 minutes. Default: TASK_TIMEOUT.

    Other backends ignore these.
    """

    atomic: bool = False
    max_attempts: int | None = None
    backoff: Backoff | BackoffFunction | None = None
    timeout: timedelta | float | None = None

    def call(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the task has them
        """As Django's, with the context of this package."""
        # Not `super()`: a dataclass with slots is another class than the one that is written here.
        return Task.call(self, *_with_own_context(args), **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the task has them
        """As Django's, with the context of this package."""
        return await Task.acall(self, *_with_own_context(args), **kwargs)


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
    """`django.tasks.task` with four arguments more, on every version of Django.

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
            # A site may use another backend in its tests, and import the same modules.
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
        checked_policy(made.module_path, said)  # Under other backends as well.
        return dataclasses.replace(made, atomic=atomic, **said)

    return declare if function is None else declare(function)


def _with_own_context(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with a `CloudTaskContext` in place of Django's own, if one is among them."""
    if args and type(args[0]) is TaskContext:
        return (CloudTaskContext(task_result=args[0].task_result), *args[1:])
    return args


def is_atomic(declared: Task[..., Any]) -> bool:
    """Whether a task is to run in a transaction with the mark of its success."""
    return isinstance(declared, CloudTask) and declared.atomic


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Cancellation:
    """Whether a running task is to stop, asked at most once a second.

    Args:
        ask: asks the store.
    """

    def __init__(
        self, ask: Callable[[], bool] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._known = False
        self._asked_at: float | None = None

    def requested(self) -> bool:
        """Whether it is to stop."""
        if self._ask is None or self._known:
            return self._known
        now = self._clock()
        if self._asked_at is None or now - self._asked_at >= _FRESH:
            self._asked_at = now
            self._known = self._ask()
        return self._known


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CloudTaskContext(TaskContext):  # type: ignore[type-arg,misc]  # the stubs: generic, not frozen
    """What a task is given that takes a context.

    Django's own attributes are there too: `task_result`, and `attempt`, which is 1 first.

    Attributes:
        max_attempts: after so many failed attempts the task has failed.
        deadline: when Cloud Tasks gives this attempt up, and delivers the task again; a coroutine
            with a timeout is stopped a second before. Aware if USE_TZ is on. None under other
            backends.
        queue_name: the Cloud Tasks queue that delivered the task. Where Cloud Tasks did not
            deliver it: the queue of the task.
        cloud_task_name: the id of the Cloud Task; None where Cloud Tasks did not deliver it.
        cancellation: what to ask whether the task is to stop.
    """

    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    deadline: datetime | None = None
    queue_name: str = ""
    cloud_task_name: str | None = None
    cancellation: Cancellation = dataclasses.field(default_factory=Cancellation)
    clock: Callable[[], datetime] = dataclasses.field(default=_utc_now, repr=False)

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled this task while it runs: clean up, and return or raise.

        As of a second ago. Always False where no results are kept.
        """
        return self.cancellation.requested()

    def remaining(self) -> timedelta:
        """The time until `deadline`, negative after it. Without a deadline: `timedelta.max`."""
        deadline = from_site(self.deadline)
        return timedelta.max if deadline is None else deadline - self.clock()


def policy_of(declared: Task[..., Any]) -> TaskPolicy:
    """What a task says about its attempts.

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
    """The policy of these values.

    Args:
        name: of the task, for the error.

    Raises:
        InvalidTask: a value is wrong.
    """
    try:
        return read_policy(values)
    except ValueError as error:
        raise InvalidTask(f"{name}: {error}") from None


# What a task may raise.


class Retry(CloudTasksError):  # noqa: N818 - a request, not an error
    """This attempt failed; the next one is due at a time of the task's choice.

    It counts: after the last attempt the task has failed.

    Args:
        after: how long from now; seconds, or a timedelta.
        at: when. Aware if USE_TZ is on.

    Raises:
        TypeError: not exactly one of them is given, or `at` is not a datetime.
        ValueError: `after` is negative, or `at` is naive.
    """

    def __init__(
        self, *, after: timedelta | float | None = None, at: datetime | None = None
    ) -> None:
        self.wait, self.at = _when("Retry", after=after, at=at)
        when = f"at {self.at}" if self.at else f"after {self.wait}"
        super().__init__(f"The task asked for another attempt {when}.")


class Snooze(CloudTasksError):  # noqa: N818 - a request, not an error
    """This is no failure and does not count; the task is to be called later.

    Without a record a task can snooze until 31 days after it was due. After that it has failed.

    Args:
        for_: how long from now; seconds, or a timedelta.
        until: until when. Aware if USE_TZ is on.

    Raises:
        TypeError: not exactly one of them is given, or `until` is not a datetime.
        ValueError: `for_` is negative, or `until` is naive.
    """

    def __init__(
        self, *, for_: timedelta | float | None = None, until: datetime | None = None
    ) -> None:
        self.wait, self.until = _when("Snooze", for_=for_, until=until)
        when = f"until {self.until}" if self.until else f"for {self.wait}"
        super().__init__(f"The task snoozes {when}.")


class Discard(CloudTasksError):  # noqa: N818 - a request, not an error
    """The task has failed, and is not to be attempted again. Say why."""


def wish_of(error: BaseException, *, now: datetime) -> Wish:
    """What an exception that a task raised means for its next attempt."""
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
    return timedelta(), from_site(moment)


def _at(moment: datetime | None, wait: timedelta, now: datetime) -> datetime:
    return now + wait if moment is None else moment.astimezone(UTC)

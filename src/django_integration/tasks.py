"""What a task of this backend can be, beyond Django's own: atomic, and told of its cancelling."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Concatenate, Literal, overload

from django.tasks import task as django_task
from django.tasks.base import Task, TaskContext
from django.tasks.exceptions import InvalidTask

_FRESH = 1.0  # seconds that an answer to "cancelled?" is good for


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CloudTask(Task):  # type: ignore[type-arg]  # generic in the stubs only
    """A task of `CloudTasksBackend`, which runs under Django's own backends as well.

    Attributes:
        atomic: whether the function and the mark of its success are one transaction of the
            database that keeps the results. It means nothing to other backends.
    """

    atomic: bool = False

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
    priority: int = 0,
    queue_name: str = "default",
    backend: str = "default",
    takes_context: Literal[False] = False,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


@overload
def task[**P, R](
    *,
    atomic: bool = False,
    priority: int = 0,
    queue_name: str = "default",
    backend: str = "default",
    takes_context: Literal[True],
) -> Callable[[Callable[Concatenate[CloudTaskContext, P], R]], Task[P, R]]: ...


def task(
    function: Callable[..., Any] | None = None, /, *, atomic: bool = False, **options: Any
) -> Any:
    """`django.tasks.task` with one argument more, on every version of Django.

    Args:
        atomic: see `CloudTask`. With Django 6.1, `django.tasks.task` takes it as well.

    Raises:
        InvalidTask: the backend cannot have atomic tasks.
    """

    def declare(declared: Callable[..., Any]) -> Task[..., Any]:
        made: Task[..., Any] = django_task(**options)(declared)
        if type(made) is Task:
            # A site may use another backend in its tests, and import the same modules.
            made = CloudTask(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
        if not atomic:
            return made
        if not isinstance(made, CloudTask):
            raise InvalidTask(
                f"{made.module_path} cannot be atomic: its backend {made.backend!r} is not a "
                "CloudTasksBackend."
            )
        return dataclasses.replace(made, atomic=True)

    return declare if function is None else declare(function)


def _with_own_context(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with a `CloudTaskContext` in place of Django's own, if one is among them."""
    if args and type(args[0]) is TaskContext:
        own = CloudTaskContext(task_result=args[0].task_result, cancellation=Cancellation())
        return (own, *args[1:])
    return args


def is_atomic(declared: Task[..., Any]) -> bool:
    """Whether a task is to run in a transaction with the mark of its success."""
    return isinstance(declared, CloudTask) and declared.atomic


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CloudTaskContext(TaskContext):  # type: ignore[type-arg,misc]  # the stubs: generic, not frozen
    """What a task is given that takes a context.

    Attributes:
        cancellation: what to ask whether the task is to stop.
    """

    cancellation: Cancellation

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled this task while it runs: clean up, and return or raise.

        As of a second ago. Always False where no results are kept.
        """
        return self.cancellation.requested()


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

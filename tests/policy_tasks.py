"""Tasks with policies. A test says what each attempt does in `SCRIPT`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.tasks import TaskResult
from django_tasks_cloud_tasks import Backoff, CloudTaskContext, task

SCRIPT: list[Any] = []
"""What the attempts do, one after the other: raise an exception, call a function of the context,
or return a value."""

SEEN: list[CloudTaskContext] = []
"""The contexts of the attempts."""

ATTEMPTS: list[int] = []
"""Their numbers, as they were when the attempts began."""

ASKED: list[tuple[BaseException, int, int]] = []
"""What the backoff function was asked: the exception, the attempts, the errors listed."""

ANSWERS: list[Any] = []
"""What it answers, one after the other: an exception is raised."""


def chooses(error: BaseException, result: TaskResult[..., Any]) -> Any:
    ASKED.append((error, result.attempts, len(result.errors)))
    answer = ANSWERS.pop(0)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _act(context: CloudTaskContext) -> Any:
    SEEN.append(context)
    ATTEMPTS.append(context.attempt)
    step = SCRIPT.pop(0)
    if isinstance(step, BaseException):
        raise step
    return step(context) if isinstance(step, Callable) else step  # type: ignore[arg-type]  # mypy: a type form


@task(takes_context=True)
def plain(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True)
async def plain_async(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True, max_attempts=3, backoff=Backoff(10, 300, 3))
def data(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True, max_attempts=3, backoff=Backoff(10, 300, 3))
async def data_async(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True, max_attempts=4, backoff=chooses)
def function(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True, max_attempts=4, backoff=chooses)
async def function_async(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True, timeout=timedelta(minutes=2))
def timed(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True, timeout=15)
async def timed_async(context: CloudTaskContext) -> Any:
    value = _act(context)
    return await value if value is not None else value


@task(takes_context=True, max_attempts=1)
def once(context: CloudTaskContext) -> Any:
    return _act(context)


@task(takes_context=True)
def takes_data(context: CloudTaskContext, data: str) -> Any:
    return _act(context)


def traced[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """A usual decorator: a function that returns what the coroutine function returns."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return call


@task(timeout=15)
@traced
async def wrapped() -> None:
    await asyncio.Event().wait()

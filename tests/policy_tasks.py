"""Tasks with policies. A test sets in `SCRIPT` what each attempt does."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.tasks import TaskResult
from django_tasks_cloud_tasks import Backoff, CloudTaskContext, task

SCRIPT: list[Any] = []
"""The steps of the attempts, in order. An attempt raises its step if it is an exception. It calls
its step with the context if it is a function. Otherwise it returns its step."""

SEEN: list[CloudTaskContext] = []
"""The contexts of the attempts."""

ATTEMPTS: list[int] = []
"""The numbers of the attempts, read when each attempt began."""

ASKED: list[tuple[BaseException, int, int]] = []
"""The calls of the backoff function: the exception, the number of attempts and the number of errors
of the result."""

ANSWERS: list[Any] = []
"""The return values of the backoff function, in order. An exception among them is raised."""


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
    """Decorate a function as many decorators do: the result is not a coroutine function."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return call


@task(timeout=15)
@traced
async def wrapped() -> None:
    await asyncio.Event().wait()

"""Tasks for the tests."""

from __future__ import annotations

from django.tasks import TaskContext, task

ran: list[object] = []
"""What ran, in order; tests empty it."""


@task
def add(a: int, b: int) -> int:
    ran.append(("add", a, b))
    return a + b


@task
async def add_async(a: int, b: int) -> int:
    ran.append(("add_async", a, b))
    return a + b


@task(takes_context=True)
def which_attempt(context: TaskContext[..., object]) -> int:
    ran.append(context.attempt)
    return context.attempt


@task(takes_context=True)
def fails_twice(context: TaskContext[..., object]) -> str:
    ran.append(context.attempt)
    if context.attempt < 3:
        raise ValueError(f"attempt {context.attempt}")
    return "done"


@task
def fails(message: str) -> None:
    ran.append("fails")
    raise ValueError(message)


@task
def returns_a_set() -> set[int]:
    ran.append("returns_a_set")
    return {1}


@task
def echo(*args: object, **kwargs: object) -> object:
    ran.append((args, kwargs))
    return [list(args), kwargs]


def not_a_task() -> None:
    ran.append("not a task")

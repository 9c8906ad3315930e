"""Tasks for the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from django.tasks import TaskContext, task

ran: list[object] = []
"""The tasks that ran, in order; a fixture empties the list."""


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


@task
def enqueues_add(count: int) -> None:
    ran.append(("enqueues_add", count))
    if count > 1:
        enqueues_add.enqueue(count - 1)
    else:
        add.enqueue(0, 0)


_arrived = 0
_all_there: asyncio.Event | None = None


@task
async def meets(others: int) -> None:
    """Wait until this number of `meets` tasks run at the same time."""
    global _arrived, _all_there  # noqa: PLW0603 - the tasks of one process share these
    _all_there = _all_there or asyncio.Event()
    _arrived += 1
    if _arrived == others:
        _all_there.set()
    await asyncio.wait_for(_all_there.wait(), 20)


class Unreadable(Sequence[int]):
    """A sequence whose items cannot be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: object) -> Any:
        raise KeyError(index)


class BadStr(Exception):  # noqa: N818 - the name describes its behaviour
    def __str__(self) -> str:
        raise SystemExit


class BadFormat(str):
    __slots__ = ()

    def __format__(self, _: str) -> str:
        raise RuntimeError


HOSTILE: dict[str, Callable[[], BaseException]] = {
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": asyncio.CancelledError,
    "BaseException": BaseException,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError(1), OSError(2)]),
    "a __str__ that exits": BadStr,
    "a message that cannot be formatted": lambda: ValueError(BadFormat("x")),
    "a lone surrogate": lambda: ValueError("\ud800"),
}


@task
def raises(kind: str) -> None:
    ran.append(kind)
    error = HOSTILE[kind]()
    raise error


@task
async def raises_async(kind: str) -> None:
    ran.append(kind)
    error = HOSTILE[kind]()
    raise error


@task
async def awaits_what_it_cancelled() -> None:
    waiting = asyncio.ensure_future(asyncio.sleep(30))
    await asyncio.sleep(0)
    waiting.cancel()
    await waiting


@task
def returns_the_unreadable() -> Unreadable:
    return Unreadable()


_waiting: dict[object, asyncio.Event] = {}


def waiting() -> asyncio.Event:
    """Return an event of the running loop. `waits_for_ever` sets it when it waits."""
    return _waiting.setdefault(asyncio.get_running_loop(), asyncio.Event())


@task
async def waits_for_ever() -> None:
    waiting().set()
    await asyncio.Event().wait()

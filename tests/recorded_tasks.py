"""Tasks with a record. A test puts a function into `DURING`, and the task calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.tasks import task as django_task
from django_tasks_cloud_tasks import CloudTaskContext, task

from tests.models import Mark

DURING: dict[str, Callable[..., Any]] = {}
"""For each name that a task gets as its argument: the function that it calls."""


def _do(name: str, *args: object) -> Any:
    return DURING[name](*args) if name in DURING else name


@django_task(backend="stored")
def does(name: str) -> Any:
    return _do(name)


@django_task(backend="stored")
async def does_async(name: str) -> Any:
    return await sync_to_async(_do)(name)


@task(backend="stored", takes_context=True)
def knows(context: CloudTaskContext, name: str) -> Any:
    return _do(name, context)


@task(backend="stored", takes_context=True)
async def knows_async(context: CloudTaskContext, name: str) -> Any:
    return await DURING[name](context)


@task(backend="stored", atomic=True)
def marks(name: str) -> Any:
    Mark.objects.create(name=name)
    return _do(name)


@task(backend="stored", atomic=True)
async def marks_async(name: str) -> Any:
    await Mark.objects.acreate(name=name)
    return await sync_to_async(_do)(name)


@django_task(backend="stored")
def returns_a_set() -> set[int]:
    Mark.objects.create(name="a set")
    return {1}


@task(backend="stored", atomic=True)
def marks_and_returns_a_set() -> set[int]:
    Mark.objects.create(name="a set")
    return {1}


@task(backend="stored", atomic=True)
def marks_there(name: str) -> Any:
    """Write a mark to the database in which the backend keeps its records."""
    backend: Any = marks_there.get_backend()
    Mark.objects.using(backend.configuration.results.database).create(name=name)
    return _do(name)


@task(backend="stored", atomic=True)
def marks_and_tells(name: str) -> int:
    Mark.objects.create(name=name)
    return Mark.objects.filter(name=name).count()

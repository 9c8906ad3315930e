"""The tasks of the storm. Each writes its effect to the database in a different way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django_tasks_cloud_tasks import CloudTaskContext, task

from tests.models import Counter, Mark, Order
from tests.storm.journal import told

UNDONE = "undone: "
"""The start of the mark of an attempt that raised. The library must not commit such a mark."""


def _count(kind: str, mark: str) -> None:
    Counter.objects.filter(name=kind).update(value=F("value") + 1)
    Mark.objects.create(name=mark)


@task(backend="stored", atomic=True, takes_context=True)
def atomic(context: CloudTaskContext, number: int) -> int:
    with told(context):
        _count("atomic", context.task_result.id)
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def fails_at_first(context: CloudTaskContext, number: int) -> int:
    with told(context):
        _count("fails_at_first", context.task_result.id)
        if not context.task_result.errors:
            raise ValueError(f"the first attempt at {number}")
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def outlasts_its_lease(context: CloudTaskContext, number: int) -> int:
    with told(context):
        time.sleep(2.5)  # longer than the lease, before the task holds a lock
        _count("outlasts_its_lease", context.task_result.id)
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def enqueues_another(context: CloudTaskContext, number: int) -> int:
    """Enqueue exactly one other task, regardless of the number of attempts."""
    with told(context):
        _count("enqueues_another", context.task_result.id)
        Order.objects.create(task_id=atomic.enqueue(number).id, kind="atomic", number=number)
    return number * 2


def _leave_open(number: int) -> None:
    """Open a transaction and leave it open. The number selects one of three ways."""
    match number % 3:
        case 0:
            transaction.set_autocommit(False)
        case 1:
            with connection.cursor() as cursor:
                cursor.execute("BEGIN")
        case 2:
            transaction.atomic().__enter__()


@task(backend="stored", takes_context=True)
def leaves_open(context: CloudTaskContext, number: int) -> int:
    """Return and leave a transaction open, or close the connection."""
    with told(context):
        if number % 4:
            _leave_open(number)
        Mark.objects.create(name=context.task_result.id)
        if not number % 4:
            connection.close()
    return number * 2


@task(backend="stored", takes_context=True)
def fails_open(context: CloudTaskContext, number: int) -> int:
    """In the first attempt, leave a transaction open and raise."""
    with told(context):
        if not context.task_result.errors:
            _leave_open(number)
            Mark.objects.create(name=UNDONE + context.task_result.id)
            raise ValueError(f"the first attempt at {number}")
        Mark.objects.create(name=context.task_result.id)
    return number * 2


@task(backend="stored", takes_context=True)
def plain(context: CloudTaskContext, number: int) -> int:
    with told(context):
        Mark.objects.create(name=context.task_result.id)
    return number * 2


@task(backend="stored", takes_context=True)
def fills_the_pool(context: CloudTaskContext, number: int) -> int:
    """Keep the connection of the pool for longer than the interval of the lease renewals."""
    with told(context):
        Mark.objects.create(name=context.task_result.id)
        time.sleep(1.0)
    return number * 2


@task(backend="stored", takes_context=True)
async def waits(context: CloudTaskContext, number: int) -> int:
    with told(context):
        await asyncio.sleep(0.3)
        await Mark.objects.acreate(name=context.task_result.id)
    return number * 2


ATOMIC = {made.name for made in (atomic, fails_at_first, outlasts_its_lease, enqueues_another)}
RAISING = {fails_at_first.name, fails_open.name}
"""The kinds whose first attempt raises a ValueError."""
LEAVING = {leaves_open.name}
"""The kinds whose effect the library commits, after they return."""
MARKING = {plain.name, fails_open.name, fills_the_pool.name, waits.name}
"""The kinds whose effect is committed before they return."""

QUEUES: dict[str, int] = {"default": -1, "few": 3, "one": 1}
"""The maximum number of attempts of each queue; -1 for no limit."""


def kinds_of(ingredients: Collection[str]) -> dict[str, Any]:
    """Return the tasks of a storm with these parts, by name."""
    kinds: list[Any] = [
        *(atomic, fails_at_first, outlasts_its_lease, enqueues_another, plain, waits),
        *((leaves_open, fails_open) if "open" in ingredients else ()),
        *((fills_the_pool,) if "pool" in ingredients else ()),
    ]
    return {made.name: made for made in kinds}

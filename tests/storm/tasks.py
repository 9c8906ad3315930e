"""Tasks that count, each in its own way."""

from __future__ import annotations

import time
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django_tasks_cloud_tasks import CloudTaskContext, task

from tests.models import Counter, Mark, Order


def _count(kind: str, mark: str) -> None:
    Counter.objects.filter(name=kind).update(value=F("value") + 1)
    Mark.objects.create(name=mark)


@task(backend="stored", atomic=True, takes_context=True)
def atomic(context: CloudTaskContext, number: int) -> int:
    _count("atomic", context.task_result.id)
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def fails_at_first(context: CloudTaskContext, number: int) -> int:
    _count("fails_at_first", context.task_result.id)
    if not context.task_result.errors:
        raise ValueError(f"the first attempt at {number}")
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def outlasts_its_lease(context: CloudTaskContext, number: int) -> int:
    time.sleep(2.5)  # what it is about: longer than the lease, before it holds any lock
    _count("outlasts_its_lease", context.task_result.id)
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def enqueues_another(context: CloudTaskContext, number: int) -> int:
    """Exactly one task more, however often this one is tried."""
    _count("enqueues_another", context.task_result.id)
    Order.objects.create(task_id=atomic.enqueue(number).id, kind="atomic", number=number)
    return number * 2


@task(backend="stored", takes_context=True)
def leaves_open(context: CloudTaskContext, number: int) -> int:
    """Each time in another way: a transaction that is not committed, or no connection at all."""
    if number % 4 == 0:
        transaction.set_autocommit(False)
    elif number % 4 == 1:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
    elif number % 4 == 2:
        transaction.atomic().__enter__()
    Mark.objects.create(name=context.task_result.id)
    if number % 4 == 3:
        connection.close()
    return number * 2


@task(backend="stored", takes_context=True)
def plain(context: CloudTaskContext, number: int) -> int:
    Mark.objects.create(name=context.task_result.id)
    return number * 2


KINDS: dict[str, Any] = {
    made.name: made
    for made in (atomic, fails_at_first, outlasts_its_lease, enqueues_another, leaves_open, plain)
}
ATOMIC = [name for name in KINDS if name not in {"plain", "leaves_open"}]

QUEUES: dict[str, int] = {"default": -1, "few": 3, "one": 1}
"""The attempts that each queue makes of a task; -1 without end."""

"""The tasks of the storm. Each writes its effect to the database in a different way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.db.models import F
from django.tasks import TaskResult
from django_tasks_cloud_tasks import Backoff, CloudTaskContext, Discard, Retry, Snooze, task

from tests.models import Counter, Mark, Order
from tests.storm.journal import snoozes_of, tell_of_commit, told

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


# Tasks with policies, and tasks that raise Retry, Snooze or Discard.

FAILED_PATH = "builtins.ValueError"
"""The class path of the error that tasks raise on purpose."""

RETRY_PATH, DISCARD_PATH = (f"{kind.__module__}.{kind.__qualname__}" for kind in (Retry, Discard))

TIMES = 2
"""The number of times that a task retries or snoozes before it succeeds."""


def _errors(context: CloudTaskContext, path: str) -> int:
    """Return the number of errors with this class path in the record of the task."""
    return sum(error.exception_class_path == path for error in context.task_result.errors)


def _fail_at_times(context: CloudTaskContext, number: int) -> None:
    """Raise an error in the first attempts. The number modulo 4 is the number of these attempts.

    With 3 of them, no attempt is left under a policy with `max_attempts=3`.
    """
    if _errors(context, FAILED_PATH) < number % 4:
        raise ValueError(f"an attempt at {number}")


@task(backend="stored", takes_context=True, max_attempts=3, backoff=Backoff(0.2, 1.0, 2))
def data(context: CloudTaskContext, number: int) -> int:
    """Run under a policy that the Cloud Task carries."""
    with told(context):
        _fail_at_times(context, number)
        Mark.objects.create(name=context.task_result.id)
    return number * 2


@task(backend="stored", takes_context=True, max_attempts=3, backoff=Backoff(0.2, 1.0, 2))
async def data_async(context: CloudTaskContext, number: int) -> int:
    with told(context):
        _fail_at_times(context, number)
        await Mark.objects.acreate(name=context.task_result.id)
    return number * 2


@task(backend="stored", takes_context=True, max_attempts=3, backoff=Backoff(0.3, 1.0, 0))
def data_by_endpoint(context: CloudTaskContext, number: int) -> int:
    """Run under a policy that a Cloud Task cannot carry, because it has no doublings."""
    with told(context):
        _fail_at_times(context, number)
        Mark.objects.create(name=context.task_result.id)
    return number * 2


def gives_up(number: int, errors: int) -> bool:
    """Return whether the backoff function of `function` returns None.

    Args:
        number: the number of the order.
        errors: the number of errors so far.
    """
    return number % 4 == 3 and errors >= 2


def chooses(_: BaseException, result: TaskResult[..., Any]) -> float | None:
    """Return the wait in seconds; None to give up. The backoff function of `function`."""
    return None if gives_up(result.args[0], len(result.errors)) else WAITS["function"]


@task(backend="stored", takes_context=True, max_attempts=4, backoff=chooses)
def function(context: CloudTaskContext, number: int) -> int:
    with told(context):
        _fail_at_times(context, number)
        Mark.objects.create(name=context.task_result.id)
    return number * 2


@task(backend="stored", takes_context=True)
def retries(context: CloudTaskContext, number: int) -> int:
    with told(context):
        if _errors(context, RETRY_PATH) < TIMES:
            raise Retry(after=WAITS["retries"])
        Mark.objects.create(name=context.task_result.id)
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def retries_atomic(context: CloudTaskContext, number: int) -> int:
    with told(context):
        _count("retries_atomic", context.task_result.id)
        if _errors(context, RETRY_PATH) < TIMES:
            raise Retry(after=WAITS["retries_atomic"])
    return number * 2


@task(backend="stored", takes_context=True)
async def retries_async(context: CloudTaskContext, number: int) -> int:
    with told(context):
        if _errors(context, RETRY_PATH) < TIMES:
            raise Retry(after=WAITS["retries_async"])
        await Mark.objects.acreate(name=context.task_result.id)
    return number * 2


@task(backend="stored", takes_context=True, max_attempts=2)
def snoozes(context: CloudTaskContext, number: int) -> int:
    """Snooze as many times as the task may be attempted. A snooze does not count as an attempt."""
    with told(context):
        if snoozes_of(context) < TIMES:
            raise Snooze(for_=WAITS["snoozes"])
        Mark.objects.create(name=context.task_result.id)
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
async def snoozes_atomic(context: CloudTaskContext, number: int) -> int:
    """Snooze from a coroutine in a transaction. The transaction belongs to the calling thread."""
    with told(context) as run:
        await sync_to_async(tell_of_commit)(context, run)
        await sync_to_async(_count)("snoozes_atomic", context.task_result.id)
        if snoozes_of(context) < TIMES:
            raise Snooze(for_=WAITS["snoozes_atomic"])
    return number * 2


@task(backend="stored", takes_context=True)
async def snoozes_async(context: CloudTaskContext, number: int) -> int:
    with told(context):
        if snoozes_of(context) < TIMES:
            raise Snooze(for_=WAITS["snoozes_async"])
        await Mark.objects.acreate(name=context.task_result.id)
    return number * 2


@task(backend="stored", atomic=True, takes_context=True)
def discards(context: CloudTaskContext, number: int) -> int:
    with told(context):
        _count("discards", context.task_result.id)
        raise Discard(f"{number} is not wanted")


WAITS = {
    **dict.fromkeys(("data_by_endpoint", "function"), 0.3),
    **dict.fromkeys(("retries", "retries_atomic"), 0.7),
    "retries_async": 0.0,  # The next delivery can come before this one has ended.
    **dict.fromkeys(("snoozes", "snoozes_atomic", "snoozes_async"), 0.6),
}
"""The minimum seconds between an attempt and the next attempt by the endpoint, by kind."""


def failures_of(kind: str, number: int) -> int:
    """Return how many attempts at a task of this kind and number raise a ValueError."""
    if kind in {fails_at_first.name, fails_open.name}:
        return 1
    by_number = {data.name, data_async.name, data_by_endpoint.name, function.name}
    return number % 4 if kind in by_number else 0


LIMITS = {
    **dict.fromkeys((data.name, data_async.name, data_by_endpoint.name), 3),
    function.name: 4,
    snoozes.name: 2,
}
"""The values of `max_attempts`, by kind."""

CARRYING = {data.name, data_async.name, snoozes.name}
"""The kinds whose Cloud Tasks carry their own limit. It replaces the limit of the queue."""

RETRYING = {retries.name, retries_atomic.name, retries_async.name}
SNOOZING = {snoozes.name, snoozes_atomic.name, snoozes_async.name}
DISCARDED = {discards.name}
ATOMIC = {
    *(made.name for made in (atomic, fails_at_first, outlasts_its_lease, enqueues_another)),
    *(made.name for made in (retries_atomic, snoozes_atomic, discards)),
}
LEAVING = {leaves_open.name}
"""The kinds whose effect the library commits after they return."""
MARKING = {
    *(plain.name, fails_open.name, fills_the_pool.name, waits.name),
    *(data.name, data_async.name, data_by_endpoint.name, function.name),
    *(retries.name, retries_async.name, snoozes.name, snoozes_async.name),
}
"""The kinds whose effect is committed before they return."""

QUEUES: dict[str, int] = {"default": -1, "few": 3, "one": 1}
"""The maximum number of attempts of each queue; -1 for no limit."""


POLICIES = (
    *(data, data_async, data_by_endpoint, function, discards),
    *(retries, retries_atomic, retries_async, snoozes, snoozes_atomic, snoozes_async),
)


def kinds_of(ingredients: Collection[str]) -> dict[str, Any]:
    """Return the tasks of a storm with these parts, by name."""
    kinds: list[Any] = [
        *(atomic, fails_at_first, outlasts_its_lease, enqueues_another, plain, waits),
        *((leaves_open, fails_open) if "open" in ingredients else ()),
        *((fills_the_pool,) if "pool" in ingredients else ()),
        *(POLICIES if "policies" in ingredients else ()),
    ]
    return {made.name: made for made in kinds}

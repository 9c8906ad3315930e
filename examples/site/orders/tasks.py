"""One task of each kind."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F
from django.tasks import TaskContext, task
from django_tasks_cloud_tasks import Backoff, CloudTaskContext, Retry
from django_tasks_cloud_tasks import task as cloud_task

from .models import Order


@task
def add_up(prices: list[int]) -> int:
    """A plain task."""
    return sum(prices)


@task
async def greet(name: str) -> str:
    """A coroutine."""
    return f"Hello, {name}"


@task(takes_context=True)
def describe(context: TaskContext[..., object]) -> str:
    """A task that wants to know about itself."""
    result = context.task_result
    return f"task {result.id[:8]}, attempt {context.attempt}, on {result.worker_ids[-1]}"


@task(priority=80)
def alert(message: str) -> str:
    """An urgent task: PRIORITY_QUEUES gives it a queue of its own."""
    return f"sent at once: {message}"


@task(takes_context=True)
def charge(context: TaskContext[..., object], order: int) -> str:
    """A task that fails twice, and is repeated by its queue until it succeeds."""
    if context.attempt < 3:
        raise ConnectionError(f"the bank does not answer (attempt {context.attempt})")
    return f"order {order} charged at attempt {context.attempt}"


@cloud_task(max_attempts=3, backoff=Backoff(60, 3600), timeout=30)
def print_label(order: int) -> str:
    """A task with a policy, which fails: it has three attempts, after waits of 1 and 2 minutes."""
    raise ConnectionError(f"the printer does not answer (order {order})")


@cloud_task(takes_context=True)
def confirm(context: CloudTaskContext, order: int) -> str:
    """A task that says when its next attempt is due."""
    if context.attempt == 1:
        raise Retry(after=timedelta(hours=1))
    return f"order {order} confirmed at attempt {context.attempt}"


@cloud_task(takes_context=True)
def count_orders(context: CloudTaskContext) -> str:
    """A task that recurs: SCHEDULES enqueues it once a minute."""
    return f"{Order.objects.count()} orders at {context.scheduled_for:%H:%M:%S}"


@cloud_task(atomic=True)
def pay(order_id: int) -> str:
    """A task whose effect and success are one transaction: it happens exactly once."""
    Order.objects.filter(pk=order_id).update(payments=F("payments") + 1)
    order = Order.objects.get(pk=order_id)
    return f"{order} paid {order.payments} time"

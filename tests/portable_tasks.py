"""Tasks in a module that is also imported when a backend of Django is configured."""

from __future__ import annotations

from django_tasks_cloud_tasks import CloudTaskContext, task


@task(atomic=True, takes_context=True, max_attempts=5)
def looks(context: CloudTaskContext, number: int) -> list[object]:
    return _seen(context, number)


@task(takes_context=True, max_attempts=5)
async def looks_async(context: CloudTaskContext, number: int) -> list[object]:
    return _seen(context, number)


def _seen(context: CloudTaskContext, number: int) -> list[object]:
    limit, queue = context.max_attempts, context.queue_name
    return [context.cancelled, context.attempt, limit, queue, number]

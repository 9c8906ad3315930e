"""Tasks in a module that is also imported when a backend of Django is configured."""

from __future__ import annotations

from django_tasks_cloud_tasks import CloudTaskContext, task


@task(atomic=True, takes_context=True)
def looks(context: CloudTaskContext, number: int) -> list[object]:
    return [context.cancelled, context.attempt, number]


@task(takes_context=True)
async def looks_async(context: CloudTaskContext, number: int) -> list[object]:
    return [context.cancelled, context.attempt, number]

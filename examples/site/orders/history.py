"""Receivers of Django's task signals that write the history."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.signals import task_enqueued, task_finished, task_started

from .models import TaskRun


def connect() -> None:
    """Listen."""
    for signal in (task_enqueued, task_started, task_finished):
        signal.connect(record, dispatch_uid=f"orders.history.{id(signal)}")


def record(task_result: TaskResult[..., Any], **__: object) -> None:
    """Write down where a task stands.

    The first attempt may begin before the enqueueing process gets to tell that it enqueued: a
    row that is further along is left as it is.
    """
    with transaction.atomic():
        run, _ = TaskRun.objects.select_for_update().get_or_create(
            task_id=task_result.id,
            defaults={
                "name": task_result.task.name,
                "queue": task_result.task.queue_name,
                "priority": task_result.task.priority,
                "arguments": [*task_result.args, *task_result.kwargs.values()],
                "status": task_result.status,
            },
        )
        run.enqueued_at = run.enqueued_at or task_result.enqueued_at
        if task_result.attempts >= run.attempts:
            run.status = task_result.status
            run.attempts = task_result.attempts
            run.finished_at = task_result.finished_at
            run.outcome = _outcome(task_result)
        run.save()


def _outcome(task_result: TaskResult[..., Any]) -> str:
    if task_result.status == TaskResultStatus.SUCCESSFUL:
        return str(task_result.return_value)
    if task_result.errors:
        return task_result.errors[-1].traceback.strip().rpartition("\n")[2]
    return ""

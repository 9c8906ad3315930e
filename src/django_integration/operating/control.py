"""Taking hold of tasks that were enqueued: cancel them, run them now, run them again."""

from __future__ import annotations

import logging
from typing import Any

from asgiref.sync import sync_to_async
from django.tasks.base import TaskResult
from django.tasks.exceptions import TaskResultDoesNotExist

from ...core.errors import CancelError, CloudTasksError, RunNowError
from ...core.lifecycle import CancelOutcome, Event, is_refused, redeliver, withdraw
from ...core.names import QueueName
from ...core.ports import ResultStore
from ...core.records import TaskRecord
from ...core.requests import queue_of, queue_of_record
from ..configuration import Configuration
from ..registry import SiteBackend
from ..results.task_results import mark_cancelled, recorded_task, refresh
from ..runtime import get_runtime
from ..signals import send_finished
from .relay import send
from .replaying import replay_task

logger = logging.getLogger("django_tasks_cloud_tasks")


_TRIES = 20


def cancel(result: TaskResult[..., Any]) -> CancelOutcome:
    """Cancel a task, and bring `result` up to date.

    Where results are kept, a task that waits is marked, in the caller's transaction, and will not
    run whatever else happens; its Cloud Task is deleted after the commit. One that runs is told.
    Without a store the Cloud Task is deleted, which an attempt that is under way does not notice.

    Raises:
        CancelError: the task cannot be cancelled, or Cloud Tasks did not delete it.
        ConfigurationError: something needed is neither set nor detected.
        TaskResultDoesNotExist: results are kept, and this one is not among them.
    """
    if not isinstance(result, TaskResult):
        raise TypeError(f"cancel() takes a TaskResult, which enqueue() returns, not {result!r}.")
    backend = result.task.get_backend()
    if not isinstance(backend, SiteBackend):
        raise CancelError(f"The backend {backend.alias!r} is not a CloudTasksBackend.")
    configuration = backend.configuration
    if configuration.results is None:
        return _cancel_unrecorded(configuration, result)
    outcome, record = cancel_recorded(configuration, configuration.results, result.id)
    refresh(result, record)
    return outcome


async def acancel(result: TaskResult[..., Any]) -> CancelOutcome:
    """`cancel`, in a thread."""
    return await sync_to_async(cancel)(result)


def cancel_recorded(
    configuration: Configuration, store: ResultStore, task_id: str
) -> tuple[CancelOutcome, TaskRecord]:
    """Cancel a recorded task; its record afterwards.

    Raises:
        TaskResultDoesNotExist: there is no such record.
    """
    for _ in range(_TRIES):
        record = store.get(task_id)
        if record is None:
            raise TaskResultDoesNotExist(f"There is no record of a task {task_id}.")
        decision = withdraw(record, now=get_runtime().clock())
        if decision.outcome is CancelOutcome.TOO_LATE:
            return decision.outcome, record
        if store.replace(record, decision.record):
            break
    else:
        raise CancelError(
            f"The task {task_id} keeps changing, or this transaction cannot see how it changed."
        )
    if decision.outcome is CancelOutcome.REQUESTED:
        return decision.outcome, decision.record

    def delete() -> None:
        send_finished(decision.record)
        try:
            queue = queue_of_record(record, route=configuration.route)
            _delete(configuration, queue, record.cloud_task_id)
        except CloudTasksError as error:
            # It will be delivered, and not run.
            logger.warning(
                "The task %s is cancelled and will not run, but its Cloud Task was not deleted: %s",
                task_id,
                error,
            )

    store.on_commit(delete)
    return decision.outcome, decision.record


def run_now(configuration: Configuration, store: ResultStore, record: TaskRecord) -> bool:
    """Have a task that waits delivered at once; whether it waited.

    A Cloud Task that is gone (the queue gave it up, or was emptied) is made anew.

    Raises:
        RunNowError: Cloud Tasks refused; a task that it does not have waits for the relay.
        ConfigurationError: something needed is neither set nor detected.
    """
    now = get_runtime().clock()
    if is_refused(Event.RUN_NOW, record, now):
        return False
    queue = queue_of_record(record, route=configuration.route)
    timeout = configuration.options.enqueue_timeout
    name = record.cloud_task_id
    if record.redelivery.sent and configuration.queue.run(queue, name, timeout=timeout):
        return True
    fresh = redeliver(record, now=now)
    if not store.replace(record, fresh):
        return False  # Somebody has just claimed it.
    error = send(configuration, store, fresh)
    if error:
        raise RunNowError(
            f"It will run as soon as the relay can send it. {error}", unanswered=error.unanswered
        ) from error
    return True


def run_again(record: TaskRecord) -> str:
    """Enqueue what a record tells of as a new task, with an id and a record of its own.

    Where the task has ended, both records name the other.

    Returns:
        The id of the new task; empty if somebody else replayed or deleted it at the same time.

    Raises:
        TaskResultDoesNotExist: the site has no such task any more.
        InvalidTask, InvalidTaskBackend, CloudTasksError: it cannot be enqueued.
    """
    if record.final:
        return replay_task(record, again=True).replayed_as
    task = recorded_task(record, due=False)
    return task.enqueue(*record.payload.args, **record.payload.kwargs).id


def _cancel_unrecorded(configuration: Configuration, result: TaskResult[..., Any]) -> CancelOutcome:
    if not configuration.options.name_tasks:
        raise CancelError(
            f"The task {result.id} cannot be found in its queue, because NAME_TASKS is off."
        )
    task = result.task
    queue = queue_of(task.queue_name, priority=task.priority, route=configuration.route)
    if not _delete(configuration, queue, result.id):
        return CancelOutcome.TOO_LATE
    mark_cancelled(result, now=get_runtime().clock())
    return CancelOutcome.CANCELLED


def _delete(configuration: Configuration, queue: QueueName, cloud_task_id: str) -> bool:
    timeout = configuration.options.enqueue_timeout
    return configuration.queue.delete(queue, cloud_task_id, timeout=timeout)

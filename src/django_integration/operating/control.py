"""Control of enqueued tasks: cancel a task, run it now, run it again."""

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


_TRIES = 20  # how many times a cancellation is tried while the record changes


def cancel(result: TaskResult[..., Any]) -> CancelOutcome:
    """Cancel a task, and update `result`.

    If the backend keeps results, a waiting task is marked as cancelled in the caller's transaction.
    After the commit its Cloud Task is deleted. The task will not run, even if the deletion fails.
    For a running task, the cancellation is a request that the attempt can read from its context.

    Without results, the Cloud Task is deleted. An attempt that is in progress does not notice it.

    Raises:
        CancelError: the task cannot be cancelled, or Cloud Tasks did not delete it.
        ConfigurationError: a necessary value is neither set nor detected.
        TaskResultDoesNotExist: the backend keeps results, but has no record of this task.
        TypeError: `result` is not a TaskResult.
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
    """Cancel a task as `cancel` does, in a thread."""
    return await sync_to_async(cancel)(result)


def cancel_recorded(
    configuration: Configuration, store: ResultStore, task_id: str
) -> tuple[CancelOutcome, TaskRecord]:
    """Cancel a recorded task. Return the outcome and the new record.

    Raises:
        CancelError: the record changed during every try.
        TaskResultDoesNotExist: there is no record of this task.
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
            # Cloud Tasks will deliver the task, but it will not run.
            logger.warning(
                "The task %s is cancelled and will not run, but its Cloud Task was not deleted: %s",
                task_id,
                error,
            )

    store.on_commit(delete)
    return decision.outcome, decision.record


def run_now(configuration: Configuration, store: ResultStore, record: TaskRecord) -> bool:
    """Deliver a waiting task at once. Return whether the task was waiting.

    If Cloud Tasks does not have the task, for example because the queue gave it up or was purged,
    another Cloud Task is created.

    Raises:
        RunNowError: Cloud Tasks refused the call or did not answer. If Cloud Tasks does not have
            the task, the relay sends it later.
        ConfigurationError: a necessary value is neither set nor detected.
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
        return False  # Another process has claimed it meanwhile.
    error = send(configuration, store, fresh)
    if error:
        raise RunNowError(
            f"It will run as soon as the relay can send it. {error}", unanswered=error.unanswered
        ) from error
    return True


def run_again(record: TaskRecord) -> str:
    """Enqueue the task of a record as a new task, with its own id and its own record.

    If the task has ended, this is a replay: each of the two records contains the id of the other.

    Returns:
        The id of the new task; empty if the record was replayed or deleted at the same time.

    Raises:
        TaskResultDoesNotExist: the site does not have this task any more.
        InvalidTask, InvalidTaskBackend, CloudTasksError: the task cannot be enqueued.
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

"""Taking hold of tasks that were enqueued: cancel them, run them now, run them again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Any

from asgiref.sync import sync_to_async
from django.tasks.base import TaskResult
from django.tasks.exceptions import TaskResultDoesNotExist

from ...core.errors import CancelError, CloudTasksError, ControlError, RunNowError
from ...core.names import QueueName
from ...core.outbox import anew, may_run_now
from ...core.ports import ResultStore
from ...core.records import Requested, TaskRecord, TooLate
from ...core.records import cancel as decide
from ...core.requests import queue_of
from ..configuration import Configuration
from ..enqueueing.backend import CloudTasksBackend
from ..results.task_results import mark_cancelled, recorded_task, refresh
from ..runtime import get_runtime
from .relay import send

logger = logging.getLogger("django_tasks_cloud_tasks")


_TRIES = 20


class CancelOutcome(Enum):
    """What cancelling a task came to."""

    CANCELLED = "cancelled"
    """It waited, and will not run."""

    REQUESTED = "requested"
    """It runs, and finds `context.cancelled` true; its failure will not be repeated."""

    TOO_LATE = "too late"
    """It has ended."""


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
        raise TypeError(f"cancel() takes a TaskResult, as enqueue() gives, not {result!r}.")
    backend = result.task.get_backend()
    if not isinstance(backend, CloudTasksBackend):
        raise CancelError(f"The backend {backend.alias!r} is no CloudTasksBackend.")
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
        decision = decide(record, now=get_runtime().clock())
        if isinstance(decision, TooLate):
            return CancelOutcome.TOO_LATE, record
        if store.replace(record, decision.record):
            break
    else:
        raise CancelError(
            f"The task {task_id} keeps changing, or this transaction cannot see how it changed."
        )
    if isinstance(decision, Requested):
        return CancelOutcome.REQUESTED, decision.record

    def delete() -> None:
        try:
            queue = _queue(configuration, record.queue_name, record.priority)
            _delete(configuration, queue, record.cloud_task_id)
        except CloudTasksError as error:
            # It will be delivered, and not run.
            logger.warning("The cancelled task %s stays in its queue: %s", task_id, error)

    store.on_commit(delete)
    return CancelOutcome.CANCELLED, decision.record


def run_now(configuration: Configuration, store: ResultStore, record: TaskRecord) -> bool:
    """Have a task that waits delivered at once; whether it waited.

    A Cloud Task that is gone (the queue gave it up, or was emptied) is made anew.

    Raises:
        RunNowError: Cloud Tasks refused; a task that it does not have waits for the relay.
        ConfigurationError: something needed is neither set nor detected.
    """
    now = get_runtime().clock()
    if not may_run_now(record, now=now):
        return False
    queue = _queue(configuration, record.queue_name, record.priority)
    timeout = configuration.options.enqueue_timeout
    name = record.cloud_task_id
    if record.sent and _answered(
        configuration,
        lambda: configuration.queue.run(queue, name, timeout=timeout),
        RunNowError,
    ):
        return True
    fresh = anew(record, now=now)
    if not store.replace(record, fresh):
        return False  # Somebody has just claimed it.
    error = send(configuration, store, fresh)
    if error:
        raise RunNowError(
            f"It will run as soon as the relay can send it. {error}", unanswered=error.unanswered
        ) from error
    return True


def run_again(record: TaskRecord) -> TaskResult[..., Any]:
    """Enqueue what a record tells of as a new task, with an id and a record of its own.

    Raises:
        TaskResultDoesNotExist: the site has no such task any more.
    """
    return recorded_task(record, due=False).enqueue(*record.args, **record.kwargs)


def _cancel_unrecorded(configuration: Configuration, result: TaskResult[..., Any]) -> CancelOutcome:
    if not configuration.options.name_tasks:
        raise CancelError(
            f"The task {result.id} cannot be found in its queue, because NAME_TASKS is off."
        )
    queue = _queue(configuration, result.task.queue_name, result.task.priority)
    if not _delete(configuration, queue, result.id):
        return CancelOutcome.TOO_LATE
    mark_cancelled(result)
    return CancelOutcome.CANCELLED


def _queue(configuration: Configuration, queue_name: str, priority: int) -> QueueName:
    return queue_of(queue_name, priority=priority, route=configuration.route)


def _delete(configuration: Configuration, queue: QueueName, cloud_task_id: str) -> bool:
    timeout = configuration.options.enqueue_timeout
    return _answered(
        configuration,
        lambda: configuration.queue.delete(queue, cloud_task_id, timeout=timeout),
        CancelError,
    )


def _answered(
    configuration: Configuration, call: Callable[[], bool], refusal: type[ControlError]
) -> bool:
    """What Cloud Tasks answers, unless it has just not answered another call.

    Raises:
        ControlError: of the class `refusal`, if it was not asked; or whatever the call raises.
    """
    if configuration.breaker.is_open(get_runtime().clock()):
        raise refusal("Cloud Tasks did not answer a moment ago.", unanswered=True)
    with configuration.noting_silence():
        return call()

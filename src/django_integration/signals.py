"""Sends Django's task signals."""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal
from django.tasks import signals, task_backends
from django.tasks.base import TaskResult
from django.tasks.exceptions import InvalidTaskBackend, TaskResultDoesNotExist

from ..core.records import TaskRecord
from .results.task_results import recorded_result, recorded_task

logger = logging.getLogger("django_tasks_cloud_tasks")

_LOG_RECEIVERS = {
    id(signals.log_task_enqueued),
    id(signals.log_task_started),
    id(signals.log_task_finished),
}


def send_signal(signal: Signal, backend: type, result: TaskResult[..., Any]) -> None:
    """Send a signal.

    Django logs an exception of a receiver, and it is not raised here. The task is already in its
    queue or has run, and must not be enqueued or run a second time.
    """
    signal.send_robust(backend, task_result=result)


async def asend_signal(signal: Signal, backend: type, result: TaskResult[..., Any]) -> None:
    """Send a signal as `send_signal` does, on the running event loop.

    Django calls synchronous receivers in a thread. Its own receivers of these signals only write
    to the log. If there are no others, they are called without a thread.
    """
    if all(lookup_key[0] in _LOG_RECEIVERS for lookup_key, *_ in signal.receivers):
        signal.send_robust(backend, task_result=result)
    else:
        await signal.asend_robust(backend, task_result=result)


def send_finished(record: TaskRecord) -> None:
    """Send `task_finished` for a task that ended without running, for example when cancelled.

    The code that stores such an end must call this function once.
    """
    try:
        result = recorded_result(recorded_task(record), record)
        backend = type(task_backends[record.payload.backend])
    except (TaskResultDoesNotExist, InvalidTaskBackend) as error:
        logger.warning("The signal task_finished is not sent. %s", error)
        return
    send_signal(signals.task_finished, backend, result)

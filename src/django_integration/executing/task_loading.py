"""Loads the task of a payload: imports its module and applies the values of the enqueue."""

from __future__ import annotations

import logging
import sys
from functools import partial
from importlib import import_module
from typing import Any

from django.tasks.base import Task
from django.tasks.exceptions import InvalidTask

from ...core.outcomes import UnknownTask
from ...core.payload import TaskPayload
from ..exceptions import message_of
from .flow import Flow, Wait

logger = logging.getLogger("django_tasks_cloud_tasks")

_NOTHING = object()


def load(payload: TaskPayload) -> Flow[Task[..., Any] | UnknownTask]:
    """Return the task at the path in the payload. The flow can wait for the import of its module.

    The result is `UnknownTask` if there is no task at the path, or if the import fails.
    """
    if _is_loaded(payload.task_path):
        return _load(payload)
    task: Task[..., Any] | UnknownTask = yield Wait(partial(_load, payload))
    return task


def as_enqueued(task: Task[..., Any], payload: TaskPayload) -> Task[..., Any] | UnknownTask:
    """Return the task with the queue, the priority and the backend in the payload.

    The result is `UnknownTask` if the backend of this site does not accept them.
    """
    wanted = (payload.queue_name, payload.priority, payload.backend)
    if (task.queue_name, task.priority, task.backend) == wanted:
        return task
    try:
        return task.using(
            queue_name=payload.queue_name, priority=payload.priority, backend=payload.backend
        )
    except InvalidTask as error:
        return _unknown(payload, f"{payload.task_path} cannot be executed here: {error}")


def _is_loaded(task_path: str) -> bool:
    """Return whether the module is already imported, and no other thread is importing it."""
    spec = getattr(sys.modules.get(task_path.rpartition(".")[0]), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _load(payload: TaskPayload) -> Task[..., Any] | UnknownTask:
    path = payload.task_path
    module_path, _, name = path.rpartition(".")
    try:
        # sys.modules can contain a module that another thread is still importing. import_module
        # waits for the end of that import.
        module = import_module(module_path)
        task = getattr(module, name, _NOTHING)
    except KeyboardInterrupt:
        raise
    except ImportError as error:
        return _unknown(payload, f"There is no task {path}: {message_of(error)}.")
    except BaseException as error:
        logger.exception("The module of the task %s could not be imported.", path)
        reason = f"The module of {path} raised {type(error).__name__} when it was imported."
        return UnknownTask(payload.task_id, reason)
    if isinstance(task, Task):
        return task
    reason = f"the module has no {name!r}" if task is _NOTHING else "it is not a task"
    return _unknown(payload, f"There is no task {path}: {reason}.")


def _unknown(payload: TaskPayload, reason: str) -> UnknownTask:
    logger.warning("No task was executed: %s", reason)
    return UnknownTask(payload.task_id, reason)

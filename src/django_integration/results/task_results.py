"""The `TaskResult` of Django for a task at each stage.

`TaskResult` is frozen. The backends of Django change it with `object.__setattr__`, and so does this
module: the caller keeps the object and must see its new state.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from datetime import datetime
from io import IOBase
from typing import Any, cast

import attrs
from django.tasks.base import TASK_REFRESH_ATTRS, Task, TaskError, TaskResult, TaskResultStatus
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from ...core.errors import UnfinishedWorkError, UnserializableReturnError
from ...core.payload import Json
from ...core.records import CANCELLED_TEXT, TASK_CANCELLED, State, TaskRecord
from ..exceptions import message_of, traceback_of
from ..timezones import to_site

_ENCODER = json.JSONEncoder(allow_nan=False)
_PROMISES = (Awaitable, Iterator, AsyncIterator, Future)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_DEEPEST = 20  # levels of nested containers

_STATUS = {
    State.READY: TaskResultStatus.READY,
    State.RUNNING: TaskResultStatus.RUNNING,
    State.SUCCESSFUL: TaskResultStatus.SUCCESSFUL,
    State.FAILED: TaskResultStatus.FAILED,
    # Django has no such status. The last error says that the task was cancelled.
    State.CANCELLED: TaskResultStatus.FAILED,
}


def ready_result[**P, R](
    task: Task[P, R], task_id: str, args: list[Any], kwargs: dict[str, Any], *, alias: str
) -> TaskResult[P, R]:
    """Return the result of a task that is being enqueued."""
    return _result(task, task_id, TaskResultStatus.READY, args, kwargs, alias, None, None, [])


def running_result[**P, R](
    task: Task[P, R],
    *,
    task_id: str,
    args: list[Any],
    kwargs: dict[str, Any],
    enqueued_at: datetime | None,
    worker_ids: list[str],
    now: datetime,
) -> TaskResult[P, R]:
    """Return the result of a task whose attempt begins now."""
    status, shown, began = TaskResultStatus.RUNNING, to_site(enqueued_at), to_site(now)
    return _result(task, task_id, status, args, kwargs, task.backend, shown, began, worker_ids)


def recorded_result[**P, R](task: Task[P, R], record: TaskRecord) -> TaskResult[P, R]:
    """Return the result of a recorded task."""
    payload = record.payload
    result = _result(
        task,
        record.task_id,
        _STATUS[record.state],
        list(payload.args),
        dict(payload.kwargs),
        payload.backend,
        to_site(payload.enqueued_at),
        to_site(record.started_at),
        list(record.worker_ids),
    )
    errors = [TaskError(**attrs.asdict(error)) for error in record.errors]
    object.__setattr__(result, "errors", errors)
    object.__setattr__(result, "last_attempted_at", to_site(record.last_attempted_at))
    object.__setattr__(result, "finished_at", to_site(record.finished_at))
    object.__setattr__(result, "_return_value", record.return_value)
    return result


def recorded_task(record: TaskRecord, *, due: bool = True) -> Task[..., Any]:
    """Return the task of a record, as it was enqueued. This imports its module.

    Args:
        due: whether the task has the `run_after` of the record.

    Raises:
        TaskResultDoesNotExist: the site does not have this task any more.
    """
    payload = record.payload
    try:
        task = import_string(payload.task_path)
    except Exception as error:  # the import of a module can raise anything
        reason = message_of(error) or type(error).__name__
        raise TaskResultDoesNotExist(
            f"The task {record.task_id} cannot be loaded: {reason}."
        ) from error
    if not isinstance(task, Task):
        raise TaskResultDoesNotExist(
            f"The task {record.task_id} cannot be loaded: {payload.task_path} is not a task any "
            "more."
        )
    try:
        return task.using(
            queue_name=payload.queue_name,
            priority=payload.priority,
            backend=payload.backend,
            run_after=to_site(record.run_after) if due else None,
        )
    except (InvalidTask, InvalidTaskBackend) as error:
        raise TaskResultDoesNotExist(
            f"The task {record.task_id} cannot be loaded: {error}"
        ) from error


def refresh(result: TaskResult[..., Any], record: TaskRecord) -> None:
    """Update a result from its record, like its method `refresh()`."""
    fresh = recorded_result(result.task, record)
    for name in TASK_REFRESH_ATTRS:
        object.__setattr__(result, name, getattr(fresh, name))


def _result[**P, R](
    task: Task[P, R],
    task_id: str,
    status: TaskResultStatus,
    args: list[Any],
    kwargs: dict[str, Any],
    alias: str,
    enqueued_at: datetime | None,
    started_at: datetime | None,
    worker_ids: list[str],
) -> TaskResult[P, R]:
    result = TaskResult(
        task=task,
        id=task_id,
        status=status,
        enqueued_at=enqueued_at,
        started_at=started_at,
        finished_at=None,
        last_attempted_at=started_at,
        args=[],
        kwargs={},
        backend=alias,
        errors=[],
        worker_ids=worker_ids,
    )
    # These values come from JSON. TaskResult would normalize them a second time.
    object.__setattr__(result, "args", args)
    object.__setattr__(result, "kwargs", kwargs)
    return result


def mark_enqueued(result: TaskResult[..., Any], moment: datetime) -> None:
    """Set the time when the task was enqueued (aware)."""
    object.__setattr__(result, "enqueued_at", to_site(moment))


def mark_successful(result: TaskResult[..., Any], value: object, *, now: datetime) -> Json:
    """Mark the result as successful. Return `value` as JSON normalizes it.

    Raises:
        UnserializableReturnError: JSON cannot represent the value.
        UnfinishedWorkError: the value is, or contains, work that has not run yet.
    """
    _refuse_promises(value)
    try:
        normalized: Json = normalize_json(value)
        _ENCODER.encode(normalized)  # `normalize_json` accepts NaN and numbers with too many digits
    except Exception as error:
        _refuse_promises(value, inside=True)
        raise UnserializableReturnError(type(value)) from error
    object.__setattr__(result, "_return_value", normalized)
    _finish(result, TaskResultStatus.SUCCESSFUL, now)
    return normalized


def _refuse_promises(value: object, *, inside: bool = False, depth: int = 0) -> None:
    """Refuse a value that stands for work that has not run, such as a coroutine.

    Args:
        inside: whether to look into containers.
    """
    if isinstance(value, _PROMISES) and not isinstance(value, IOBase):
        if isinstance(value, Coroutine):
            value.close()  # Otherwise Python warns that nobody awaited it.
        raise UnfinishedWorkError(
            f"The task returned a value of the type {type(value).__qualname__}, which is not a "
            "result but work that has not run. Await it, or make a list of it, and return that."
        )
    # Plain containers only: other objects can run code when they are read.
    if inside and depth < _DEEPEST and type(value) in _CONTAINERS:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        for part in cast("Iterable[object]", parts):
            _refuse_promises(part, inside=True, depth=depth + 1)


def add_error(result: TaskResult[..., Any], error: BaseException) -> TaskError:
    """Add the exception of an attempt to the result."""
    kind = type(error)
    task_error = TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback=traceback_of(error),
    )
    result.errors.append(task_error)
    return task_error


def mark_failed(result: TaskResult[..., Any], *, now: datetime) -> None:
    """Mark the result as failed: no other attempt is made."""
    _finish(result, TaskResultStatus.FAILED, now)


def mark_ready(result: TaskResult[..., Any]) -> None:
    """Mark the result as waiting for another attempt."""
    object.__setattr__(result, "status", TaskResultStatus.READY)


def drop_attempt(result: TaskResult[..., Any]) -> None:
    """Remove the running attempt from the result, because the task snoozes."""
    del result.worker_ids[-1:]
    mark_ready(result)


def mark_cancelled(result: TaskResult[..., Any], *, now: datetime) -> None:
    """Mark the result as cancelled."""
    result.errors.append(TaskError(exception_class_path=TASK_CANCELLED, traceback=CANCELLED_TEXT))
    _finish(result, TaskResultStatus.FAILED, now)


def _finish(result: TaskResult[..., Any], status: TaskResultStatus, now: datetime) -> None:
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", to_site(now))

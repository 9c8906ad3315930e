"""Django's `TaskResult`s of tasks along their life.

Django's `TaskResult` is frozen, and its backends change it all the same, through
`object.__setattr__`: the caller must see the same object move on.
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
_DEEPEST = 20  # containers in one another

_STATUS = {
    State.READY: TaskResultStatus.READY,
    State.RUNNING: TaskResultStatus.RUNNING,
    State.SUCCESSFUL: TaskResultStatus.SUCCESSFUL,
    State.FAILED: TaskResultStatus.FAILED,
    # Django has no word for it; the last of its errors says that it was cancelled.
    State.CANCELLED: TaskResultStatus.FAILED,
}


def ready_result[**P, R](
    task: Task[P, R], task_id: str, args: list[Any], kwargs: dict[str, Any], *, alias: str
) -> TaskResult[P, R]:
    """The result of a task that is about to be enqueued."""
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
    """The result of a task whose execution begins now."""
    status, shown, began = TaskResultStatus.RUNNING, to_site(enqueued_at), to_site(now)
    return _result(task, task_id, status, args, kwargs, task.backend, shown, began, worker_ids)


def recorded_result[**P, R](task: Task[P, R], record: TaskRecord) -> TaskResult[P, R]:
    """The result of a task as a store knows it."""
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
    """The task that a record tells of, as it was enqueued. Imports its module.

    Args:
        due: with the time at which it was due; otherwise without.

    Raises:
        TaskResultDoesNotExist: the site has no such task any more.
    """
    payload = record.payload
    try:
        task = import_string(payload.task_path)
    except Exception as error:  # whatever the module does at its import
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
    """Bring a result up to date, as its own `refresh()` does."""
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
    # They come out of JSON. TaskResult would walk through them once more to make them fit for it.
    object.__setattr__(result, "args", args)
    object.__setattr__(result, "kwargs", kwargs)
    return result


def mark_enqueued(result: TaskResult[..., Any], moment: datetime) -> None:
    """The task is in its queue since `moment`, which is aware."""
    object.__setattr__(result, "enqueued_at", to_site(moment))


def mark_successful(result: TaskResult[..., Any], value: object, *, now: datetime) -> Json:
    """The task returned `value`; answers with what JSON makes of it.

    Raises:
        UnserializableReturnError: JSON cannot carry the value.
        UnfinishedWorkError: it is, or holds, work that has not run yet.
    """
    _refuse_promises(value)
    try:
        normalized: Json = normalize_json(value)
        _ENCODER.encode(normalized)  # NaN, or a number of too many digits, gets as far as this
    except Exception as error:
        _refuse_promises(value, inside=True)
        raise UnserializableReturnError(type(value)) from error
    object.__setattr__(result, "_return_value", normalized)
    _finish(result, TaskResultStatus.SUCCESSFUL, now)
    return normalized


def _refuse_promises(value: object, *, inside: bool = False, depth: int = 0) -> None:
    """Refuse what has not run, and never will: it must not pass for work that is done.

    Args:
        inside: look into containers as well.
    """
    if isinstance(value, _PROMISES) and not isinstance(value, IOBase):
        if isinstance(value, Coroutine):
            value.close()  # Nobody will await it, and Python need not complain of that as well.
        raise UnfinishedWorkError(
            f"The task returned a value of the type {type(value).__qualname__}, which is not a "
            "result but work that has not run. Await it, or make a list of it, and return that."
        )
    # Plain containers only: what else there is may do anything when it is looked at.
    if inside and depth < _DEEPEST and type(value) in _CONTAINERS:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        for part in cast("Iterable[object]", parts):
            _refuse_promises(part, inside=True, depth=depth + 1)


def add_error(result: TaskResult[..., Any], error: BaseException) -> TaskError:
    """The attempt raised `error`."""
    kind = type(error)
    task_error = TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback=traceback_of(error),
    )
    result.errors.append(task_error)
    return task_error


def mark_failed(result: TaskResult[..., Any], *, now: datetime) -> None:
    """The task has failed, and will not be attempted again."""
    _finish(result, TaskResultStatus.FAILED, now)


def mark_ready(result: TaskResult[..., Any]) -> None:
    """The task waits for another attempt."""
    object.__setattr__(result, "status", TaskResultStatus.READY)


def drop_attempt(result: TaskResult[..., Any]) -> None:
    """The attempt that runs was none: the task snoozes."""
    del result.worker_ids[-1:]
    mark_ready(result)


def mark_cancelled(result: TaskResult[..., Any], *, now: datetime) -> None:
    """The task was cancelled."""
    result.errors.append(TaskError(exception_class_path=TASK_CANCELLED, traceback=CANCELLED_TEXT))
    _finish(result, TaskResultStatus.FAILED, now)


def _finish(result: TaskResult[..., Any], status: TaskResultStatus, now: datetime) -> None:
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", to_site(now))

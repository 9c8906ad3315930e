"""Task results along their life, and the signals that tell of it.

Django's `TaskResult` is frozen, and its backends change it all the same, through
`object.__setattr__`: the caller must see the same object move on.
"""

from __future__ import annotations

import os
import traceback
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.dispatch import Signal
from django.tasks import signals
from django.tasks.base import TaskError, TaskResult, TaskResultStatus
from django.utils import timezone
from django.utils.json import normalize_json

from ..core.errors import CloudTasksError

if TYPE_CHECKING:
    from django.tasks.base import Task

_LOG_RECEIVERS = {
    id(signals.log_task_enqueued),
    id(signals.log_task_started),
    id(signals.log_task_finished),
}


class UnserializableReturnError(CloudTasksError):
    """A task did its work and returned what JSON cannot carry."""

    def __init__(self, kind: type) -> None:
        super().__init__(
            f"The task returned a {kind.__qualname__} that cannot be kept as JSON; return text, "
            "numbers, lists and dicts only."
        )


def new_id() -> str:
    """A random id, of a form that Cloud Tasks takes and spreads evenly: 32 hexadecimal digits."""
    return os.urandom(16).hex()


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
) -> TaskResult[P, R]:
    """The result of a task whose execution begins now."""
    status, now = TaskResultStatus.RUNNING, timezone.now()
    shown = _shown(enqueued_at) if enqueued_at else None
    return _result(task, task_id, status, args, kwargs, task.backend, shown, now, worker_ids)


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
    object.__setattr__(result, "enqueued_at", _shown(moment))


def mark_successful(result: TaskResult[..., Any], value: object) -> None:
    """The task returned `value`.

    Raises:
        UnserializableReturnError: JSON cannot carry the value.
    """
    try:
        normalized = normalize_json(value)
    except Exception as error:
        raise UnserializableReturnError(type(value)) from error
    object.__setattr__(result, "_return_value", normalized)
    _finish(result, TaskResultStatus.SUCCESSFUL)


def mark_failed(result: TaskResult[..., Any], error: BaseException) -> TaskError:
    """The task raised `error`."""
    kind = type(error)
    task_error = TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback=_traceback(error),
    )
    result.errors.append(task_error)
    _finish(result, TaskResultStatus.FAILED)
    return task_error


def _traceback(error: BaseException) -> str:
    """The traceback, or as much as can be told of an exception that cannot be formatted."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as fault:  # noqa: BLE001 - an exception may do anything when it is looked at
        frames = "".join(traceback.format_tb(error.__traceback__))
        kind, fault_kind = type(error).__qualname__, type(fault).__qualname__
        return f"Traceback:\n{frames}{kind} (telling more of it raised {fault_kind})\n"


def _shown(moment: datetime) -> datetime:
    """An aware time as the site shows times: with USE_TZ off they are naive."""
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def _finish(result: TaskResult[..., Any], status: TaskResultStatus) -> None:
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", timezone.now())


def announce(signal: Signal, backend: type, result: TaskResult[..., Any]) -> None:
    """Send a signal. What a receiver raises is logged by Django and changes nothing:

    the task is in its queue, or has run, and must not be enqueued or run again for it.
    """
    signal.send_robust(backend, task_result=result)


async def announce_async(signal: Signal, backend: type, result: TaskResult[..., Any]) -> None:
    """`announce` on a running loop.

    Django borrows a thread for synchronous receivers. Its own one for each signal, which is
    always there, only logs; while it is alone it is called in place.
    """
    if all(lookup_key[0] in _LOG_RECEIVERS for lookup_key, *_ in signal.receivers):
        signal.send_robust(backend, task_result=result)
    else:
        await signal.asend_robust(backend, task_result=result)

"""Failed tasks, on a site that attempts each task once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from django_tasks_cloud_tasks.core.records import State

from tests import recorded_tasks
from tests.integration.recording import Site, recording
from tests.recorded_tasks import DURING

DOES = "tests.recorded_tasks.does"
VALUE_ERROR = "builtins.ValueError"


def recording_once(database: str | None, **options: object) -> AbstractContextManager[Site]:
    """Return a context with a site in which no attempt is repeated."""
    return recording(database=database, MAX_ATTEMPTS=1, **options)


def failed_task(
    site: Site,
    name: str = "a",
    *,
    error: Exception | None = None,
    task: Any = recorded_tasks.does,
    **using: Any,
) -> str:
    """Enqueue a task, let it fail, and move the clock by a second. Return the id of the task.

    Args:
        using: the arguments of `task.using()`.
    """

    def fail(*_: object) -> None:
        raise error or ValueError("no such order")

    DURING[name] = fail
    key: str = task.using(**using).enqueue(name).id
    site.deliver(key)
    del DURING[name]
    site.queue.requests[:] = [r for r in site.queue.requests if r.task_id != key]
    assert site.record(key).state is State.FAILED
    site.wait(1)
    return key

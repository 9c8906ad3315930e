"""A site that records its tasks. The test controls the queue, the store and the clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from django.conf import settings
from django.dispatch import Signal
from django.http import HttpResponse
from django.tasks import TaskResult
from django.test import override_settings
from django_tasks_cloud_tasks.adapters.memory import MemoryResultStore, MemoryTaskQueue
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.core.errors import ServiceUnavailableError
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.ports import ResultStore
from django_tasks_cloud_tasks.core.records import TaskRecord
from django_tasks_cloud_tasks.core.requests import TaskRequest
from django_tasks_cloud_tasks.django_integration.operating.relay import relay_batch
from django_tasks_cloud_tasks.django_integration.registry import recording_backends
from django_tasks_cloud_tasks.django_integration.results.store import DatabaseResultStore
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime

from tests import recorded_tasks
from tests.integration.deliveries import post_signed

START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Queue(MemoryTaskQueue):
    """A queue that stores requests, or raises `down`. It creates only one task with each name."""

    down: Exception | BaseException | None = None

    def create(self, request: TaskRequest, *, timeout: float) -> None:
        if self.down:
            raise self.down
        if request.task_id not in [r.task_id for r in self.requests]:
            super().create(request, timeout=timeout)

    def go_down(self) -> None:
        self.down = ServiceUnavailableError("Cloud Tasks does not answer")


@attrs.define
class Site:
    """The site under test, and the actions of a test on it."""

    queue: Queue
    store: ResultStore
    path: str = "/cloudtasks/execute/"
    now: datetime = START

    def wait(self, seconds: float) -> None:
        """Move the clock forward that leases and the relay use."""
        self.now += timedelta(seconds=seconds)

    def record(self, task_id: str) -> TaskRecord:
        """Return the current record of this task."""
        record = self.store.get(task_id)
        assert record is not None
        return record

    def deliver(self, task_id: str = "", *, retry: int = 0) -> tuple[int, dict[str, Any]]:
        """Deliver the Cloud Task with this id, or the only one. Return status and document."""
        response = self.post(task_id, retry=retry)
        return response.status_code, json.loads(response.content)

    def post(self, task_id: str = "", *, retry: int = 0) -> HttpResponse:
        """Deliver like `deliver`, and return the whole response."""
        (request,) = [r for r in self.queue.requests if not task_id or r.task_id == task_id]
        return self.post_body(request.body, retry=retry, name=request.task_id)

    def post_body(self, body: bytes, *, retry: int = 0, name: str | None = None) -> HttpResponse:
        """Deliver this body with its signature, and with the id of its Cloud Task if given."""
        headers = {"X-CloudTasks-TaskRetryCount": str(retry)}
        if name:
            headers["X-CloudTasks-TaskName"] = name
        return post_signed(self.path, body, headers=headers)


def payload(task_id: str, *, task: str = "does", recorded: bool = False) -> bytes:
    """Return the body of a task that this site did not enqueue."""
    return TaskPayload(
        task_id=task_id,
        task_path=f"tests.recorded_tasks.{task}",
        args=["a"],
        kwargs={},
        backend="stored",
        recorded=recorded,
    ).encode()


@contextmanager
def recording(*, database: str | None = None, **options: object) -> Iterator[Site]:
    """A context with the site. It keeps its records in memory or in a database.

    Args:
        options: additional OPTIONS of the backend that keeps records.
    """
    queue = Queue()
    store: ResultStore = (
        DatabaseResultStore(database, clock=lambda: site.now) if database else MemoryResultStore()
    )
    site = Site(queue, store)
    runtime = Runtime(
        environ={},
        make_queue=lambda _: queue,
        make_metadata=lambda _: NoMetadataServer(),
        make_results=lambda _database, _clock: store,
        clock=lambda: site.now,
    )
    stored: dict[str, Any] = dict(settings.TASKS["stored"])
    stored = {**stored, "OPTIONS": {**stored["OPTIONS"], **options}}
    tasks = {**settings.TASKS, "stored": stored}
    with use_runtime(runtime), override_settings(TASKS=tasks):
        yield site


def relay() -> tuple[int, int]:
    """Run the relay once. Return how many tasks it sent, and how many it could not send."""
    done = relay_batch(recording_backends())
    return done.sent, done.failed


def enqueue_and_die(site: Site, count: int = 1) -> None:
    """Enqueue tasks whose process dies before it sends them. Then wait until they are due."""
    site.queue.down = SystemExit()
    for number in range(count):
        with pytest.raises(SystemExit):
            recorded_tasks.does.enqueue(str(number))
    site.queue.down = None
    site.wait(60)


def fail(*_: object) -> None:
    """Raise an exception, as a task with a fault does."""
    raise ValueError("no such order")


def dies() -> None:
    """End the attempt as if its process died. No code runs after it."""
    raise KeyboardInterrupt


@contextmanager
def hearing(
    *signals: Signal, of: Callable[[TaskResult[..., Any]], object]
) -> Iterator[list[object]]:
    """Collect `of(result)` for each result that these signals send in the context."""
    told: list[object] = []

    def hear(task_result: TaskResult[..., Any], **_: object) -> None:
        told.append(of(task_result))

    for signal in signals:
        signal.connect(hear)
    try:
        yield told
    finally:
        for signal in signals:
            signal.disconnect(hear)


def before_replacing(site: Site, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Call `act` once, immediately before the next change of a record is written."""
    replace = site.store.replace

    def replace_later(seen: TaskRecord, then: TaskRecord) -> bool:
        monkeypatch.setattr(site.store, "replace", replace)
        act()
        return replace(seen, then)

    monkeypatch.setattr(site.store, "replace", replace_later)

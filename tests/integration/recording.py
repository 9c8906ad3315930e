"""A site that records its tasks, with the queue, the store and the clock in a test's hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from django.conf import settings
from django.http import HttpResponse
from django.test import Client, override_settings
from django_tasks_cloud_tasks.adapters.memory import MemoryResultStore, MemoryTaskQueue
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.core.errors import ServiceUnavailableError
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.ports import ResultStore
from django_tasks_cloud_tasks.core.records import TaskRecord
from django_tasks_cloud_tasks.core.requests import TaskRequest
from django_tasks_cloud_tasks.django_integration.enqueueing.signing import sign
from django_tasks_cloud_tasks.django_integration.results.store import DatabaseResultStore
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime

START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Queue(MemoryTaskQueue):
    """Keeps requests, or is down; a name is taken once."""

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
    """What a test does to the site."""

    queue: Queue
    store: ResultStore
    path: str = "/cloudtasks/execute/"
    now: datetime = START

    def wait(self, seconds: float) -> None:
        """Move the clock that leases and the relay go by."""
        self.now += timedelta(seconds=seconds)

    def record(self, task_id: str) -> TaskRecord:
        """The record as it is."""
        record = self.store.get(task_id)
        assert record is not None
        return record

    def deliver(self, task_id: str = "", *, retry: int = 0) -> tuple[int, dict[str, Any]]:
        """Deliver the Cloud Task of that id, or the only one; status and document."""
        response = self.post(task_id, retry=retry)
        return response.status_code, json.loads(response.content)

    def post(self, task_id: str = "", *, retry: int = 0) -> HttpResponse:
        """Deliver as `deliver` does; the whole answer."""
        (request,) = [r for r in self.queue.requests if not task_id or r.task_id == task_id]
        return self.post_body(request.body, retry=retry)

    def post_body(self, body: bytes, *, retry: int = 0) -> HttpResponse:
        """Deliver these bytes, signed."""
        response: Any = Client().post(
            self.path,
            data=body,
            content_type="application/json",
            headers={
                "X-Django-Tasks-Signature": sign(body),
                "X-CloudTasks-TaskRetryCount": str(retry),
            },
        )
        assert isinstance(response, HttpResponse)
        return response


def payload(task_id: str, *, task: str = "does", recorded: bool = False) -> bytes:
    """The body of a task that nobody here enqueued."""
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
    """The site, with its records in memory or in that database.

    Args:
        options: more OPTIONS of the backend that records.
    """
    queue = Queue()
    store: ResultStore = DatabaseResultStore(database) if database else MemoryResultStore()
    site = Site(queue, store)
    runtime = Runtime(
        environ={},
        make_queue=lambda _: queue,
        make_metadata=lambda _: NoMetadataServer(),
        make_results=lambda _: store,
        clock=lambda: site.now,
    )
    stored: dict[str, Any] = dict(settings.TASKS["stored"])
    stored = {**stored, "OPTIONS": {**stored["OPTIONS"], **options}}
    tasks = {**settings.TASKS, "stored": stored}
    with use_runtime(runtime), override_settings(TASKS=tasks):
        yield site

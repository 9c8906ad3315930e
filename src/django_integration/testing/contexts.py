"""Tests of sites that enqueue tasks, with any test runner.

`capturing` keeps what is enqueued in memory, and delivers it through the site's own view when told
to. `emulating` is the real emulator on a free port, with its clock in the test's hand. The fixtures
of the pytest plugin and the mixins for unittest are these two.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from ...core.errors import ConfigurationError
from ...core.payload import TaskPayload
from ...core.requests import TaskRequest

if TYPE_CHECKING:
    from ...adapters.memory import MemoryTaskQueue, MemoryTokens
    from ...emulator.background import BackgroundEmulator
    from ...emulator.state.model import FinishedAttempt, Task

# For what a site detects in production and its tests do not set.
_DEFAULTS = {
    "GOOGLE_CLOUD_PROJECT": "test-project",
    "CLOUD_TASKS_LOCATION": "us-central1",
    "TASK_HANDLER_HOST": "http://testserver",
}


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TaskFailedError(AssertionError):
    """A delivered task was not answered with success."""


@attrs.define(eq=False)
class CapturedTask:
    """A task that was enqueued: its request, what it carries, and how often it was delivered."""

    request: TaskRequest
    payload: TaskPayload
    attempts: int = 0

    def __repr__(self) -> str:
        arguments = [
            *map(repr, self.payload.args),
            *(f"{name}={value!r}" for name, value in self.payload.kwargs.items()),
        ]
        return f"<{self.payload.task_path}({', '.join(arguments)}) in {self.request.queue.queue}>"


@attrs.frozen
class Delivered:
    """A delivery: the task, and the view's answer as status and JSON document."""

    task: CapturedTask
    status: int
    document: Mapping[str, Any]


class CapturedTasks:
    """The tasks that a test enqueues."""

    def __init__(self, queue: MemoryTaskQueue, tokens: MemoryTokens) -> None:
        self._queue = queue
        self._tokens = tokens
        self._pending: list[CapturedTask] = []

    @property
    def pending(self) -> list[CapturedTask]:
        """The tasks that were enqueued and not yet executed with success, oldest first."""
        known = {id(task.request): task for task in self._pending}
        # A request that was replaced or deleted meanwhile is no longer pending.
        self._pending[:] = [
            known.get(id(request)) or CapturedTask(request, TaskPayload.decode(request.body))
            for request in self._queue.requests
        ]
        return self._pending

    def run(self, task: CapturedTask, *, check: bool = True) -> Delivered:
        """Deliver one pending task, now, whatever its schedule time.

        Args:
            check: whether an answer other than success fails the test; if not, the task stays
                pending, and its next delivery is its next attempt.

        Raises:
            TaskFailedError: with `check`, the answer was not success.
        """
        delivered = self._deliver(task)
        if delivered.status == 200:  # noqa: PLR2004 - success, on the wire
            self._queue.requests.remove(task.request)
        if check and delivered.document.get("status") != "success":
            raise TaskFailedError(f"{task!r} was answered {delivered.status}: {delivered.document}")
        return delivered

    def run_all(self, *, check: bool = True) -> list[Delivered]:
        """Deliver every pending task once, and those that they enqueue, in order.

        The next attempt at a task that failed or snoozed stays pending.

        Raises:
            TaskFailedError: with `check`, an answer was not success.
        """
        delivered: list[Delivered] = []
        seen: set[str] = set()
        while fresh := [task for task in self.pending if task.payload.task_id not in seen]:
            seen.add(fresh[0].payload.task_id)
            delivered.append(self.run(fresh[0], check=check))
        return delivered

    def _deliver(self, task: CapturedTask) -> Delivered:
        from django.test import Client

        request = task.request
        headers = {
            **request.headers,
            "User-Agent": "Google-Cloud-Tasks",
            "X-CloudTasks-QueueName": request.queue.queue,
            "X-CloudTasks-TaskName": request.task_id or task.payload.task_id,
            "X-CloudTasks-TaskRetryCount": str(task.attempts),
            "X-CloudTasks-TaskExecutionCount": "0",
        }
        if request.oidc:
            headers["Authorization"] = f"Bearer {self._tokens.issue(request.oidc)}"
        content_type = headers.pop("Content-Type")
        task.attempts += 1
        response = Client().post(
            urlsplit(request.url).path,
            data=request.body,
            content_type=content_type,
            headers=headers,
            secure=True,  # A site that redirects to https shall see the task itself.
        )
        try:
            document = json.loads(response.content)
        except ValueError:
            document = {"error": response.content.decode(errors="replace")[:1000]}
        return Delivered(task, response.status_code, document)


@contextmanager
def capturing() -> Iterator[CapturedTasks]:
    """Capture the tasks that are enqueued; nothing is asked over a network."""
    from ...adapters.memory import MemoryTaskQueue, MemoryTokens
    from ...adapters.metadata import NoMetadataServer
    from ..runtime import Runtime, use_runtime

    queue, tokens = MemoryTaskQueue(), MemoryTokens(time=time.time)
    runtime = Runtime(
        environ={**_DEFAULTS, **os.environ},
        make_queue=lambda _: queue,
        make_tokens=lambda _: tokens,
        make_metadata=lambda _: NoMetadataServer(),
    )
    with use_runtime(runtime):
        yield CapturedTasks(queue, tokens)


class EmulatorInHand:
    """The emulator of a test.

    Its clock stands still, and the site goes by the same clock: what is due now is delivered at
    once, everything later (schedule times, retries, rates) when the test moves the clock with
    `advance`. Where the test's database
    is SQLite in memory, whose one connection all threads share, tasks are delivered one at a time,
    and only while the test waits in `settle` or `advance`.

    Attributes:
        address: HOST:PORT, for `CLOUD_TASKS_EMULATOR_HOST` of other programs.
    """

    def __init__(self, background: BackgroundEmulator) -> None:
        self._background = background
        self.address = background.address

    @property
    def finished(self) -> list[FinishedAttempt]:
        """The attempts that have ended, oldest first."""
        return list(self._background.emulator.finished)

    def chaos(self, spec: str) -> None:
        """Make trouble from now on: `seed=7,duplicate=0.5,drop=0.1,refuse=0,delay=0`, for example.

        What is not named has its default; trouble is the same for the same seed and task ids.

        Raises:
            ConfigurationError: that is no trouble.
        """
        from ...emulator.ways_out.chaos import Chaos

        self._background.emulator.chaos = Chaos.parse(spec)

    def reset(self) -> None:
        """Empty all queues."""
        self._background.call(self._background.emulator.reset())

    def settle(self) -> None:
        """Wait until everything that is due has been delivered and answered."""
        self._background.call(self._background.emulator.settle())

    def advance(self, seconds: float) -> None:
        """Move the clock on. What becomes due in between is delivered in order, and answered."""
        self._background.call(self._background.emulator.advance(seconds))

    def waiting(self) -> list[Task]:
        """The tasks that are still in their queues, of all queues, by schedule time."""

        async def collect() -> list[Task]:
            service = self._background.emulator.service
            return [task for queue in service.queues() for task in service.tasks(queue.name)]

        return sorted(self._background.call(collect()), key=lambda task: task.schedule_time)


@contextmanager
def emulating(site: str) -> Iterator[EmulatorInHand]:
    """An emulator that tasks are enqueued to, and that delivers to the site at that URL.

    Raises:
        ConfigurationError: the extra [emulator] is not installed, or Django's live server could not
            answer.
    """
    try:
        from ...emulator.background import BackgroundEmulator
        from ...emulator.clock import ManualClock
        from ...emulator.server import Emulator
    except ImportError as error:
        raise ConfigurationError(
            f"The emulator needs the extra [emulator] ({error.name} is missing): pip install "
            "'django-tasks-cloud-tasks[emulator]'"
        ) from error
    from django.conf import settings
    from django.db import connections
    from django.test import override_settings

    from ...adapters.metadata import NoMetadataServer
    from ..runtime import Runtime, use_runtime

    if not settings.STATIC_URL:
        raise ConfigurationError(
            "Django's live server answers every request with an error where STATIC_URL is not set. "
            "Set it in the settings of the tests, for example to '/static/'."
        )
    # The live server's threads and the test share a connection to a database in memory.
    clock = ManualClock()
    known: Any = connections.all()
    shared = any(c.vendor == "sqlite" and c.is_in_memory_db() for c in known)
    with BackgroundEmulator(
        lambda: Emulator(clock=clock, create_queues=True, in_turns=shared)
    ) as emulator:
        own = {"TASK_HANDLER_HOST": site, "EMULATOR_HOST": emulator.address}
        entries: Mapping[str, dict[str, Any]] = settings.TASKS
        tasks = {
            alias: {**entry, "OPTIONS": {**entry.get("OPTIONS", {}), **own}}
            if entry["BACKEND"].rpartition(".")[2] == "CloudTasksBackend"
            else entry
            for alias, entry in entries.items()
        }
        runtime = Runtime(
            environ={**_DEFAULTS, **os.environ},
            make_metadata=lambda _: NoMetadataServer(),
            clock=lambda: _EPOCH + timedelta(microseconds=clock.now() // 1000),
        )
        with use_runtime(runtime), override_settings(TASKS=tasks):
            yield EmulatorInHand(emulator)

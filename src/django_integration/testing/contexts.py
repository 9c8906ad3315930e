"""Context managers for the tests of sites that enqueue tasks, for any test runner.

`capturing` stores the enqueued tasks in memory. The test delivers them to the view of the site.
`emulating` starts the emulator on a free port, and the test moves its clock. The fixtures of the
pytest plugin and the mixins for unittest use these two context managers.
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

# Values that a site detects in production. The environment of the tests overrides them.
_DEFAULTS = {
    "GOOGLE_CLOUD_PROJECT": "test-project",
    "CLOUD_TASKS_LOCATION": "us-central1",
    "TASK_HANDLER_HOST": "http://testserver",
}


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TaskFailedError(AssertionError):
    """The view did not answer the delivery of a task with success."""


@attrs.define(eq=False)
class CapturedTask:
    """A task that a test enqueued.

    Attributes:
        request: the request to create the task.
        payload: the decoded body: the path of the function, its arguments and the task's options.
        attempts: how many times `run` delivered the task.
    """

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
    """The result of a delivery.

    Attributes:
        task: the delivered task.
        status: the HTTP status of the response.
        document: the JSON document of the response.
    """

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
        """The tasks that wait for their next delivery, oldest first."""
        known = {id(task.request): task for task in self._pending}
        # The list contains no requests that were replaced or deleted since the last call.
        self._pending[:] = [
            known.get(id(request)) or CapturedTask(request, TaskPayload.decode(request.body))
            for request in self._queue.requests
        ]
        return self._pending

    def run(self, task: CapturedTask, *, check: bool = True) -> Delivered:
        """Deliver one pending task now, regardless of its schedule time.

        If the status of the response is not 200, the task stays pending. Its next delivery is then
        its next attempt.

        Args:
            task: the task, from `pending`.
            check: whether to raise if the task neither succeeded nor snoozed.

        Raises:
            TaskFailedError: `check` is True, and the task neither succeeded nor snoozed.
        """
        delivered = self._deliver(task)
        if delivered.status == 200:  # noqa: PLR2004 - the HTTP status of a success
            self._queue.requests.remove(task.request)
        if check and delivered.document.get("status") not in {"success", "snoozed"}:
            raise TaskFailedError(
                f"The task {task!r} did not succeed. The view answered with the status "
                f"{delivered.status}: {delivered.document}"
            )
        return delivered

    def run_all(self, *, check: bool = True) -> list[Delivered]:
        """Deliver every pending task once, in order, including tasks that these tasks enqueue.

        Args:
            check: whether to raise if a task neither succeeded nor snoozed.

        The next attempt at a task that failed or snoozed stays pending.

        Raises:
            TaskFailedError: `check` is True, and a task neither succeeded nor snoozed. The tasks
                after it are not delivered.
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
            secure=True,  # Otherwise SECURE_SSL_REDIRECT would redirect the delivery.
        )
        try:
            document = json.loads(response.content)
        except ValueError:
            document = {"error": response.content.decode(errors="replace")[:1000]}
        return Delivered(task, response.status_code, document)


@contextmanager
def capturing() -> Iterator[CapturedTasks]:
    """Return a context manager that captures the enqueued tasks. It uses no network."""
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

    Its clock moves only in `advance`, and the site uses the same clock. A task that is due is
    delivered immediately. A later event (a schedule time, a retry, a rate limit) happens when
    `advance` reaches its time.

    With SQLite in memory, all threads of a test share one connection. Then the emulator delivers
    one task at a time, and only while the test waits in `settle` or `advance`.

    Attributes:
        address: HOST:PORT, for `CLOUD_TASKS_EMULATOR_HOST` in the environment of other programs.
    """

    def __init__(self, background: BackgroundEmulator) -> None:
        self._background = background
        self.address = background.address

    @property
    def finished(self) -> list[FinishedAttempt]:
        """The finished attempts, oldest first. Only the latest 10,000 are kept."""
        return list(self._background.emulator.finished)

    def chaos(self, spec: str) -> None:
        """Inject faults into the attempts from now on.

        Args:
            spec: for example `seed=7,duplicate=0.5,drop=0.1,refuse=0,delay=0`. Missing names have
                their default values. The same seed and the same task ids give the same faults. See
                `Chaos` in `emulator.ways_out.chaos`.

        Raises:
            ConfigurationError: a name is unknown, a value is not a number, or it is out of range.
        """
        from ...emulator.ways_out.chaos import Chaos

        self._background.emulator.chaos = Chaos.parse(spec)

    def reset(self) -> None:
        """Remove all queues, tasks and jobs, and cancel the attempts in progress."""
        self._background.call(self._background.emulator.reset())

    def settle(self) -> None:
        """Wait until no attempt is in progress. All tasks that were due are delivered then."""
        self._background.call(self._background.emulator.settle())

    def advance(self, seconds: float) -> None:
        """Move the clock forward by `seconds`.

        Tasks that become due are delivered, and jobs of Cloud Scheduler are executed, in the order
        of their times. The method returns when these attempts have ended.
        """
        self._background.call(self._background.emulator.advance(seconds))

    def waiting(self) -> list[Task]:
        """Return the tasks in all queues, sorted by schedule time. Running tasks are included."""

        async def collect() -> list[Task]:
            service = self._background.emulator.service
            return [task for queue in service.queues() for task in service.tasks(queue.name)]

        return sorted(self._background.call(collect()), key=lambda task: task.schedule_time)


@contextmanager
def emulating(site: str) -> Iterator[EmulatorInHand]:
    """Return a context manager that runs an emulator.

    The backends of the class `CloudTasksBackend` in TASKS enqueue to it.

    Args:
        site: the URL of the site to which the emulator delivers, such as that of a live server.

    Raises:
        ConfigurationError: the extra [emulator] is not installed, or the setting `STATIC_URL`,
            which Django's live server needs, is empty.
    """
    try:
        from ...emulator.background import BackgroundEmulator
        from ...emulator.clock import ManualClock
        from ...emulator.server import Emulator
    except ImportError as error:
        raise ConfigurationError(
            f"The emulator needs the extra [emulator], because {error.name} is missing. Run: pip "
            "install 'django-tasks-cloud-tasks[emulator]'"
        ) from error
    from django.conf import settings
    from django.db import connections
    from django.test import override_settings
    from django.utils.module_loading import import_string

    from ...adapters.metadata import NoMetadataServer
    from ..registry import SiteBackend
    from ..runtime import Runtime, use_runtime

    if not settings.STATIC_URL:
        raise ConfigurationError(
            "The setting STATIC_URL is empty. Django's live server then answers every request with "
            "an error. Set STATIC_URL in the settings of the tests, for example to '/static/'."
        )
    clock = ManualClock()
    # With a SQLite database in memory, the threads of the live server and the test share one
    # connection.
    known: Any = connections.all()
    shared = any(c.vendor == "sqlite" and c.is_in_memory_db() for c in known)
    with BackgroundEmulator(
        lambda: Emulator(clock=clock, create_queues=True, in_turns=shared)
    ) as emulator:
        own = {"TASK_HANDLER_HOST": site, "EMULATOR_HOST": emulator.address}
        entries: Mapping[str, dict[str, Any]] = settings.TASKS
        tasks = {
            alias: {**entry, "OPTIONS": {**entry.get("OPTIONS", {}), **own}}
            if issubclass(import_string(entry["BACKEND"]), SiteBackend)
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

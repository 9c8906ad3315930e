"""The methods for tasks."""

from typing import Any

from google.cloud.tasks_v2 import types
from google.protobuf.empty_pb2 import Empty

from ..messages.tasks import (
    check_size,
    read_deadline,
    read_schedule_time,
    read_target,
    read_task_id,
    read_task_retries,
    write_task,
)
from ..messages.wire import FULL, Message, queue_name
from ..state.limits import SECOND
from ..state.model import Task
from ..state.state_machine import Service
from .driver import Driver
from .method import cloud_tasks_methods
from .pagination import page

_MOST_TASKS = 1000  # on a page
# Above this size of a request, in bytes, the size of the stored task is checked.
_NEARLY_TOO_LARGE = 900_000


class Tasks:
    """Handles the methods for tasks."""

    def __init__(self, service: Service, driver: Driver) -> None:
        self._service = service
        self._driver = driver
        self.methods = cloud_tasks_methods(
            {
                "ListTasks": self._list,
                "GetTask": self._get,
                "CreateTask": self._create,
                "DeleteTask": self._delete,
                "RunTask": self._run,
            }
        )

    def _list(self, request: Message) -> Message:
        tasks = self._service.tasks(queue_name(request.parent))
        full = request.response_view == FULL
        shown, token = page(
            tasks,
            lambda task: (task.schedule_time, task.name),
            size=request.page_size,
            token=request.page_token,
            largest=_MOST_TASKS,
            weight=lambda task: len(task.target.body) if full else 0,
        )
        return types.ListTasksResponse.pb()(
            tasks=[write_task(task, request.response_view) for task in shown],
            next_page_token=token,
        )

    def _get(self, request: Message) -> Message:
        task = self._service.task(request.name, self._driver.now())
        return write_task(task, request.response_view)

    def _create(self, request: Message) -> Message:
        return write_task(self.create(request), request.response_view)

    def create(self, request: Message) -> Task:
        """Create the task of a `CreateTaskRequest`, and return it.

        Raises:
            ApiError: the task is invalid or refused.
        """
        parent, now = queue_name(request.parent), self._driver.now()
        task_id, task = read_task_id(request.task, parent), request.task
        facts: dict[str, Any] = {
            "target": read_target(task, url_needed=not self.has_url(parent)),
            "schedule_time": read_schedule_time(task, now),
            "deadline": read_deadline(task),
            "retries": read_task_retries(task),
        }
        if request.ByteSize() > _NEARLY_TOO_LARGE:
            stored = Task(
                queue_name=parent,
                task_id=task_id or "0" * 20,
                create_time=now,
                **facts | {"schedule_time": now},
            )
            check_size(write_task(stored, FULL))
        created = self._service.create_task(parent, task_id, now=now, **facts)
        self._driver.log(
            "task created", task=created.name, due_in=max(0, created.schedule_time - now) / SECOND
        )
        self._driver.touched(parent)
        return created

    def has_url(self, queue: str) -> bool:
        """Return whether a queue overrides the host of its tasks' URLs."""
        if not self._service.has_queue(queue):
            return False
        override = self._service.queue(queue).config.override
        return bool(override and override.uri and override.uri.host)

    def _delete(self, request: Message) -> Message:
        self._service.delete_task(request.name, self._driver.now())
        self._driver.log("task deleted", task=request.name)
        return Empty()

    def _run(self, request: Message) -> Message:
        attempt = self._service.run_task(request.name, self._driver.now())
        shown = write_task(attempt.task, request.response_view)
        self._driver.begin(attempt)
        return shown

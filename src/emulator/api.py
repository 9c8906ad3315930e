"""The methods of `google.cloud.tasks.v2.CloudTasks`, and of the services that come with it.

Messages in, messages or `ApiError` out; whoever calls has taken them off a wire.
"""

from typing import Any

from google.cloud.tasks_v2 import types
from google.protobuf.empty_pb2 import Empty

from .driver import Driver, Method
from .errors import ApiError, Status, invalid
from .extras import Extras
from .limits import SECOND
from .pages import page
from .queue_messages import read_queue, write_queue
from .state import Service
from .task_messages import (
    check_size,
    read_deadline,
    read_schedule_time,
    read_target,
    read_task_id,
    read_task_retries,
    write_task,
)
from .values import QueueState, Task
from .wire import FULL, Message, location_name, queue_name

_SERVICE = "/google.cloud.tasks.v2.CloudTasks/"
_MOST_QUEUES, _MOST_TASKS = 9800, 1000
_NEARLY_TOO_LARGE = 900_000  # bytes of a request from which on its stored form is measured


class Api:
    """The API on a `Service`."""

    def __init__(self, service: Service, driver: Driver) -> None:
        self._service = service
        self._driver = driver
        self.extras = Extras(service, driver, self)
        self.methods = self.extras.methods | {
            _SERVICE + name: Method(getattr(types, f"{name}Request").pb(), handle)
            for name, handle in {
                "ListQueues": self._list_queues,
                "GetQueue": self._get_queue,
                "CreateQueue": self._create_queue,
                "UpdateQueue": self._update_queue,
                "DeleteQueue": self._delete_queue,
                "PurgeQueue": self._purge_queue,
                "PauseQueue": self._pause_queue,
                "ResumeQueue": self._resume_queue,
                "ListTasks": self._list_tasks,
                "GetTask": self._get_task,
                "CreateTask": self._create_task,
                "DeleteTask": self._delete_task,
                "RunTask": self._run_task,
            }.items()
        }

    def _list_queues(self, request: Message) -> Message:
        queues = self._service.queues(location_name(request.parent))
        if request.filter:
            raise ApiError(Status.UNIMPLEMENTED, "This emulator has no filter for queues.")
        shown, token = page(
            queues,
            lambda queue: (queue.name,),
            size=request.page_size,
            token=request.page_token,
            largest=_MOST_QUEUES,
        )
        return types.ListQueuesResponse.pb()(
            queues=[write_queue(queue) for queue in shown], next_page_token=token
        )

    def _get_queue(self, request: Message) -> Message:
        return write_queue(self._service.queue(queue_name(request.name)))

    def _create_queue(self, request: Message) -> Message:
        parent = location_name(request.parent)
        name = queue_name(request.queue.name)
        if not name.startswith(f"{parent}/queues/"):
            raise invalid(f"The queue name must start with the parent, '{parent}'.")
        queue = self._service.create_queue(name, read_queue(request.queue), self._driver.now())
        self._driver.log("queue created", queue=name)
        return write_queue(queue)

    def _update_queue(self, request: Message) -> Message:
        name = queue_name(request.queue.name)
        wanted, mask = request.queue, request.update_mask
        if not mask.IsValidForDescriptor(wanted.DESCRIPTOR):
            raise invalid(f"The update mask is invalid: {', '.join(mask.paths)}.")
        merged = bool(mask.paths) and self._service.has_queue(name)
        if merged:
            wanted = write_queue(self._service.queue(name))
            mask.MergeMessage(request.queue, wanted, replace_message_field=True)
        config = read_queue(wanted, zero_doublings=merged and "retry_config" not in mask.paths)
        queue = self._service.update_queue(name, config, self._driver.now())
        self._driver.log("queue updated", queue=name)
        self._driver.touched(name)
        return write_queue(queue)

    def _delete_queue(self, request: Message) -> Message:
        name = queue_name(request.name)
        self._service.delete_queue(name, self._driver.now())
        self._driver.log("queue deleted", queue=name)
        return Empty()

    def _purge_queue(self, request: Message) -> Message:
        name = queue_name(request.name)
        queue = self._service.purge_queue(name, self._driver.now())
        self._driver.log("queue purged", queue=name)
        return write_queue(queue)

    def _pause_queue(self, request: Message) -> Message:
        return self._set_state(queue_name(request.name), QueueState.PAUSED)

    def _resume_queue(self, request: Message) -> Message:
        return self._set_state(queue_name(request.name), QueueState.RUNNING)

    def _set_state(self, name: str, state: QueueState) -> Message:
        queue = self._service.set_state(name, state)
        self._driver.log(
            f"queue {'resumed' if state is QueueState.RUNNING else 'paused'}", queue=name
        )
        self._driver.touched(name)
        return write_queue(queue)

    def _list_tasks(self, request: Message) -> Message:
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

    def _get_task(self, request: Message) -> Message:
        task = self._service.task(request.name, self._driver.now())
        return write_task(task, request.response_view)

    def _create_task(self, request: Message) -> Message:
        return write_task(self.create(request), request.response_view)

    def create(self, request: Message) -> Task:
        """Create the task of a `CreateTaskRequest`."""
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
        """Whether the queue brings the URL of its tasks along."""
        if not self._service.has_queue(queue):
            return False
        override = self._service.queue(queue).config.override
        return bool(override and override.uri and override.uri.host)

    def _delete_task(self, request: Message) -> Message:
        self._service.delete_task(request.name, self._driver.now())
        self._driver.log("task deleted", task=request.name)
        return Empty()

    def _run_task(self, request: Message) -> Message:
        attempt = self._service.run_task(request.name, self._driver.now())
        shown = write_task(attempt.task, request.response_view)
        self._driver.begin(attempt)
        return shown

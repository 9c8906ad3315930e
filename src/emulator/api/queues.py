"""The methods for queues."""

from google.cloud.tasks_v2 import types
from google.protobuf.empty_pb2 import Empty

from ..errors import ApiError, Status, invalid
from ..messages.queues import read_queue, write_queue
from ..messages.wire import Message, location_name, queue_name
from ..state.model import QueueState
from ..state.state_machine import Service
from .driver import Driver
from .method import cloud_tasks_methods
from .pagination import page

_MOST_QUEUES = 9800  # on a page


class Queues:
    """Handles the methods for queues."""

    def __init__(self, service: Service, driver: Driver) -> None:
        self._service = service
        self._driver = driver
        self.methods = cloud_tasks_methods(
            {
                "ListQueues": self._list,
                "GetQueue": self._get,
                "CreateQueue": self._create,
                "UpdateQueue": self._update,
                "DeleteQueue": self._delete,
                "PurgeQueue": self._purge,
                "PauseQueue": self._pause,
                "ResumeQueue": self._resume,
            }
        )

    def _list(self, request: Message) -> Message:
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

    def _get(self, request: Message) -> Message:
        return write_queue(self._service.queue(queue_name(request.name)))

    def _create(self, request: Message) -> Message:
        parent = location_name(request.parent)
        name = queue_name(request.queue.name)
        if not name.startswith(f"{parent}/queues/"):
            raise invalid(f"The queue name must start with the parent, '{parent}'.")
        queue = self._service.create_queue(name, read_queue(request.queue), self._driver.now())
        self._driver.log("queue created", queue=name)
        return write_queue(queue)

    def _update(self, request: Message) -> Message:
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

    def _delete(self, request: Message) -> Message:
        name = queue_name(request.name)
        self._service.delete_queue(name, self._driver.now())
        self._driver.log("queue deleted", queue=name)
        return Empty()

    def _purge(self, request: Message) -> Message:
        name = queue_name(request.name)
        queue = self._service.purge_queue(name, self._driver.now())
        self._driver.log("queue purged", queue=name)
        return write_queue(queue)

    def _pause(self, request: Message) -> Message:
        return self._set_state(queue_name(request.name), QueueState.PAUSED)

    def _resume(self, request: Message) -> Message:
        return self._set_state(queue_name(request.name), QueueState.RUNNING)

    def _set_state(self, name: str, state: QueueState) -> Message:
        queue = self._service.set_state(name, state)
        self._driver.log(
            f"queue {'resumed' if state is QueueState.RUNNING else 'paused'}", queue=name
        )
        self._driver.touched(name)
        return write_queue(queue)

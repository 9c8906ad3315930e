"""Batches of tasks, and the long-running operations that they return."""

from collections.abc import Callable
from uuid import uuid4

from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty

from ..errors import ApiError, invalid, not_found
from ..messages.tasks import write_task
from ..messages.wire import Message, queue_name, timestamp
from ..state.model import Task
from ..state.state_machine import Service
from .driver import Driver
from .method import Method, cloud_tasks_methods

_LARGEST_CREATION, _LARGEST_DELETION = 100, 1000
_MOST_OPERATIONS = 500  # operations that are kept
_ABORTED = 10


class Batches:
    """Handles the methods for batches and operations.

    Args:
        service: the queues and tasks.
        driver: the program that runs the API.
        create_task: creates the task of a `CreateTaskRequest`, and returns it.

    Attributes:
        methods: the methods by gRPC path.
    """

    def __init__(
        self, service: Service, driver: Driver, create_task: Callable[[Message], Task]
    ) -> None:
        self._service = service
        self._driver = driver
        self._create_task = create_task
        self._operations: dict[str, Message] = {}
        self._requests: dict[tuple[str, str, str], str] = {}
        self.methods = {
            "/google.longrunning.Operations/GetOperation": Method(
                operations_pb2.GetOperationRequest, self._get_operation
            ),
            **cloud_tasks_methods(
                {"BatchCreateTasks": self._create, "BatchDeleteTasks": self._delete}
            ),
        }

    def reset(self) -> None:
        """Remove all operations."""
        self._operations.clear()
        self._requests.clear()

    def _create(self, request: Message) -> Message:
        parent = queue_name(request.parent)
        if len(request.requests) > _LARGEST_CREATION:
            raise invalid(f"At most {_LARGEST_CREATION} tasks can be created in a batch.")
        if any(each.parent not in {"", parent} for each in request.requests):
            raise invalid("The parent of every request must be the parent of the batch.")
        self._service.queue(parent)
        tasks = types.BatchCreateTasksResponse.pb()()

        def create(index: int) -> None:
            each = request.requests[index]
            each.parent = parent
            tasks.tasks.append(write_task(self._create_task(each), each.response_view))

        metadata = types.BatchCreateTasksMetadata.pb()()
        return self._operation(request, len(request.requests), create, metadata, tasks)

    def _delete(self, request: Message) -> Message:
        parent = queue_name(request.parent)
        if len(request.names) > _LARGEST_DELETION:
            raise invalid(f"At most {_LARGEST_DELETION} tasks can be deleted in a batch.")
        if any(not name.startswith(f"{parent}/tasks/") for name in request.names):
            raise invalid("Every task must be in the queue that is the parent of the batch.")
        self._service.queue(parent)

        def delete(index: int) -> None:
            self._service.delete_task(request.names[index], self._driver.now())
            self._driver.log("task deleted", task=request.names[index])

        metadata = types.BatchDeleteTasksMetadata.pb()()
        return self._operation(request, len(request.names), delete, metadata, Empty())

    def _operation(
        self,
        request: Message,
        count: int,
        act: Callable[[int], None],
        metadata: Message,
        response: Message,
    ) -> Message:
        """Process the whole batch now, and return an operation that is done.

        If a request with the same request id was made before, return its operation.

        Args:
            request: the request of the batch.
            count: the number of items in the batch.
            act: processes the item with this index. It raises `ApiError` if the item fails.
            metadata: the metadata message to fill.
            response: the response message. `act` may add to it.
        """
        location = request.parent.rpartition("/queues/")[0]
        key = (type(request).__name__, request.parent, request.request_id)
        if request.request_id and key in self._requests:
            return self._operations[self._requests[key]]
        operation = operations_pb2.Operation(name=f"{location}/operations/{uuid4()}", done=True)
        metadata.start_time.CopyFrom(timestamp(self._driver.now()))
        for index in range(count):
            try:
                act(index)
            except ApiError as error:
                failed = metadata.failed_requests[index]
                failed.code, failed.message = error.status.value, error.message
        metadata.end_time.CopyFrom(timestamp(self._driver.now()))
        failures = len(metadata.failed_requests)
        metadata.state = "SUCCEEDED" if not failures else "PARTIALLY_SUCCEEDED"
        if failures and failures == count:
            operation.error.code = _ABORTED
            kind = type(metadata).DESCRIPTOR.name
            operation.error.message = (
                f"None of the requests succeeded, refer to {kind}.failed_requests for individual "
                "error details"
            )
        else:
            operation.response.Pack(response)
        operation.metadata.Pack(metadata)
        self._operations[operation.name] = operation
        if request.request_id:
            self._requests[key] = operation.name
        while len(self._operations) > _MOST_OPERATIONS:
            oldest = next(iter(self._operations))
            del self._operations[oldest]
            self._requests = {k: name for k, name in self._requests.items() if name != oldest}
        return operation

    def _get_operation(self, request: Message) -> Message:
        operation = self._operations.get(request.name)
        if operation is None:
            raise not_found()
        return operation

"""The rest of the API: batches and their operations, IAM, locations, CMEK, buffered tasks."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import google.cloud.location.locations_pb2 as locations_pb2  # noqa: PLR0402 - a namespace package
from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2

from .driver import Driver, Method
from .errors import ApiError, Status, invalid, not_found
from .state import Service
from .task_messages import write_task
from .wire import Message, location_name, queue_name, timestamp

if TYPE_CHECKING:
    from .api import Api

_SERVICE = "/google.cloud.tasks.v2.CloudTasks/"
_LARGEST_CREATION, _LARGEST_DELETION = 100, 1000
_MOST_OPERATIONS = 500  # that are remembered
_ABORTED = 10

# A few of the places where the service is; any name is taken, these are listed.
_LOCATIONS = (
    *("asia-east1", "asia-northeast1", "asia-south1", "australia-southeast1"),
    *("europe-west1", "europe-west3", "southamerica-east1", "us-central1", "us-east1", "us-west1"),
)


class Extras:
    """What of the API is not queues and tasks."""

    def __init__(self, service: Service, driver: Driver, api: "Api") -> None:
        self._service = service
        self._driver = driver
        self._api = api
        self._operations: dict[str, Message] = {}
        self._requests: dict[tuple[str, str, str], str] = {}
        self._policies: dict[str, Message] = {}
        self._cmek: dict[str, str] = {}
        self.methods = {
            _SERVICE + "GetIamPolicy": Method(
                iam_policy_pb2.GetIamPolicyRequest, self._get_iam_policy
            ),
            _SERVICE + "SetIamPolicy": Method(
                iam_policy_pb2.SetIamPolicyRequest, self._set_iam_policy
            ),
            _SERVICE + "TestIamPermissions": Method(
                iam_policy_pb2.TestIamPermissionsRequest, self._test_iam_permissions
            ),
            "/google.cloud.location.Locations/ListLocations": Method(
                locations_pb2.ListLocationsRequest, self._list_locations
            ),
            "/google.cloud.location.Locations/GetLocation": Method(
                locations_pb2.GetLocationRequest, self._get_location
            ),
            "/google.longrunning.Operations/GetOperation": Method(
                operations_pb2.GetOperationRequest, self._get_operation
            ),
        }
        # Older versions of google-cloud-tasks lack the messages of these.
        for name, handle in {
            "BatchCreateTasks": self._batch_create,
            "BatchDeleteTasks": self._batch_delete,
            "GetCmekConfig": self._get_cmek,
            "UpdateCmekConfig": self._update_cmek,
        }.items():
            request = getattr(types, f"{name}Request", None)
            if request is not None:
                self.methods[_SERVICE + name] = Method(request.pb(), handle)

    def reset(self) -> None:
        """Forget everything."""
        for kept in (self._operations, self._requests, self._policies, self._cmek):
            kept.clear()

    # Batches

    def _batch_create(self, request: Message) -> Message:
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
            tasks.tasks.append(write_task(self._api.create(each), each.response_view))

        metadata = types.BatchCreateTasksMetadata.pb()()
        return self._operation(request, len(request.requests), create, metadata, tasks)

    def _batch_delete(self, request: Message) -> Message:
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
        return self._operation(request, len(request.names), delete, metadata, _empty())

    def _operation(
        self,
        request: Message,
        count: int,
        act: Callable[[int], None],
        metadata: Message,
        response: Message,
    ) -> Message:
        """Do it all now, and keep the operation; the same request id is done once."""
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

    # IAM: policies are kept and never enforced

    def _get_iam_policy(self, request: Message) -> Message:
        self._service.queue(queue_name(request.resource))
        return self._policies.get(request.resource, policy_pb2.Policy(etag=b"ACAB"))

    def _set_iam_policy(self, request: Message) -> Message:
        self._service.queue(queue_name(request.resource))
        policy = policy_pb2.Policy()
        policy.CopyFrom(request.policy)
        policy.etag = uuid4().bytes[:8]
        self._policies[request.resource] = policy
        return policy

    def _test_iam_permissions(self, request: Message) -> Message:
        queue_name(request.resource)
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=request.permissions)

    # Locations

    def _list_locations(self, request: Message) -> Message:
        used = {queue.name.split("/")[3] for queue in self._service.queues()}
        return locations_pb2.ListLocationsResponse(
            locations=[_location(request.name, name) for name in sorted({*_LOCATIONS, *used})]
        )

    def _get_location(self, request: Message) -> Message:
        project, _, location = location_name(request.name).rpartition("/locations/")
        return _location(project, location)

    # CMEK: kept and never used

    def _get_cmek(self, request: Message) -> Message:
        location_name(request.name.removesuffix("/cmekConfig"))
        return types.CmekConfig.pb()(name=request.name, kms_key=self._cmek.get(request.name, ""))

    def _update_cmek(self, request: Message) -> Message:
        config = request.cmek_config
        location_name(config.name.removesuffix("/cmekConfig"))
        self._cmek[config.name] = config.kms_key
        return config


def _location(project: str, location: str) -> Message:
    if not project.startswith("projects/"):
        raise ApiError(Status.INVALID_ARGUMENT, "Locations are listed for projects/<PROJECT_ID>.")
    return locations_pb2.Location(
        name=f"{project}/locations/{location}",
        location_id=location,
        labels={"cloud.googleapis.com/region": location},
    )


def _empty() -> Message:
    from google.protobuf.empty_pb2 import Empty

    return Empty()

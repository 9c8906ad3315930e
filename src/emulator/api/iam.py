"""IAM policies of queues. They are stored, but not enforced."""

from uuid import uuid4

from google.iam.v1 import iam_policy_pb2, policy_pb2

from ..messages.wire import Message, queue_name
from ..state.state_machine import Service
from .method import Method, cloud_tasks_path


class Policies:
    """Handles the methods for IAM policies."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._policies: dict[str, Message] = {}
        self.methods = {
            cloud_tasks_path("GetIamPolicy"): Method(iam_policy_pb2.GetIamPolicyRequest, self._get),
            cloud_tasks_path("SetIamPolicy"): Method(iam_policy_pb2.SetIamPolicyRequest, self._set),
            cloud_tasks_path("TestIamPermissions"): Method(
                iam_policy_pb2.TestIamPermissionsRequest, self._test_permissions
            ),
        }

    def reset(self) -> None:
        """Remove all policies."""
        self._policies.clear()

    def _get(self, request: Message) -> Message:
        self._service.queue(queue_name(request.resource))
        return self._policies.get(request.resource, policy_pb2.Policy(etag=b"ACAB"))

    def _set(self, request: Message) -> Message:
        self._service.queue(queue_name(request.resource))
        policy = policy_pb2.Policy()
        policy.CopyFrom(request.policy)
        policy.etag = uuid4().bytes[:8]
        self._policies[request.resource] = policy
        return policy

    def _test_permissions(self, request: Message) -> Message:
        queue_name(request.resource)
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=request.permissions)

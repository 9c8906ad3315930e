"""The administration of queues over the Cloud Tasks API.

It uses the client class of google-cloud-tasks. That import is slow, so only commands import this
module.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import grpc
from google.api_core.exceptions import NotFound
from google.cloud.tasks_v2 import CloudTasksClient, types
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.field_mask_pb2 import FieldMask

from ..core.cloud_queues import CloudQueue, QueueSettings
from ..core.doctor import ProbeTaskStatus
from ..core.names import QueueName
from .administration_errors import converted_errors

_TIMEOUT = 30.0  # seconds for one call
_PARENTS = {
    "max_dispatches_per_second": "rate_limits",
    "max_concurrent_dispatches": "rate_limits",
    "logging_sampling_ratio": "stackdriver_logging_config",
}
_NAMES = {"logging_sampling_ratio": "sampling_ratio"}


class GrpcQueueAdmin:
    """A `QueueAdmin` that calls Cloud Tasks, or an emulator of it.

    Args:
        emulator_host: HOST:PORT of an emulator; None for the service.
    """

    def __init__(self, emulator_host: str | None = None) -> None:
        with _errors(emulator_host):
            if emulator_host:
                channel = grpc.insecure_channel(emulator_host)
                self._client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            else:
                self._client = CloudTasksClient()
        self._emulator_host = emulator_host

    def queues(self, project: str, location: str) -> list[CloudQueue]:
        """See `QueueAdmin.queues`."""
        parent = f"projects/{project}/locations/{location}"
        with _errors(self._emulator_host):
            found = self._client.list_queues(parent=parent, timeout=_TIMEOUT, retry=None)
            return sorted(map(_read, found), key=lambda queue: queue.id)

    def create(self, queue: QueueName, settings: QueueSettings) -> None:
        """See `QueueAdmin.create`."""
        with _errors(self._emulator_host):
            self._client.create_queue(
                parent=queue.parent, queue=_message(queue, settings), timeout=_TIMEOUT, retry=None
            )
        ignored = settings.ignored_at_creation
        if ignored.named():
            self.update(queue, ignored)

    def update(self, queue: QueueName, settings: QueueSettings) -> None:
        """See `QueueAdmin.update`."""
        with _errors(self._emulator_host):
            self._client.update_queue(
                queue=_message(queue, settings),
                update_mask=FieldMask(paths=[".".join(_path(name)) for name in settings.named()]),
                timeout=_TIMEOUT,
                retry=None,
            )

    def delete(self, queue: QueueName) -> None:
        """See `QueueAdmin.delete`."""
        with _errors(self._emulator_host):
            self._client.delete_queue(name=str(queue), timeout=_TIMEOUT, retry=None)

    def pause(self, queue: QueueName) -> None:
        """See `QueueAdmin.pause`."""
        with _errors(self._emulator_host):
            self._client.pause_queue(name=str(queue), timeout=_TIMEOUT, retry=None)

    def resume(self, queue: QueueName) -> None:
        """See `QueueAdmin.resume`."""
        with _errors(self._emulator_host):
            self._client.resume_queue(name=str(queue), timeout=_TIMEOUT, retry=None)

    def purge(self, queue: QueueName) -> None:
        """See `QueueAdmin.purge`."""
        with _errors(self._emulator_host):
            self._client.purge_queue(name=str(queue), timeout=_TIMEOUT, retry=None)

    def count(self, queue: QueueName, *, limit: int) -> int:
        """See `QueueAdmin.count`."""
        with _errors(self._emulator_host):
            tasks = self._client.list_tasks(parent=str(queue), timeout=_TIMEOUT, retry=None)
            return sum(1 for _ in islice(tasks, limit))

    def status(self, queue: QueueName, cloud_task_id: str) -> ProbeTaskStatus | None:
        """See `QueueAdmin.status`."""
        with _errors(self._emulator_host):
            try:
                task = self._client.get_task(
                    name=f"{queue}/tasks/{cloud_task_id}", timeout=_TIMEOUT, retry=None
                )
            except NotFound:
                return None
        return ProbeTaskStatus(
            dispatches=task.dispatch_count,
            responses=task.response_count,
            status=task.last_attempt.response_status.message,
        )


def _errors(emulator_host: str | None) -> AbstractContextManager[None]:
    grant = "Grant it the role roles/cloudtasks.queueAdmin on the project."
    return converted_errors("Cloud Tasks", emulator_host, grant=grant)


def _path(name: str) -> tuple[str, str]:
    return _PARENTS.get(name, "retry_config"), _NAMES.get(name, name)


def _message(queue: QueueName, settings: QueueSettings) -> types.Queue:
    fields: dict[str, Any] = {"name": str(queue)}
    for setting, value in settings.named().items():
        parent, name = _path(setting)
        fields.setdefault(parent, {})[name] = value
    return types.Queue(**fields)


def _read(queue: types.Queue) -> CloudQueue:
    limits = queue.rate_limits
    retries: Any = queue.retry_config  # Its durations are timedeltas, unlike in the annotations.
    return CloudQueue(
        id=queue.name.rpartition("/")[2],
        state=queue.state.name,
        settings=QueueSettings(
            max_dispatches_per_second=limits.max_dispatches_per_second,
            max_concurrent_dispatches=limits.max_concurrent_dispatches,
            max_attempts=retries.max_attempts,
            min_backoff=retries.min_backoff,
            max_backoff=retries.max_backoff,
            max_doublings=retries.max_doublings,
            max_retry_duration=retries.max_retry_duration,
            logging_sampling_ratio=queue.stackdriver_logging_config.sampling_ratio,
        ),
    )

"""Calls over gRPC, with the official clients or with hand-written frames."""

from typing import Any

import grpc
from google.cloud import scheduler_v1, tasks_v2
from google.cloud.scheduler_v1.services.cloud_scheduler.transports import (
    CloudSchedulerGrpcTransport,
)
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from h2.connection import H2Connection


def client_over(channel: grpc.Channel) -> Any:
    """The official client over this channel."""
    return tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


def scheduler_over(channel: grpc.Channel) -> Any:
    """The official client of Cloud Scheduler over this channel."""
    return scheduler_v1.CloudSchedulerClient(transport=CloudSchedulerGrpcTransport(channel=channel))


def framed(request: Any) -> bytes:
    """Return the message with the prefix that gRPC puts before it in the body of a call."""
    message: bytes = type(request).serialize(request)
    return b"\0" + len(message).to_bytes(4) + message


def send_call(connection: H2Connection, stream: int, method: str, message: bytes) -> None:
    """Write the frames of a call of this Cloud Tasks method, as a client does."""
    headers = {
        ":method": "POST",
        ":path": f"/google.cloud.tasks.v2.CloudTasks/{method}",
        ":scheme": "http",
        ":authority": "localhost",
        "content-type": "application/grpc",
    }
    connection.send_headers(stream, list(headers.items()))
    connection.send_data(stream, message, end_stream=True)

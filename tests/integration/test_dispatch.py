"""The requests that the emulator dispatches, compared with captures of production."""

import grpc
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND

from tests.integration.grpc_calls import client_over
from tests.integration.http_servers import recorder
from tests.integration.refusals import LOCATION, START

QUEUE = f"{LOCATION}/queues/the-queue"

# From a capture: the answer of the handler, and the headers of the request before it.
CAPTURED = [
    (503, {"TaskExecutionCount": "0", "TaskRetryCount": "0"}),
    (404, {"TaskExecutionCount": "0", "TaskRetryCount": "1", "TaskPreviousResponse": "503"}),
    (429, {"TaskExecutionCount": "1", "TaskRetryCount": "2", "TaskPreviousResponse": "404"}),
    (500, {"TaskExecutionCount": "2", "TaskRetryCount": "3", "TaskPreviousResponse": "429"}),
    (302, {"TaskExecutionCount": "2", "TaskRetryCount": "4", "TaskPreviousResponse": "500"}),
    (200, {"TaskExecutionCount": "3", "TaskRetryCount": "5", "TaskPreviousResponse": "302"}),
]


def test_each_attempt_has_the_headers_of_production() -> None:
    with (
        recorder([status for status, _ in CAPTURED]) as recorded,
        BackgroundEmulator(lambda: Emulator(clock=ManualClock(START), queues=[QUEUE])) as emulator,
        grpc.insecure_channel(emulator.address) as channel,
    ):
        client = client_over(channel)
        client.create_task(
            parent=QUEUE,
            task={
                "name": f"{QUEUE}/tasks/the-task",
                "http_request": {
                    "url": f"http://{recorded.address}/run",
                    "headers": {"X-Mixed-Case": "kept", "User-Agent": "mine"},
                    "body": b"the body",
                },
            },
        )
        emulator.call(emulator.emulator.advance(3600))
        assert list(client.list_tasks(parent=QUEUE)) == []
    assert len(recorded.requests) == len(CAPTURED)
    assert recorded.bodies == [b"the body"] * len(CAPTURED)
    waits = [0, 0.1, 0.3, 0.7, 1.5, 3.1]
    for headers, (_, captured), wait in zip(recorded.requests, CAPTURED, waits, strict=True):
        expected = {f"X-CloudTasks-{name}": value for name, value in captured.items()}
        expected |= {
            "User-Agent": "Google-Cloud-Tasks",
            "X-CloudTasks-QueueName": "the-queue",
            "X-CloudTasks-TaskName": "the-task",
            "X-CloudTasks-TaskETA": f"{START / SECOND + wait:.6f}",
        }
        if "TaskPreviousResponse" in captured:
            expected["X-CloudTasks-TaskRetryReason"] = ""
        transport = {"Host", "Content-Length"}
        assert {name: value for name, value in headers if name not in transport} == (
            expected | {"X-Mixed-Case": "kept"}
        )

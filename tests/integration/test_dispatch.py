"""What the emulator's dispatches look like on the wire, against captures of production."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.limits import SECOND
from django_tasks_cloud_tasks.emulator.server import Emulator
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

QUEUE = "projects/p/locations/l/queues/the-queue"
START = 1_767_225_600 * SECOND

# Of a capture: what the handler answered, and the headers that came before that.
CAPTURED = [
    (503, {"TaskExecutionCount": "0", "TaskRetryCount": "0"}),
    (404, {"TaskExecutionCount": "0", "TaskRetryCount": "1", "TaskPreviousResponse": "503"}),
    (429, {"TaskExecutionCount": "1", "TaskRetryCount": "2", "TaskPreviousResponse": "404"}),
    (500, {"TaskExecutionCount": "2", "TaskRetryCount": "3", "TaskPreviousResponse": "429"}),
    (302, {"TaskExecutionCount": "2", "TaskRetryCount": "4", "TaskPreviousResponse": "500"}),
    (200, {"TaskExecutionCount": "3", "TaskRetryCount": "5", "TaskPreviousResponse": "302"}),
]


class Recorder:
    """Answers in turn with `statuses`, and keeps the headers of each request."""

    def __init__(self) -> None:
        self.statuses = [status for status, _ in CAPTURED]
        self.requests: list[list[tuple[str, str]]] = []
        self.bodies: list[bytes] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                recorder.requests.append(self.headers.items())
                size = int(self.headers.get("Content-Length", 0))
                recorder.bodies.append(self.rfile.read(size))
                self.send_response(recorder.statuses[len(recorder.requests) - 1])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/run"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    thread = threading.Thread(target=made.server.serve_forever, args=[0.01])
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_each_attempt_says_what_productions_does(recorder: Recorder) -> None:
    with (
        BackgroundEmulator(lambda: Emulator(clock=ManualClock(START), queues=[QUEUE])) as emulator,
        grpc.insecure_channel(emulator.address) as channel,
    ):
        client: Any = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        client.create_task(
            parent=QUEUE,
            task={
                "name": f"{QUEUE}/tasks/the-task",
                "http_request": {
                    "url": recorder.url,
                    "headers": {"X-Mixed-Case": "kept", "User-Agent": "mine"},
                    "body": b"the body",
                },
            },
        )
        emulator.call(emulator.emulator.advance(3600))
        assert list(client.list_tasks(parent=QUEUE)) == []
    assert len(recorder.requests) == len(CAPTURED)
    assert recorder.bodies == [b"the body"] * len(CAPTURED)
    waits = [0, 0.1, 0.3, 0.7, 1.5, 3.1]
    for headers, (_, captured), wait in zip(recorder.requests, CAPTURED, waits, strict=True):
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

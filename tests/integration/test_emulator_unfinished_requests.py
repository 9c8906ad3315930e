"""The emulator drops incomplete requests, regardless of the part that has arrived."""

import socket
import threading

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, StreamEnded, StreamReset

from tests.integration.http_calls import connect
from tests.integration.refusals import QUEUE

IDLE = 0.3  # seconds that the emulator waits in these tests
PATIENCE = 10  # seconds that the tests wait for it to drop them


@pytest.mark.parametrize(
    "request_line", [f"POST /v2/{QUEUE}/tasks", "POST /emulator/clock", "POST /emulator/reset"]
)
@pytest.mark.parametrize(
    "beginning",
    [
        "Content-Length: 100\r\n\r\n",
        "Content-Length: 100\r\n\r\n{",
        "Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
    ids=["no body", "half a body", "half a chunk"],
)
def test_a_request_without_the_end_of_its_body_is_dropped(
    request_line: str, beginning: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        BackgroundEmulator(lambda: Emulator(idle_timeout=IDLE)) as running,
        connect(running.address, PATIENCE) as raw,
    ):
        raw.sendall(f"{request_line} HTTP/1.1\r\nHost: localhost\r\n{beginning}".encode())
        try:
            while raw.recv(65536):
                pass
        except ConnectionError:
            pass
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_an_unfinished_call_is_dropped_although_its_connection_is_alive() -> None:
    """Pings keep a connection open, but not the unfinished calls on it."""
    connection = H2Connection()
    connection.initiate_connection()
    headers = {":method": "POST", ":path": "/x", ":scheme": "http", ":authority": "localhost"}
    connection.send_headers(1, list(headers.items()))
    ended = threading.Event()
    with (
        BackgroundEmulator(lambda: Emulator(idle_timeout=IDLE)) as running,
        connect(running.address, PATIENCE) as raw,
    ):

        def ping() -> None:
            """Send several pings per idle timeout, until the test has ended or waited too long."""
            for _ in range(round(PATIENCE / (IDLE / 5))):
                try:
                    raw.sendall(b"\0\0\x08\x06\0\0\0\0\0" + b"12345678")
                except OSError:
                    return
                if ended.wait(IDLE / 5):
                    return
            raw.shutdown(socket.SHUT_RDWR)

        raw.sendall(connection.data_to_send())
        pings = threading.Thread(target=ping)
        pings.start()
        over = False
        try:
            while not over and (data := raw.recv(65536)):
                events = connection.receive_data(data)
                over = any(
                    isinstance(event, StreamEnded | StreamReset | ConnectionTerminated)
                    for event in events
                )
        finally:
            ended.set()
            pings.join()
    assert over

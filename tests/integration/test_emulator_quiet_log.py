"""Errors of clients and a lack of file descriptors cause no tracebacks in the log."""

import http.client
import resource
import socket
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator

from tests.integration.emulator_program import emulator_program
from tests.integration.http_calls import ask, connect
from tests.integration.refusals import QUEUE


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01" + b"\0" * 70_000,
    ],
    ids=["no HTTP", "no version", "long path", "no header", "long header", "TLS"],
)
def test_a_malformed_request_logs_no_traceback(
    emulator: BackgroundEmulator, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(emulator.address) as raw:
        raw.sendall(sent)
        try:
            while raw.recv(65536):
                pass
        except ConnectionError:
            pass
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("path", [f"/v2/{QUEUE}/tasks", "/emulator/clock"])
def test_a_client_that_disconnects_during_its_request_causes_no_traceback(path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{"
    with emulator_program() as (running, address):
        for _ in range(3):
            with connect(address) as raw:
                raw.sendall(head.encode())
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
        running.terminate()
        said, _ = running.communicate(timeout=30)
    assert "Traceback" not in said


def test_a_dashboard_request_without_free_descriptors_causes_no_traceback() -> None:
    """The connection was opened before the descriptors ran out."""
    with emulator_program() as (running, address):
        connection = http.client.HTTPConnection(address, timeout=20)

        def get(path: str) -> int:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status

        assert get("/emulator/clock") == 200
        used = max(int(entry.name) for entry in Path(f"/proc/{running.pid}/fd").iterdir()) + 1
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (used, used))
        for _ in range(3):
            assert get("/") in {200, 503}
        connection.close()
        running.terminate()
        said, _ = running.communicate(timeout=30)
    assert "Traceback" not in said


def test_a_path_cannot_forge_lines_in_the_log_of_an_internal_error(
    emulator: BackgroundEmulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the emulator's own")

    monkeypatch.setattr("django_tasks_cloud_tasks.emulator.ways_in.rest._parse", fail)
    path = "/v2/projects/p%0D12:00:00%E2%80%A8%1B[2J/locations/l/queues"
    assert ask(emulator.address, "GET", path).status == 500
    (told,) = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert told.isprintable()

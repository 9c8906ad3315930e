"""The emulator and hostile pages, clients that never read, and full disks."""

from __future__ import annotations

import os
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.errors import unavailable
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.model import QueueState, Task
from django_tasks_cloud_tasks.emulator.storage import Storage
from google.cloud import tasks_v2
from h2.connection import H2Connection
from h2.events import StreamEnded, StreamReset

from tests.integration.emulator_program import emulator_program
from tests.integration.grpc_calls import framed, send_call
from tests.integration.http_calls import ask, connect, post
from tests.integration.http_servers import handler
from tests.integration.paths import ROOT
from tests.integration.refusals import LOCATION, QUEUE, START

# Pages whose host name resolves to the address of the emulator.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/emulator/state"),
        ("GET", "/emulator/events"),
        ("GET", "/emulator/clock"),
        ("POST", "/emulator/clock"),
        ("POST", "/emulator/reset"),
        ("GET", f"/v2/{LOCATION}/queues"),
        ("POST", f"/v2/{QUEUE}/tasks"),
        ("DELETE", f"/v2/{QUEUE}"),
    ],
)
def test_a_page_under_another_host_name_is_refused(
    emulator: BackgroundEmulator, method: str, path: str
) -> None:
    port = emulator.address.rpartition(":")[2]
    for host in (f"evil.example:{port}", "evil.example"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        status, body = ask(emulator.address, method, path, b"{}", **headers)
        assert (status, b"does not answer requests with the host name" in body) == (403, True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "app.localhost"])
def test_a_page_under_a_loopback_name_is_answered(emulator: BackgroundEmulator, host: str) -> None:
    named = f"{host}:{emulator.address.rpartition(':')[2]}"
    headers = {"Host": named, "Origin": f"http://{named}"}
    assert ask(emulator.address, "GET", "/emulator/state", b"", **headers).status == 200


def test_a_page_under_an_allowed_host_name_is_answered() -> None:
    with BackgroundEmulator(lambda: Emulator(allowed_hosts=["emulator"])) as running:
        assert ask(running.address, "GET", "/emulator/state", Host="emulator:8123").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"advance": ' + b"[" * 100_000,
        b'{"advance": NaN}',
        b'{"advance": 1e999}',
        b'{"advance": "\\ud800"}',
        b"null",
        b"\xff",
        b'{"advance": -1}',
    ],
)
def test_the_clock_refuses_a_malformed_document_and_names_the_field_it_expects(
    emulator: BackgroundEmulator, body: bytes
) -> None:
    status, answer = ask(emulator.address, "POST", "/emulator/clock", body)
    assert (status, b"advance" in answer) == (400, True)


# Clients that do not read, or do not send.


def fill(client: Any, count: int = 20) -> None:
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    client.pause_queue(name=QUEUE)
    body = b"x" * 100_000
    for number in range(count):
        name = f"{QUEUE}/tasks/t{number}"
        request = {"url": "http://localhost/", "body": body}
        client.create_task(parent=QUEUE, task={"name": name, "http_request": request})


@pytest.fixture
def growth() -> Callable[[], int]:
    """Return the growth of this process's memory since the start of the test, in bytes."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    before = resident()
    return lambda: resident() - before


def send_until_full(raw: socket.socket, data: bytes, most: int) -> int:
    """Send until the other side accepts no more bytes. Return the number of bytes sent."""
    raw.setblocking(False)
    sent = 0
    raw.settimeout(1.0)
    try:
        while sent < most:
            sent += raw.send(data[sent % len(data) :])
    except OSError:
        pass  # It accepts no more.
    return sent


def test_unread_answers_over_http_do_not_fill_the_memory(
    emulator: BackgroundEmulator, grpc_client: Any, growth: Callable[[], int]
) -> None:
    fill(grpc_client)
    path = f"/v2/{QUEUE}/tasks?responseView=FULL"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with connect(emulator.address) as raw:
        # Each request of 100 bytes has an answer of 2.7 MB.
        send_until_full(raw, request, 200 * len(request))
        assert growth() < 60_000_000
    assert ask(emulator.address, "GET", "/emulator/state").status == 200


def test_unread_answers_over_grpc_do_not_fill_the_memory(
    emulator: BackgroundEmulator, grpc_client: Any, growth: Callable[[], int]
) -> None:
    fill(grpc_client)
    connection = H2Connection()
    connection.initiate_connection()
    request = tasks_v2.ListTasksRequest(parent=QUEUE, response_view=tasks_v2.Task.View.FULL)
    for number in range(300):
        send_call(connection, 2 * number + 1, "ListTasks", framed(request))
    with connect(emulator.address) as raw:
        data = connection.data_to_send()
        raw.settimeout(5)
        raw.sendall(data)
        assert ask(emulator.address, "GET", "/emulator/state").status == 200
        assert growth() < 60_000_000


def test_unfinished_calls_do_not_fill_the_memory(
    emulator: BackgroundEmulator, growth: Callable[[], int]
) -> None:
    """There are ninety calls of a megabyte each, and none is ever complete."""
    connection = H2Connection()
    connection.initiate_connection()
    part, refused = b"x" * 16_000, set[int]()
    with connect(emulator.address) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def hear() -> None:
            for event in connection.receive_data(raw.recv(65536)):
                if isinstance(event, StreamEnded | StreamReset):
                    refused.add(event.stream_id)

        for stream in range(1, 181, 2):
            headers = {":method": "POST", ":path": "/x", ":scheme": "http", ":authority": "x"}
            connection.send_headers(stream, list(headers.items()))
            for _ in range(64):
                raw.sendall(connection.data_to_send())
                while stream not in refused and connection.local_flow_control_window(stream) < len(
                    part
                ):
                    hear()
                if stream in refused:
                    break
                connection.send_data(stream, part)
        assert refused, "there is no end to what it keeps"
        assert growth() < 90_000_000
        assert ask(emulator.address, "GET", "/emulator/state").status == 200


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"PRI * HT",
        b"GET / HTTP/1.1\r\nHost: local",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + H2Connection().data_to_send(),
        b"GET /emulator/clock HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["nothing", "half a preface", "half a request", "HTTP/2", "settings", "kept alive"],
)
def test_an_idle_connection_is_closed(beginning: bytes) -> None:
    with (
        BackgroundEmulator(lambda: Emulator(idle_timeout=0.3)) as running,
        connect(running.address) as raw,
    ):
        raw.sendall(beginning)
        try:
            while raw.recv(65536):
                pass
        except ConnectionError:
            pass


def test_a_call_and_the_end_of_the_connection_in_one_packet_cause_no_error(
    emulator: BackgroundEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    connection = H2Connection()
    connection.initiate_connection()
    send_call(connection, 1, "ListQueues", framed(tasks_v2.ListQueuesRequest(parent=LOCATION)))
    connection.close_connection()
    with connect(emulator.address) as raw:
        raw.sendall(connection.data_to_send())
        while raw.recv(65536):
            pass
    assert ask(emulator.address, "GET", "/emulator/state").status == 200
    assert caplog.records == []


def test_a_lack_of_descriptors_is_logged_in_one_line() -> None:
    with emulator_program("--auto-create-queues") as (running, address):
        assert running.stdout is not None
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (24, 24))
        crowd = [connect(address) for _ in range(40)]
        for connection in crowd:
            connection.close()
        running.terminate()
        said, _ = running.communicate(timeout=30)
    assert "Traceback" not in said
    assert said.count("out of system resource") == 1


def test_a_url_cannot_forge_a_line_of_the_log() -> None:
    forged = "http://127.0.0.1:1/a\n12:00:00.000  task created      task=forged\u2028\x1b[2J"
    with emulator_program("--auto-create-queues") as (running, address):
        task = {"task": {"httpRequest": {"url": forged}}}
        assert post(address, f"/v2/{QUEUE}/tasks", task).status == 200
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines.append(line)
            if "attempt finished" in line:
                break
    assert not any(line.endswith("task=forged\n") or "\x1b" in line for line in lines)
    assert any(r"\n12:00:00.000" in line for line in lines)


# Full disks.


def limit(storage: Storage, room: int) -> None:
    """Limit the state file to `room` more pages than it has now."""
    (pages,) = storage._database.execute("PRAGMA page_count").fetchone()
    storage._database.execute(f"PRAGMA max_page_count = {pages + room}")


def test_a_full_disk_refuses_new_tasks_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(tmp_path / "state")
    with BackgroundEmulator(
        lambda: Emulator(clock=ManualClock(START), storage=storage, queues=[QUEUE])
    ) as running:

        def create(name: str, size: int = 100_000) -> int:
            request = {"url": "http://127.0.0.1:1/", "body": "eHh4" * (size // 4)}
            task = {"name": f"{QUEUE}/tasks/{name}", "httpRequest": request}
            return post(running.address, f"/v2/{QUEUE}/tasks", {"task": task}).status

        def names() -> list[str]:
            listed = ask(running.address, "GET", f"/v2/{QUEUE}/tasks").document
            return [task["name"].rpartition("/")[2] for task in listed.get("tasks", [])]

        async def set_room(pages: int) -> None:
            limit(storage, pages)

        assert post(running.address, f"/v2/{QUEUE}:pause").status == 200
        assert create("kept") == 200
        running.call(set_room(0))
        for _ in range(3):
            assert create("refused") == 503
        assert names() == ["kept"]
        running.call(set_room(1000))
        assert create("refused") == 200, "its name was never taken"
        assert sorted(names()) == ["kept", "refused"]
    told = [record.getMessage() for record in caplog.records if "state file" in record.getMessage()]
    assert len(told) == 2, "one line when it begins, and one when it ends"


def test_a_task_that_is_due_on_a_full_disk_is_delivered_when_there_is_room(
    tmp_path: Path,
) -> None:
    """The emulator uses the clock of the machine."""
    storage = Storage(tmp_path / "state")
    with (
        handler() as (url, called),
        BackgroundEmulator(lambda: Emulator(storage=storage, queues=[QUEUE])) as running,
    ):
        task = {"httpRequest": {"url": url}}
        assert post(running.address, f"/v2/{QUEUE}:pause").status == 200
        created = post(running.address, f"/v2/{QUEUE}/tasks", {"task": task})
        assert created.status == 200
        refused = threading.Event()

        async def fill_up() -> None:
            write = storage.task_changed

            def refuse(task: Task) -> None:
                if refused.is_set():
                    write(task)
                    return
                refused.set()
                raise unavailable("the disk is full")

            storage.task_changed = refuse  # type: ignore[method-assign]  # only until it has refused once
            emulator = running.emulator
            emulator.service.set_state(QUEUE, QueueState.RUNNING)
            emulator.touched(QUEUE)

        running.call(fill_up())
        assert refused.is_set()
        assert called.wait(20)


def test_an_emulator_that_starts_on_a_full_disk_ends_with_one_message(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Storage(path).close()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE filler (x BLOB)")
    database.close()
    # A limit on the size of files has the effect of a full disk.
    starts = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from django_tasks_cloud_tasks.emulator.command_line import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", starts, "--state", str(path), "--port", "0", "--queue", QUEUE],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(path) in done.stderr or "state file" in done.stderr

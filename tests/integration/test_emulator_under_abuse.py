"""The emulator as a server: pages that pose as it, clients that never read, full disks."""

from __future__ import annotations

import http.client
import json
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
from django_tasks_cloud_tasks.emulator.storage import Storage
from django_tasks_cloud_tasks.emulator.values import QueueState, Task
from google.cloud import tasks_v2
from h2.connection import H2Connection
from h2.events import StreamEnded, StreamReset

from tests.integration.refusals import LOCATION, QUEUE, START
from tests.integration.test_emulator_program import emulator as program
from tests.integration.test_emulator_program import handler

ROOT = Path(__file__).resolve().parents[2]


def address_of(running: BackgroundEmulator) -> tuple[str, int]:
    host, _, port = running.address.partition(":")
    return host, int(port)


def ask(
    running: BackgroundEmulator, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address_of(running), timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# Pages that have their own name point here.


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
def test_a_page_that_poses_as_the_emulator_is_refused(
    emulator: BackgroundEmulator, method: str, path: str
) -> None:
    port = address_of(emulator)[1]
    for host in (f"evil.example:{port}", "evil.example"):
        status, body = ask(emulator, method, path, b"{}", Host=host, Origin=f"http://{host}")
        assert (status, b"does not answer as" in body) == (403, True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "app.localhost"])
def test_its_own_page_is_answered(emulator: BackgroundEmulator, host: str) -> None:
    named = f"{host}:{address_of(emulator)[1]}"
    assert ask(emulator, "GET", "/emulator/state", Host=named, Origin=f"http://{named}")[0] == 200


def test_a_name_that_is_given_is_answered() -> None:
    with BackgroundEmulator(lambda: Emulator(allowed_hosts=["emulator"])) as running:
        assert ask(running, "GET", "/emulator/state", Host="emulator:8123")[0] == 200


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
def test_a_clock_that_is_told_rubbish_says_what_it_takes(
    emulator: BackgroundEmulator, body: bytes
) -> None:
    status, answer = ask(emulator, "POST", "/emulator/clock", body)
    assert (status, b"advance" in answer) == (400, True)


# Clients that do not read, or do not speak.


def framed(request: Any) -> bytes:
    message: bytes = type(request).serialize(request)
    return b"\0" + len(message).to_bytes(4) + message


def call(connection: H2Connection, stream: int, method: str, message: bytes) -> None:
    headers = {
        ":method": "POST",
        ":path": f"/google.cloud.tasks.v2.CloudTasks/{method}",
        ":scheme": "http",
        ":authority": "localhost",
        "content-type": "application/grpc",
    }
    connection.send_headers(stream, list(headers.items()))
    connection.send_data(stream, message, end_stream=True)


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
    """Bytes by which this process has grown since."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    before = resident()
    return lambda: resident() - before


def send_until_full(raw: socket.socket, data: bytes, most: int) -> int:
    """Send again and again until the other side takes no more; how many bytes it took."""
    raw.setblocking(False)
    sent = 0
    raw.settimeout(1.0)
    try:
        while sent < most:
            sent += raw.send(data[sent % len(data) :])
    except OSError:
        pass  # It takes no more.
    return sent


def test_answers_over_http_that_nobody_reads_do_not_pile_up(
    emulator: BackgroundEmulator, grpc_client: Any, growth: Callable[[], int]
) -> None:
    fill(grpc_client)
    path = f"/v2/{QUEUE}/tasks?responseView=FULL"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.create_connection(address_of(emulator)) as raw:
        # 2.7 MB of answer for each request of 100 bytes.
        send_until_full(raw, request, 200 * len(request))
        assert growth() < 60_000_000
    assert ask(emulator, "GET", "/emulator/state")[0] == 200


def test_answers_over_grpc_that_nobody_reads_do_not_pile_up(
    emulator: BackgroundEmulator, grpc_client: Any, growth: Callable[[], int]
) -> None:
    fill(grpc_client)
    connection = H2Connection()
    connection.initiate_connection()
    request = tasks_v2.ListTasksRequest(parent=QUEUE, response_view=tasks_v2.Task.View.FULL)
    for number in range(300):
        call(connection, 2 * number + 1, "ListTasks", framed(request))
    with socket.create_connection(address_of(emulator)) as raw:
        data = connection.data_to_send()
        raw.settimeout(5)
        raw.sendall(data)
        assert ask(emulator, "GET", "/emulator/state")[0] == 200
        assert growth() < 60_000_000


def test_calls_that_never_end_do_not_pile_up(
    emulator: BackgroundEmulator, growth: Callable[[], int]
) -> None:
    """Ninety of a megabyte each, of which none is ever complete."""
    connection = H2Connection()
    connection.initiate_connection()
    part, refused = b"x" * 16_000, set[int]()
    with socket.create_connection(address_of(emulator), timeout=20) as raw:
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
        assert ask(emulator, "GET", "/emulator/state")[0] == 200


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
def test_a_connection_over_which_nothing_happens_is_dropped(beginning: bytes) -> None:
    with (
        BackgroundEmulator(lambda: Emulator(idle_timeout=0.3)) as running,
        socket.create_connection(address_of(running), timeout=20) as raw,
    ):
        raw.sendall(beginning)
        try:
            while raw.recv(65536):
                pass
        except ConnectionError:
            pass


def test_a_call_and_a_goodbye_in_one_packet_are_no_fault(
    emulator: BackgroundEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    connection = H2Connection()
    connection.initiate_connection()
    call(connection, 1, "ListQueues", framed(tasks_v2.ListQueuesRequest(parent=LOCATION)))
    connection.close_connection()
    with socket.create_connection(address_of(emulator), timeout=20) as raw:
        raw.sendall(connection.data_to_send())
        while raw.recv(65536):
            pass
    assert ask(emulator, "GET", "/emulator/state")[0] == 200
    assert caplog.records == []


def test_few_descriptors_cost_a_line_and_not_a_log() -> None:
    with program("--auto-create-queues") as (running, address):
        host, _, port = address.partition(":")
        assert running.stdout is not None
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (24, 24))
        crowd = [socket.create_connection((host, int(port)), timeout=20) for _ in range(40)]
        for connection in crowd:
            connection.close()
        running.terminate()
        said, _ = running.communicate(timeout=30)
    assert "Traceback" not in said
    assert said.count("out of system resource") == 1


def test_a_url_cannot_forge_a_line_of_the_log() -> None:
    forged = "http://127.0.0.1:1/a\n12:00:00.000  task created      task=forged\u2028\x1b[2J"
    with program("--auto-create-queues") as (running, address):
        host, _, port = address.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        task = {"task": {"httpRequest": {"url": forged}}}
        connection.request("POST", f"/v2/{QUEUE}/tasks", json.dumps(task))
        assert connection.getresponse().status == 200
        connection.close()
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
    """Let a state file have no more pages than it has, and `room` more."""
    (pages,) = storage._database.execute("PRAGMA page_count").fetchone()
    storage._database.execute(f"PRAGMA max_page_count = {pages + room}")


def test_on_a_full_disk_tasks_are_refused_and_due_ones_come_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(tmp_path / "state")
    with BackgroundEmulator(
        lambda: Emulator(clock=ManualClock(START), storage=storage, queues=[QUEUE])
    ) as running:

        def create(name: str, size: int = 100_000) -> int:
            request = {"url": "http://127.0.0.1:1/", "body": "eHh4" * (size // 4)}
            task = {"name": f"{QUEUE}/tasks/{name}", "httpRequest": request}
            body = json.dumps({"task": task}).encode()
            return ask(running, "POST", f"/v2/{QUEUE}/tasks", body)[0]

        def names() -> list[str]:
            listed = json.loads(ask(running, "GET", f"/v2/{QUEUE}/tasks")[1])
            return [task["name"].rpartition("/")[2] for task in listed.get("tasks", [])]

        async def set_room(pages: int) -> None:
            limit(storage, pages)

        assert ask(running, "POST", f"/v2/{QUEUE}:pause")[0] == 200
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


def test_what_is_due_on_a_full_disk_comes_when_there_is_room_without_a_call(
    tmp_path: Path,
) -> None:
    """On the machine's own clock."""
    storage = Storage(tmp_path / "state")
    with (
        handler() as (url, called),
        BackgroundEmulator(lambda: Emulator(storage=storage, queues=[QUEUE])) as running,
    ):
        task = {"httpRequest": {"url": url}}
        assert ask(running, "POST", f"/v2/{QUEUE}:pause")[0] == 200
        created = ask(running, "POST", f"/v2/{QUEUE}/tasks", json.dumps({"task": task}).encode())
        assert created[0] == 200
        refused = threading.Event()

        async def fill_up() -> None:
            write = storage.task_changed

            def refuse(task: Task) -> None:
                if refused.is_set():
                    write(task)
                    return
                refused.set()
                raise unavailable("the disk is full")

            storage.task_changed = refuse  # type: ignore[method-assign]  # for this one moment
            emulator = running.emulator
            emulator.service.set_state(QUEUE, QueueState.RUNNING)
            emulator.touched(QUEUE)

        running.call(fill_up())
        assert refused.is_set()
        assert called.wait(20)


def test_a_restart_on_a_full_disk_ends_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Storage(path).close()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE filler (x BLOB)")
    database.close()
    # A file size limit is what a full disk is to a process.
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

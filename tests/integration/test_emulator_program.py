"""The emulator as a program: how it starts, what it says, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

ROOT = Path(__file__).resolve().parents[2]
MODULE = [sys.executable, "-m", "django_tasks_cloud_tasks.emulator"]
COMMAND = [sys.executable, "-m", "django", "cloudtasks_emulator", "--settings", "tests.settings"]
QUEUE = "projects/p/locations/l/queues/q"
LOOPBACK = ["--host", "127.0.0.1"]


@contextmanager
def emulator(*arguments: str, command: list[str] = MODULE) -> Iterator[tuple[Any, str]]:
    """The program, once it listens, and its address."""
    with subprocess.Popen(
        [*command, *LOOPBACK, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            address = re.search(r"on (127\.0\.0\.1:\d+)\.", greeting)
            assert address, greeting + process.stdout.read()
            yield process, address.group(1)
        finally:
            process.kill()


@contextmanager
def handler(
    status: int = 200,
    hold: threading.Event | None = None,
    calls: list[None] | None = None,
    bodies: list[bytes] | None = None,
) -> Iterator[tuple[str, Any]]:
    """An HTTP server that answers with `status`; yields its URL and an event for the first call."""
    called = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            for kept, value in ((calls, None), (bodies, body)):
                if kept is not None:
                    kept.append(value)  # type: ignore[arg-type]  # each of its own kind
            called.set()
            if hold:
                hold.wait(30)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", called
    finally:
        if hold:
            hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


def create(address: str, url: str) -> None:
    with grpc.insecure_channel(address) as channel:
        client: Any = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        client.create_task(parent=QUEUE, task={"http_request": {"url": url}})


@pytest.mark.parametrize("command", [MODULE, COMMAND], ids=["module", "manage.py"])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_delivers_tells_each_event_in_a_line_and_ends_at_once(
    command: list[str], ending: signal.Signals
) -> None:
    with handler() as (url, _), emulator("--queue", QUEUE, command=command) as (process, address):
        create(address, url)
        lines = [process.stdout.readline().strip() for _ in range(7)]
        process.send_signal(ending)
        assert process.wait(10) == 0
        rest = process.stdout.read()
    assert lines[0] == f"export CLOUD_TASKS_EMULATOR_HOST={address}"
    assert lines[1] == f"Dashboard: http://{address}/"
    assert lines[2] == f"Queue {QUEUE}"
    assert "task created" in lines[4]
    assert "attempt started" in lines[5]
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d\.\d\d\d  attempt finished  task={QUEUE}/tasks/\d+  attempt=1  answer=200",
        lines[6],
    )
    assert rest == "Ended.\n"


def test_it_ends_at_once_while_an_attempt_and_a_connection_are_open() -> None:
    with (
        handler(hold=threading.Event()) as (url, called),
        emulator("--auto-create-queues") as (process, address),
        grpc.insecure_channel(address) as channel,
    ):
        grpc.channel_ready_future(channel).result(10)
        create(address, url)
        assert called.wait(10)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stdout.read()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--queue", "default"], "'default' is no queue name: write projects/PROJECT/"),
        (["--port", "70000"], "70000 is no port: ports go"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str
) -> None:
    done = subprocess.run(
        [*MODULE, *LOOPBACK, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for command in (MODULE, COMMAND):
            done = subprocess.run(
                [*command, *LOOPBACK, "--port", port],
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            assert done.returncode == 2
            assert done.stderr.startswith(f"Cannot listen on 127.0.0.1:{port}: ")
            assert done.stderr.count("\n") == 1


def test_the_help_names_every_argument() -> None:
    done = subprocess.run([*MODULE, "--help"], check=True, capture_output=True, text=True)
    for argument in ("--host", "--port", "--queue", "--auto-create-queues", "localhost", "8123"):
        assert argument in done.stdout


def test_a_dispatch_deadline_that_passes_is_a_failed_attempt() -> None:
    """The shortest deadline is 15 s, so here the attempt's own is shortened behind the API."""
    from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
    from django_tasks_cloud_tasks.emulator.clock import ManualClock
    from django_tasks_cloud_tasks.emulator.limits import SECOND
    from django_tasks_cloud_tasks.emulator.server import Emulator
    from django_tasks_cloud_tasks.emulator.targets import HttpTarget

    with (
        handler(hold=threading.Event()) as (url, _),
        BackgroundEmulator(lambda: Emulator(clock=ManualClock(), queues=[QUEUE])) as background,
    ):

        async def run() -> tuple[int, bool]:
            emulator = background.emulator
            target, now = HttpTarget(url=url, body=b"{}"), emulator.now()
            emulator.service.create_task(
                QUEUE, "t", target, schedule_time=None, deadline=SECOND // 5, now=now
            )
            emulator.touched(QUEUE)
            await emulator.settle()
            return emulator.finished[0].status, emulator.finished[0].answered

        assert background.call(run()) == (504, False)


def test_a_handler_that_is_not_there_is_a_failed_attempt() -> None:
    from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
    from django_tasks_cloud_tasks.emulator.clock import ManualClock
    from django_tasks_cloud_tasks.emulator.server import Emulator

    with BackgroundEmulator(
        lambda: Emulator(clock=ManualClock(), create_queues=True)
    ) as background:
        for url in (
            "http://127.0.0.1:1/",
            "http://127.0.0.1:99999/",
            "http://[/",
            "http://x.invalid",
        ):
            create(background.address, url)
        background.call(background.emulator.settle())
        finished = background.emulator.finished
        assert [(attempt.status, attempt.answered) for attempt in finished] == [(503, False)] * 4


def test_redirects_are_not_followed() -> None:
    from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
    from django_tasks_cloud_tasks.emulator.clock import ManualClock
    from django_tasks_cloud_tasks.emulator.server import Emulator

    with (
        handler(status=302) as (url, _),
        BackgroundEmulator(lambda: Emulator(clock=ManualClock(), create_queues=True)) as background,
    ):
        create(background.address, url)
        background.call(background.emulator.settle())
        assert background.emulator.finished[0].status == 302

"""The emulator as a program: its start, its output and its end."""

import os
import re
import signal
import socket
import subprocess
import threading

import grpc
import pytest

from tests.integration.emulator_program import COMMAND, LOOPBACK, emulator_program
from tests.integration.emulator_program import MODULE as MODULE
from tests.integration.grpc_calls import client_over
from tests.integration.http_servers import handler
from tests.integration.paths import ROOT
from tests.integration.refusals import QUEUE


def create(address: str, url: str) -> None:
    with grpc.insecure_channel(address) as channel:
        client_over(channel).create_task(parent=QUEUE, task={"http_request": {"url": url}})


@pytest.mark.parametrize("command", [MODULE, COMMAND], ids=["module", "manage.py"])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_delivers_logs_each_event_in_one_line_and_ends_immediately(
    command: list[str], ending: signal.Signals
) -> None:
    with (
        handler() as (url, _),
        emulator_program("--queue", QUEUE, command=command) as (process, address),
    ):
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
    assert rest == "The emulator has stopped.\n"


def test_the_emulator_ends_immediately_while_an_attempt_and_a_connection_are_open() -> None:
    with (
        handler(hold=threading.Event()) as (url, called),
        emulator_program("--auto-create-queues") as (process, address),
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
        (["--queue", "default"], "'default' is not a queue name: write projects/PROJECT/"),
        (["--port", "70000"], "--port 70000 is not a port. Use a number"),
    ],
)
def test_an_invalid_argument_is_reported_in_one_sentence_with_exit_code_2(
    arguments: list[str], sentence: str
) -> None:
    done = subprocess.run(
        [*MODULE, *LOOPBACK, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_port_in_use_is_reported_in_one_sentence_with_exit_code_2() -> None:
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


def test_an_attempt_that_exceeds_its_dispatch_deadline_fails() -> None:
    """The API allows no deadline below 15 s, so the test creates the task without the API."""
    from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
    from django_tasks_cloud_tasks.emulator.clock import ManualClock
    from django_tasks_cloud_tasks.emulator.server import Emulator
    from django_tasks_cloud_tasks.emulator.state.limits import SECOND
    from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget

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


def test_an_attempt_at_an_unreachable_handler_fails() -> None:
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

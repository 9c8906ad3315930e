"""Where the emulator's log cannot be written, its work goes on."""

import errno
import http.client
import json
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator

from tests.integration.refusals import LOCATION, QUEUE
from tests.integration.test_emulator_program import LOOPBACK, MODULE, ROOT, handler
from tests.integration.test_emulator_program import emulator as program


def post(address: str, path: str, document: object) -> int:
    """The status of the answer."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("POST", f"/v2/{path}", json.dumps(document))
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def create(address: str, url: str) -> int:
    return post(address, f"{QUEUE}/tasks", {"task": {"httpRequest": {"url": url}}})


@pytest.mark.parametrize("event", ["task created", "attempt started", "attempt finished"])
def test_a_log_that_cannot_be_written_loses_no_event_but_its_own(event: str) -> None:
    """Tasks are answered, delivered and done with, one behind the other."""

    def log(told: str, _: dict[str, object]) -> None:
        if told == event:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls: list[None] = []
    one_at_a_time = {"name": QUEUE, "rateLimits": {"maxConcurrentDispatches": 1}}
    with (
        handler(calls=calls) as (url, _),
        BackgroundEmulator(lambda: Emulator(log=log)) as running,
    ):
        assert post(running.address, f"{LOCATION}/queues", one_at_a_time) == 200
        assert post(running.address, f"{QUEUE}:pause", {}) == 200
        for _ in range(2):
            assert create(running.address, url) == 200
        assert post(running.address, f"{QUEUE}:resume", {}) == 200
        running.call(running.emulator.settle())
        ended = [attempt.status for attempt in running.emulator.finished]
        left = running.emulator.service.tasks(QUEUE)
    assert (len(calls), ended, left) == (2, [200, 200], [])


def test_an_output_that_knows_no_such_letters_does_not_stop_a_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container without a locale, or in a pipe on Windows."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with handler() as (url, called), program("--auto-create-queues") as (running, address):
        assert create(address, url + "gruß/\N{SNOWMAN}") == 200
        arrived = called.wait(20)
        running.terminate()
        said, _ = running.communicate(timeout=30)
    assert arrived
    assert "Traceback" not in said
    assert r"gru\xdf/\u2603" in said


def test_on_a_full_disk_that_takes_no_more_of_the_log_tasks_are_delivered(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        handler() as (url, called),
        log.open("w") as output,
        subprocess.Popen(
            [*MODULE, *LOOPBACK, "--port", "0", "--auto-create-queues", "--log-format", "json"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as running,
    ):
        try:
            address = wait_for_address(log, running)
            size = log.stat().st_size
            resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (size, size))
            status = create(address, url)
            arrived = called.wait(20)
            running.terminate()
            _, said = running.communicate(timeout=30)
        finally:
            running.kill()
    assert (status, arrived, running.returncode) == (200, True, 0)
    assert "Traceback" not in said


def wait_for_address(log: Path, running: subprocess.Popen[str]) -> str:
    """What a file tells nobody of is looked for until it is there, or the program is gone."""
    while running.poll() is None:
        if found := re.search(r'"address": "([\d.:]+)"', log.read_text()):
            return found.group(1)
        try:
            running.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the emulator ended")

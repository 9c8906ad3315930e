"""The emulator continues to work when its log cannot be written."""

import errno
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator

from tests.integration.emulator_program import LOOPBACK, MODULE, emulator_program
from tests.integration.http_calls import post
from tests.integration.http_servers import handler
from tests.integration.paths import ROOT
from tests.integration.refusals import LOCATION, QUEUE


def create(address: str, url: str) -> int:
    return post(address, f"/v2/{QUEUE}/tasks", {"task": {"httpRequest": {"url": url}}}).status


@pytest.mark.parametrize("event", ["task created", "attempt started", "attempt finished"])
def test_a_log_that_cannot_be_written_does_not_stop_deliveries(event: str) -> None:
    """Both tasks are created, delivered and finished, one after the other."""

    def log(told: str, _: dict[str, object]) -> None:
        if told == event:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls: list[None] = []
    one_at_a_time = {"name": QUEUE, "rateLimits": {"maxConcurrentDispatches": 1}}
    with (
        handler(calls=calls) as (url, _),
        BackgroundEmulator(lambda: Emulator(log=log)) as running,
    ):
        assert post(running.address, f"/v2/{LOCATION}/queues", one_at_a_time).status == 200
        assert post(running.address, f"/v2/{QUEUE}:pause", {}).status == 200
        for _ in range(2):
            assert create(running.address, url) == 200
        assert post(running.address, f"/v2/{QUEUE}:resume", {}).status == 200
        running.call(running.emulator.settle())
        ended = [attempt.status for attempt in running.emulator.finished]
        left = running.emulator.service.tasks(QUEUE)
    assert (len(calls), ended, left) == (2, [200, 200], [])


def test_an_output_that_cannot_encode_a_url_does_not_stop_a_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container without a locale has such an output, and so has a pipe on Windows."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with handler() as (url, called), emulator_program("--auto-create-queues") as (running, address):
        assert create(address, url + "gruß/\N{SNOWMAN}") == 200
        arrived = called.wait(20)
        running.terminate()
        said, _ = running.communicate(timeout=30)
    assert arrived
    assert "Traceback" not in said
    assert r"gru\xdf/\u2603" in said


def test_a_full_disk_under_the_log_does_not_stop_a_delivery(tmp_path: Path) -> None:
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
    """Read the log until it has the address, or the program has ended."""
    while running.poll() is None:
        if found := re.search(r'"address": "([\d.:]+)"', log.read_text()):
            return found.group(1)
        try:
            running.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the emulator ended")

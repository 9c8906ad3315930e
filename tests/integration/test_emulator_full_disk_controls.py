"""The emulator's clock, its reset and its end while the state file cannot be written."""

import http.client
import json
import resource
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.errors import unavailable
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.storage import Storage

from tests.integration.refusals import QUEUE, START
from tests.integration.test_emulator_program import emulator as program
from tests.integration.test_emulator_program import handler


def post(address: str, path: str, document: object) -> int:
    """The status of the answer."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("POST", path, json.dumps(document))
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def task(url: str, *, after: int | None = None) -> object:
    request: dict[str, object] = {"httpRequest": {"url": url}}
    if after is not None:
        when = time.gmtime(time.time() + after)
        request["scheduleTime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", when)
    return {"task": request}


def refuse(*_: object) -> None:
    raise unavailable("the disk is full")


def test_a_clock_moved_over_a_due_task_on_a_full_disk_is_refused_and_works_again(
    tmp_path: Path,
) -> None:
    """In a process of its own: an emulator that tries without end answers nobody any more."""
    unlimited = resource.RLIM_INFINITY
    with (
        handler() as (url, called),
        program("--state", str(tmp_path / "state"), "--queue", QUEUE) as (running, address),
    ):
        assert post(address, f"/v2/{QUEUE}/tasks", task(url, after=600)) == 200
        # Files that may not grow are what a full disk is to a process; its output is a pipe.
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (0, unlimited))
        assert post(address, "/emulator/clock", {"advance": 1200}) == 503
        assert not called.is_set()
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        assert post(address, "/emulator/clock", {"advance": 1200}) == 200
        assert called.wait(20)


def test_a_reset_that_is_refused_breaks_nothing_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, leave = Storage(tmp_path / "state"), threading.Event()
    with (
        handler(hold=leave) as (url, called),
        BackgroundEmulator(lambda: Emulator(storage=storage, queues=[QUEUE])) as running,
    ):
        assert post(running.address, f"/v2/{QUEUE}/tasks", task(url)) == 200
        assert called.wait(20)
        monkeypatch.setattr(storage, "emptied", refuse)
        status = post(running.address, "/emulator/reset", {})
        leave.set()
        running.call(running.emulator.settle())
        ended = [attempt.status for attempt in running.emulator.finished]
        queue = running.emulator.service.queue(QUEUE)
    assert status == 503
    assert ended == [200], "the attempt that was under way ended as if nobody had asked"
    assert (queue.running, list(queue.tasks)) == (0, [])
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_what_the_journal_refused_to_be_told_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a task that is done would be delivered again by the next emulator."""
    path = tmp_path / "state"
    storage = Storage(path)
    with (
        handler() as (url, called),
        BackgroundEmulator(
            lambda: Emulator(clock=ManualClock(START), storage=storage, queues=[QUEUE])
        ) as running,
    ):
        monkeypatch.setattr(storage, "task_removed", refuse)
        assert post(running.address, f"/v2/{QUEUE}/tasks", task(url)) == 200
        assert called.wait(20)

        # There is room again, and the end comes before anything is tried again.
        async def end_with_room() -> None:
            await running.emulator.settle()
            monkeypatch.undo()
            for timer in running.emulator._timers.values():
                timer.cancel()

        running.call(end_with_room())
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
    database.close()

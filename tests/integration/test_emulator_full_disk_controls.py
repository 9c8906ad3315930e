"""The clock, the reset and the stop of the emulator while the state file cannot be written."""

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

from tests.integration.emulator_program import emulator_program
from tests.integration.http_calls import post
from tests.integration.http_servers import handler
from tests.integration.refusals import QUEUE, START


def task(url: str, *, after: int | None = None) -> object:
    request: dict[str, object] = {"httpRequest": {"url": url}}
    if after is not None:
        when = time.gmtime(time.time() + after)
        request["scheduleTime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", when)
    return {"task": request}


def refuse(*_: object) -> None:
    raise unavailable("the disk is full")


def test_the_clock_is_not_moved_past_a_due_task_until_the_disk_has_room(
    tmp_path: Path,
) -> None:
    """The emulator is a process of its own: if it retried endlessly, it would answer nothing."""
    unlimited = resource.RLIM_INFINITY
    with (
        handler() as (url, called),
        emulator_program("--state", str(tmp_path / "state"), "--queue", QUEUE) as (
            running,
            address,
        ),
    ):
        assert post(address, f"/v2/{QUEUE}/tasks", task(url, after=600)).status == 200
        # A limit on the size of files has the effect of a full disk; the output is a pipe.
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (0, unlimited))
        assert post(address, "/emulator/clock", {"advance": 1200}).status == 503
        assert not called.is_set()
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        assert post(address, "/emulator/clock", {"advance": 1200}).status == 200
        assert called.wait(20)


def test_a_refused_reset_interrupts_no_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, leave = Storage(tmp_path / "state"), threading.Event()
    with (
        handler(hold=leave) as (url, called),
        BackgroundEmulator(lambda: Emulator(storage=storage, queues=[QUEUE])) as running,
    ):
        assert post(running.address, f"/v2/{QUEUE}/tasks", task(url)).status == 200
        assert called.wait(20)
        monkeypatch.setattr(storage, "emptied", refuse)
        status = post(running.address, "/emulator/reset", {}).status
        leave.set()
        running.call(running.emulator.settle())
        ended = [attempt.status for attempt in running.emulator.finished]
        queue = running.emulator.service.queue(QUEUE)
    assert status == 503
    assert ended == [200], "the attempt that was under way ended as if nobody had asked"
    assert (queue.running, list(queue.tasks)) == (0, [])
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_changes_that_the_journal_refused_are_written_when_the_emulator_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next emulator would deliver a finished task again."""
    path = tmp_path / "state"
    storage = Storage(path)
    with (
        handler() as (url, called),
        BackgroundEmulator(
            lambda: Emulator(clock=ManualClock(START), storage=storage, queues=[QUEUE])
        ) as running,
    ):
        monkeypatch.setattr(storage, "task_removed", refuse)
        assert post(running.address, f"/v2/{QUEUE}/tasks", task(url)).status == 200
        assert called.wait(20)

        # The disk has room again, and the emulator ends before it retries the writing.
        async def end_with_room() -> None:
            await running.emulator.settle()
            monkeypatch.undo()
            for timer in running.emulator._scheduler._timers.values():
                timer.cancel()

        running.call(end_with_room())
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
    database.close()

"""The emulator refuses to move its clock to a time that it cannot store or show."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.storage import Storage

from tests.integration.http_calls import ask, post
from tests.integration.refusals import QUEUE

TEN_YEARS = 10 * 365 * 86_400


@pytest.mark.parametrize(
    ("year", "stored"),
    [
        pytest.param(2255, True, id="64 bits of nanoseconds, in a state file"),
        pytest.param(9990, False, id="the years of a timestamp"),
    ],
)
def test_the_clock_stops_before_times_that_cannot_be_stored_or_shown(
    tmp_path: Path, year: int, stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * SECOND
    storage = Storage(tmp_path / "state") if stored else None
    with BackgroundEmulator(
        lambda: Emulator(clock=ManualClock(start), queues=[QUEUE], storage=storage)
    ) as running:
        assert post(running.address, f"/v2/{QUEUE}:pause").status == 200
        moved = [
            post(running.address, "/emulator/clock", {"advance": TEN_YEARS}).status
            for _ in range(3)
        ]
        task = {"task": {"httpRequest": {"url": "http://127.0.0.1:1/"}}}
        assert post(running.address, f"/v2/{QUEUE}/tasks", task).status == 200
        assert ask(running.address, "GET", f"/v2/{QUEUE}/tasks").status == 200
        assert ask(running.address, "GET", "/emulator/state").status == 200
    assert set(moved) <= {200, 400}
    assert [record for record in caplog.records if record.name != "asyncio"] == []

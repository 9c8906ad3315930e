"""A clock is not moved to where times cannot be stored, or told, any more."""

import http.client
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.limits import SECOND
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.storage import Storage

from tests.integration.refusals import QUEUE

TEN_YEARS = 10 * 365 * 86_400


def ask(running: BackgroundEmulator, method: str, path: str, document: object = None) -> int:
    connection = http.client.HTTPConnection(running.address, timeout=20)
    try:
        connection.request(method, path, json.dumps(document) if document else None)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("year", "stored"),
    [
        pytest.param(2255, True, id="64 bits of nanoseconds, in a state file"),
        pytest.param(9990, False, id="the years of a timestamp"),
    ],
)
def test_the_clock_stops_where_tasks_could_not_be_kept_or_told(
    tmp_path: Path, year: int, stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * SECOND
    storage = Storage(tmp_path / "state") if stored else None
    with BackgroundEmulator(
        lambda: Emulator(clock=ManualClock(start), queues=[QUEUE], storage=storage)
    ) as running:
        assert ask(running, "POST", f"/v2/{QUEUE}:pause") == 200
        moved = [ask(running, "POST", "/emulator/clock", {"advance": TEN_YEARS}) for _ in range(3)]
        task = {"task": {"httpRequest": {"url": "http://127.0.0.1:1/"}}}
        assert ask(running, "POST", f"/v2/{QUEUE}/tasks", task) == 200
        assert ask(running, "GET", f"/v2/{QUEUE}/tasks") == 200
        assert ask(running, "GET", "/emulator/state") == 200
    assert set(moved) <= {200, 400}
    assert [record for record in caplog.records if record.name != "asyncio"] == []

"""With a damaged state file, the emulator prints one error and exits with the code 2."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.core.errors import ConfigurationError
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget
from django_tasks_cloud_tasks.emulator.storage import Storage

from tests.integration.emulator_program import LOOPBACK, MODULE
from tests.integration.refusals import QUEUE, START


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state file with a queue and two tasks. No emulator has it open."""
    storage = Storage(tmp_path / "state")
    service = Emulator(clock=ManualClock(START), storage=storage, queues=[QUEUE]).service
    for task_id in ("a", "b"):
        target = HttpTarget(url="http://127.0.0.1:1/")
        service.create_task(
            QUEUE, task_id, target, schedule_time=None, deadline=600 * SECOND, now=START
        )
    storage.close()
    return tmp_path / "state"


def start_on(state: Path) -> None:
    """Start an emulator. It must report the damage and exit before it listens."""
    done = subprocess.run(
        [*MODULE, *LOOPBACK, "--port", "0", "--state", str(state)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"The state file {state} cannot be ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("table", ["queues", "deleted_queues", "tasks", "tombstones"])
def test_a_state_file_with_an_overwritten_page_is_refused(state: Path, table: str) -> None:
    database = sqlite3.connect(state)
    query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
    (page,) = database.execute(query, [table]).fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with state.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xee" * size)
    start_on(state)


@pytest.mark.parametrize(
    "damage",
    [
        "schedule_time = 'soon'",
        "create_time = 'once'",
        "name = x'ff'",
        "stored = 'text'",
        "stored = x'00'",
        "first_dispatch = 'then', last_status = 'fine'",
    ],
)
def test_a_state_file_with_a_value_of_the_wrong_type_is_refused(state: Path, damage: str) -> None:
    database = sqlite3.connect(state)
    with database:
        database.execute(f"UPDATE tasks SET {damage} WHERE name LIKE '%/a'")  # noqa: S608 - a constant of this module
    database.close()
    start_on(state)


def test_a_state_file_is_free_again_after_an_emulator_that_could_not_read_it(state: Path) -> None:
    with closing(sqlite3.connect(state)) as database, database:
        database.execute("UPDATE tasks SET create_time = 'noon'")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Emulator(storage=Storage(state))
    Storage(state).close()

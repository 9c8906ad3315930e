"""What the functions of the tasks did, and which ends were told, written outside the database.

A process adds each line in one write at the end of a file, which is there although the process is
killed, the database crashes or a transaction is undone.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from django.db import transaction
from django.tasks import TaskResult
from django_tasks_cloud_tasks import CloudTaskContext, Snooze

BEGAN, RETURNED, COMMITTED, RAISED = "began", "returned", "committed", "raised:"  # and the path
FINISHED = "finished:"  # and the status that the signal told
SNOOZED = f"{RAISED}{Snooze.__module__}.{Snooze.__qualname__}"


@attrs.define
class Run:
    """One call of the function of a task.

    Attributes:
        number: of the attempt, as the function was told.
        at: when it told of each event, in seconds since the epoch.
    """

    number: int
    at: dict[str, float] = attrs.field(factory=dict)

    @property
    def began(self) -> float:
        return self.at[BEGAN]

    @property
    def last(self) -> float:
        """When it told of the latest event."""
        return max(self.at.values())


@attrs.define
class Told:
    """What was told of one task.

    Attributes:
        runs: in the order in which they began.
        ends: status and number of attempts of each `task_finished`.
    """

    runs: list[Run] = attrs.field(factory=list)
    ends: list[tuple[str, int]] = attrs.field(factory=list)

    def attempt(self, number: int) -> list[Run]:
        """The runs of that attempt."""
        return [run for run in self.runs if run.number == number]


@contextmanager
def told(context: CloudTaskContext) -> Iterator[str]:
    """Tell of the run that is made inside: that it begins, and that it returns or raises.

    Inside a transaction it tells of the commit as well.
    """
    run = uuid.uuid4().hex
    _tell(context.task_result, run, BEGAN)
    if transaction.get_connection().in_atomic_block:
        tell_of_commit(context, run)
    try:
        yield run
    except BaseException as error:
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        _tell(context.task_result, run, f"{RAISED}{path}")
        raise
    _tell(context.task_result, run, RETURNED)


def tell_of_commit(context: CloudTaskContext, run: str) -> None:
    """Tell when the transaction of this thread is committed."""
    transaction.on_commit(lambda: _tell(context.task_result, run, COMMITTED))


def tell_of_end(sender: object, task_result: TaskResult[..., object], **_: object) -> None:
    """Receives `task_finished`."""
    _tell(task_result, "-", f"{FINISHED}{task_result.status}")


def snoozes_of(context: CloudTaskContext) -> int:
    """How many runs of this task have snoozed so far: its record does not tell."""
    return sum(SNOOZED in run.at for run in read(_path())[context.task_result.id].runs)


def _path() -> Path:
    return Path(os.environ["STORM_JOURNAL"])


def _tell(result: TaskResult[..., object], run: str, event: str) -> None:
    line = f"{result.id} {result.attempts} {run} {event} {time.time()}\n".encode()
    journal = os.open(_path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        assert os.write(journal, line) == len(line)
    finally:
        os.close(journal)


def read(path: Path) -> dict[str, Told]:
    """All that was told, by the id of the task."""
    journal: dict[str, Told] = defaultdict(Told)
    runs: dict[str, Run] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        task_id, number, run, event, moment = line.split()
        if event.startswith(FINISHED):
            journal[task_id].ends.append((event.removeprefix(FINISHED), int(number)))
            continue
        if event == BEGAN:
            runs[run] = Run(int(number))
            journal[task_id].runs.append(runs[run])
        runs[run].at[event] = float(moment)
    return journal

"""A journal of the calls of the functions and of `task_finished`, in a file outside the database.

A process appends each line with one write. So the line stays in the file if the process is killed,
the database crashes, or a transaction is rolled back.
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

# The class path of the error follows RAISED, and the status in the signal follows FINISHED.
BEGAN, RETURNED, COMMITTED, RAISED = "began", "returned", "committed", "raised:"
FINISHED = "finished:"
SNOOZED = f"{RAISED}{Snooze.__module__}.{Snooze.__qualname__}"


@attrs.define
class Run:
    """One call of the function of a task.

    Attributes:
        number: the number of the attempt, from the context of the call.
        at: the times of its events, in seconds since the epoch.
    """

    number: int
    at: dict[str, float] = attrs.field(factory=dict)

    @property
    def began(self) -> float:
        return self.at[BEGAN]

    @property
    def last(self) -> float:
        """The time of the latest event."""
        return max(self.at.values())


@attrs.define
class Told:
    """The events of one task.

    Attributes:
        runs: the calls of the function, in the order in which they began.
        ends: the status and the number of attempts of each `task_finished`.
    """

    runs: list[Run] = attrs.field(factory=list)
    ends: list[tuple[str, int]] = attrs.field(factory=list)

    def attempt(self, number: int) -> list[Run]:
        """Return the runs of an attempt."""
        return [run for run in self.runs if run.number == number]


@contextmanager
def told(context: CloudTaskContext) -> Iterator[str]:
    """Record in the journal that a run begins, and that it returns or raises.

    In a transaction, the commit is recorded too.
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
    """Record the commit of the transaction of this thread, when it happens."""
    transaction.on_commit(lambda: _tell(context.task_result, run, COMMITTED))


def tell_of_end(sender: object, task_result: TaskResult[..., object], **_: object) -> None:
    """Record an end. A receiver of `task_finished`."""
    _tell(task_result, "-", f"{FINISHED}{task_result.status}")


def snoozes_of(context: CloudTaskContext) -> int:
    """Return how many runs of this task have raised `Snooze`. Its record does not contain them."""
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
    """Read the journal. The result is by task id."""
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

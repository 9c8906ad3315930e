"""What the functions of the tasks did, told outside the database.

A process adds each line in one write at the end of a file, which is there although the process is
killed, the database crashes or a transaction is undone.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import transaction
from django_tasks_cloud_tasks import CloudTaskContext

BEGAN, RETURNED, COMMITTED, RAISED = "began", "returned", "committed", "raised:"  # and the path

type Attempts = dict[int, dict[str, list[float]]]
"""By the number of the attempt, and the event: when it was told, in seconds since the epoch."""


@contextmanager
def told(context: CloudTaskContext) -> Iterator[None]:
    """Tell of the attempt that is made inside: that it begins, and that it returns or raises.

    Inside a transaction it tells of the commit as well.
    """
    _tell(context, BEGAN)
    if transaction.get_connection().in_atomic_block:
        transaction.on_commit(lambda: _tell(context, COMMITTED))
    try:
        yield
    except BaseException as error:
        _tell(context, f"{RAISED}{type(error).__module__}.{type(error).__qualname__}")
        raise
    _tell(context, RETURNED)


def _tell(context: CloudTaskContext, event: str) -> None:
    line = f"{context.task_result.id} {context.attempt} {event} {time.time()}\n".encode()
    journal = os.open(os.environ["STORM_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        assert os.write(journal, line) == len(line)
    finally:
        os.close(journal)


def read(path: Path) -> dict[str, Attempts]:
    """All that was told, by the id of the task."""
    journal: dict[str, Attempts] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in path.read_text().splitlines() if path.exists() else ():
        task_id, number, event, moment = line.split()
        journal[task_id][int(number)][event].append(float(moment))
    return journal

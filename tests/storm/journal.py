"""A journal of the attempts, in a file outside the database.

A process appends each line with one write. So the line stays in the file if the process is killed,
the database crashes, or a transaction is rolled back.
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
"""By the number of the attempt and the event: its times, in seconds since the epoch."""


@contextmanager
def told(context: CloudTaskContext) -> Iterator[None]:
    """Record in the journal that an attempt begins, and that it returns or raises.

    In a transaction, the commit is recorded too.
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
    """Read the journal. The result is by task id."""
    journal: dict[str, Attempts] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in path.read_text().splitlines() if path.exists() else ():
        task_id, number, event, moment = line.split()
        journal[task_id][int(number)][event].append(float(moment))
    return journal

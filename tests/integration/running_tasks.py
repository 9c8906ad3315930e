"""Tasks that run in their own thread, in real time, until the test ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

from django.db import connections

from tests.integration.recording import Site
from tests.recorded_tasks import DURING

PATIENCE = 30  # seconds that a test waits for anything


def soon(condition: Callable[[], object]) -> None:
    """Poll until the condition is true. A database does not report changes of a row."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came"


class Running:
    """A task that runs in its own thread until `end` is called."""

    def __init__(self, site: Site, pool: ThreadPoolExecutor, task: Any) -> None:
        self.site = site
        self.began, self.let_go = threading.Event(), threading.Event()
        DURING["a"] = self._during
        self.result = task.enqueue("a")
        self.answer: Future[tuple[int, dict[str, Any]]] = pool.submit(self._deliver)
        assert self.began.wait(PATIENCE)

    def _deliver(self) -> tuple[int, dict[str, Any]]:
        try:
            return self.site.deliver()
        finally:
            self.site.store.release()

    def _during(self, *_: object) -> str:
        self.began.set()
        assert self.let_go.wait(PATIENCE)
        return "first"

    def end(self) -> tuple[int, dict[str, Any]]:
        """End the task. Return the status and the document of the response to its delivery."""
        self.let_go.set()
        return self.answer.result(PATIENCE)


def lease_of(site: Site, running: Running) -> datetime | None:
    """Return the time at which the lease of the running task expires."""
    return site.record(running.result.id).claim.expires_at


def clients(database: str) -> int:
    """Return the number of connections to PostgreSQL, without the connection of this thread."""
    with connections[database].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()"
        )
        (count,) = cursor.fetchone()
    return int(count)

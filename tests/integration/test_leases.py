"""Leases between real threads and real connections, on every database, in real time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from django.db import OperationalError, connections
from django_tasks_cloud_tasks import CancelOutcome, CloudTaskContext, cancel
from django_tasks_cloud_tasks.core.records import TaskRecord
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime

from tests import recorded_tasks
from tests.integration.recording import Site, recording
from tests.models import Mark
from tests.recorded_tasks import DURING

PATIENCE = 30


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    """With the real time, and leases of a second."""
    DURING.clear()
    with recording(database=database, LEASE=1) as made:
        get_runtime().clock = lambda: datetime.now(UTC)
        yield made
    DURING.clear()
    Mark.objects.using(database).all().delete()


@pytest.fixture
def pool(site: Site) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def soon(condition: Callable[[], object]) -> None:
    """Look until it is so; nothing tells of a row but the row."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came"


class Running:
    """A task that runs in a thread of its own until it is let go."""

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
        self.let_go.set()
        return self.answer.result(PATIENCE)


def lease_of(site: Site, running: Running) -> datetime | None:
    return site.record(running.result.id).lease_expires_at


def test_a_lease_is_renewed_while_the_task_runs(site: Site, pool: ThreadPoolExecutor) -> None:
    running = Running(site, pool, recorded_tasks.does)
    # Four renewals: well beyond the first one's end.
    for _ in range(4):
        before = lease_of(site, running)
        soon(lambda before=before: lease_of(site, running) != before)  # type: ignore[misc]  # of this round
    assert site.deliver()[0] == 409
    assert running.end() == (200, {"status": "success", "task_id": running.result.id})
    record = site.record(running.result.id)
    assert (record.return_value, len(record.worker_ids)) == ("first", 1)
    assert record.lease_expires_at is None


def test_two_that_deliver_at_once_run_it_once(site: Site, pool: ThreadPoolExecutor) -> None:
    ran: list[None] = []
    both = threading.Barrier(4)
    DURING["a"] = lambda: ran.append(None)

    def deliver(key: str) -> int:
        try:
            both.wait(PATIENCE)
            return site.deliver(key)[0]
        finally:
            site.store.release()

    for _ in range(10):
        key = recorded_tasks.does.enqueue("a").id
        answers = list(pool.map(deliver, [key] * 4))
        assert set(answers) <= {200, 409}
        assert 200 in answers
    assert len(ran) == 10


def take_over(site: Site, running: Running) -> None:
    """What another runner does once the lease has run out, forced."""
    seen = site.record(running.result.id)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert site.store.replace(seen, attrs.evolve(seen, token="another's", lease_expires_at=later))


# On SQLite the task's transaction keeps everybody from writing: nobody can take over.
@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
def test_an_atomic_task_that_lost_its_lease_is_undone(
    site: Site, pool: ThreadPoolExecutor, database: str
) -> None:
    Mark.objects.using(database).all().delete()
    running = Running(site, pool, recorded_tasks.marks_there)
    take_over(site, running)
    assert running.end()[0] == 409
    assert Mark.objects.using(database).count() == 0
    assert site.record(running.result.id).token == "another's"


def test_who_claims_waits_for_the_commit_of_an_atomic_task(
    site: Site, pool: ThreadPoolExecutor, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the mark of success and its commit: the claim waits, and finds the task ended."""
    Mark.objects.using(database).all().delete()
    marked, commit = threading.Event(), threading.Event()
    replace = site.store.replace

    def replace_and_pause(seen: TaskRecord, then: TaskRecord) -> bool:
        replaced = replace(seen, then)
        if then.final:
            marked.set()
            assert commit.wait(PATIENCE)
        return replaced

    monkeypatch.setattr(site.store, "replace", replace_and_pause)
    running = Running(site, pool, recorded_tasks.marks_there)
    seen = site.record(running.result.id)
    running.let_go.set()
    assert marked.wait(PATIENCE)

    def claim() -> bool:
        try:
            return replace(seen, attrs.evolve(seen, token="another's"))
        finally:
            site.store.release()

    claiming = pool.submit(claim)
    with pytest.raises(TimeoutError):
        claiming.result(0.3)  # it cannot know yet
    commit.set()
    assert claiming.result(PATIENCE) is False
    assert running.end()[0] == 200
    assert Mark.objects.using(database).count() == 1


def test_a_coroutine_learns_that_it_is_cancelled(site: Site, pool: ThreadPoolExecutor) -> None:
    site.path = "/async/cloudtasks/execute/"
    began = threading.Event()

    async def during(context: CloudTaskContext) -> str:
        began.set()
        async with asyncio.timeout(PATIENCE):
            while not context.cancelled:  # noqa: ASYNC110 - as tasks do: nothing wakes them
                await asyncio.sleep(0.01)
        return "stopped"

    DURING["a"] = during
    result = recorded_tasks.knows_async.enqueue("a")

    def deliver() -> int:
        try:
            return site.deliver()[0]
        finally:
            site.store.release()

    answer = pool.submit(deliver)
    assert began.wait(PATIENCE)
    assert cancel(result) is CancelOutcome.REQUESTED
    assert answer.result(PATIENCE) == 200
    assert site.record(result.id).return_value == "stopped"


def test_the_heartbeat_holds_one_connection_while_it_beats(
    site: Site, pool: ThreadPoolExecutor, database: str
) -> None:
    running = Running(site, pool, recorded_tasks.does)
    before = lease_of(site, running)
    soon(lambda: lease_of(site, running) != before)
    if connections[database].vendor == "postgresql":
        assert clients(database) <= 2, "the heartbeat's, and that of the thread that runs the task"
    running.end()
    if connections[database].vendor == "postgresql":
        soon(lambda: clients(database) == 0)


def clients(database: str) -> int:
    """How many connections there are besides this thread's own."""
    with connections[database].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()"
        )
        (count,) = cursor.fetchone()
    return int(count)


def test_a_broken_connection_does_not_cost_a_task_its_success(
    site: Site, pool: ThreadPoolExecutor, database: str
) -> None:
    """Idle time-outs, poolers, fail-overs: the connection of the claim is gone at the end."""
    broken: list[None] = []

    def during() -> str:
        connection = connections[database]
        ends = {
            "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
            "mysql": "KILL CONNECTION_ID()",
        }
        if connection.vendor in ends:
            with pytest.raises(OperationalError), connection.cursor() as cursor:
                cursor.execute(ends[connection.vendor])
        else:
            connection.connection.interrupt()
        broken.append(None)
        return "done"

    DURING["a"] = during
    result = recorded_tasks.does.enqueue("a")
    assert site.deliver()[0] == 200
    assert broken == [None]
    record = site.record(result.id)
    assert (record.return_value, len(record.worker_ids)) == ("done", 1)


# SQLite has no locks of rows.
@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
def test_a_locked_record_does_not_hold_up_the_renewal_of_others(
    site: Site, pool: ThreadPoolExecutor, database: str
) -> None:
    running = Running(site, pool, recorded_tasks.does)
    locked = attrs.evolve(
        site.record(running.result.id), task_id="locked", token="t", worker_ids=()
    )
    site.store.add(locked)
    renewed: list[bool] = []
    with site.store.atomic():
        # Somebody cancels it in a transaction that takes its time.
        assert site.store.replace(locked, attrs.evolve(locked, cancel_requested=True))

        def renew() -> None:
            try:
                later = attrs.evolve(locked, lease_expires_at=datetime.now(UTC))
                renewed.append(site.store.renew(locked, later))
            finally:
                site.store.release()

        with get_runtime().heartbeat.every(0.05, renew):
            before = lease_of(site, running)
            soon(lambda: renewed and lease_of(site, running) != before)
    assert set(renewed) == {True}, "it is not lost, only left alone for now"
    assert running.end()[0] == 200

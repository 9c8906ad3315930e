"""Leases with real threads and real connections, on every database, in real time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from django.db import OperationalError, connections
from django_tasks_cloud_tasks import CancelOutcome, CloudTaskContext, cancel
from django_tasks_cloud_tasks.core.records import TaskRecord
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime

from tests import recorded_tasks
from tests.integration.recording import Site, recording
from tests.integration.running_tasks import PATIENCE, Running, clients, lease_of, soon
from tests.models import Mark
from tests.recorded_tasks import DURING
from tests.records import changed


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    """A site with the real clock and leases of one second."""
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


def test_a_lease_is_renewed_while_the_task_runs(site: Site, pool: ThreadPoolExecutor) -> None:
    running = Running(site, pool, recorded_tasks.does)
    # Four renewals last longer than the first lease.
    for _ in range(4):
        before = lease_of(site, running)
        soon(lambda before=before: lease_of(site, running) != before)  # type: ignore[misc]  # the value of this round
    assert site.deliver()[0] == 409
    assert running.end() == (200, {"status": "success", "task_id": running.result.id})
    record = site.record(running.result.id)
    assert (record.return_value, len(record.worker_ids)) == ("first", 1)
    assert record.claim.expires_at is None


def test_simultaneous_deliveries_run_the_task_once(site: Site, pool: ThreadPoolExecutor) -> None:
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
    """Claim the task as another runner does after the lease has expired."""
    seen = site.record(running.result.id)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert site.store.replace(
        seen, changed(seen, claim__token="another's", claim__expires_at=later)
    )


# On SQLite no other runner can claim: the transaction of the task locks the database.
@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
def test_an_atomic_task_that_lost_its_lease_is_rolled_back(
    site: Site, pool: ThreadPoolExecutor, database: str
) -> None:
    Mark.objects.using(database).all().delete()
    running = Running(site, pool, recorded_tasks.marks_there)
    take_over(site, running)
    assert running.end()[0] == 409
    assert Mark.objects.using(database).count() == 0
    assert site.record(running.result.id).claim.token == "another's"


def test_a_claim_waits_for_the_commit_of_an_atomic_task(
    site: Site, pool: ThreadPoolExecutor, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim between the recorded success and its commit waits, and then finds the task ended."""
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
            return replace(seen, changed(seen, claim__token="another's"))
        finally:
            site.store.release()

    claiming = pool.submit(claim)
    with pytest.raises(TimeoutError):
        claiming.result(0.3)  # the claim waits for the commit
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
            while not context.cancelled:  # noqa: ASYNC110 - no event announces a cancellation
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


def test_a_task_succeeds_although_its_connection_breaks(
    site: Site, pool: ThreadPoolExecutor, database: str
) -> None:
    """Idle time-outs, poolers and fail-overs close the connection while the task runs."""
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


# SQLite cannot lock single rows.
@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
def test_a_locked_record_does_not_delay_the_renewal_of_others(
    site: Site, pool: ThreadPoolExecutor, database: str
) -> None:
    running = Running(site, pool, recorded_tasks.does)
    locked = changed(
        site.record(running.result.id), payload__task_id="locked", claim__token="t", attempts=()
    )
    site.store.add(locked)
    renewed: list[bool] = []
    with site.store.atomic():
        # A slow transaction cancels the other task.
        assert site.store.replace(locked, attrs.evolve(locked, cancel_requested=True))

        def renew() -> None:
            try:
                later = changed(locked, claim__expires_at=datetime.now(UTC))
                renewed.append(site.store.renew(locked, later))
            finally:
                site.store.release()

        with get_runtime().heartbeat.every(0.05, renew):
            before = lease_of(site, running)
            soon(lambda: renewed and lease_of(site, running) != before)
            # A renewal that comes after the commit below is refused.
            told = set(renewed)
    assert told == {True}, "it is not lost, only left alone for now"
    assert running.end()[0] == 200

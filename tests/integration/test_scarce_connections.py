"""Tasks with a database that is unavailable, locked, or has too few connections."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.db import OperationalError, connections
from django_tasks_cloud_tasks.core.records import State
from django_tasks_cloud_tasks.django_integration.models import StoredTask
from django_tasks_cloud_tasks.django_integration.operating.relay import relay_batch
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime
from django_tasks_cloud_tasks.django_integration.signing import sign
from pytest_django import DjangoDbBlocker

from tests import recorded_tasks
from tests.integration import databases
from tests.integration.deliveries import PATHS
from tests.integration.recording import Site, recording
from tests.integration.running_tasks import PATIENCE, Running, clients, lease_of, soon
from tests.models import Mark
from tests.recorded_tasks import DURING


@contextmanager
def site_on(database: str, **options: object) -> Iterator[Site]:
    """A site with the real clock."""
    DURING.clear()
    with recording(database=database, **options) as made:
        get_runtime().clock = lambda: datetime.now(UTC)
        yield made
    DURING.clear()
    Mark.objects.using(database).all().delete()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def go_away(database: str) -> Callable[[], None]:
    """End all connections and refuse new ones. Return a function that accepts them again."""
    folder = Path(connections[database].settings_dict["HOST"])
    socket = next(path for path in folder.glob(".s.PGSQL.*") if path.suffix != ".lock")
    with pytest.raises(OperationalError), connections[database].cursor() as cursor:
        socket.rename(folder / "away")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def come_back() -> None:
        (folder / "away").rename(socket)

    return come_back


@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
@pytest.mark.parametrize("task", [recorded_tasks.does, recorded_tasks.marks_there])
def test_a_task_succeeds_although_the_database_is_briefly_unavailable_at_its_end(
    database: str, threads: ThreadPoolExecutor, task: Any
) -> None:
    """The outage is longer than a few quick retries and shorter than the lease."""
    with site_on(database, LEASE=30) as site:
        result = task.enqueue("a")

        def during() -> str:
            if task is recorded_tasks.does:
                back = go_away(database)
                timer = threading.Timer(4, back)
                timer.start()
            return "done"

        DURING["a"] = during
        assert site.deliver()[0] == 200
        record = site.record(result.id)
        assert (record.state, record.return_value) == (State.SUCCESSFUL, "done")
        assert len(record.worker_ids) == 1


@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
@pytest.mark.parametrize("path", list(PATHS.values()))
@pytest.mark.parametrize("task", [recorded_tasks.does, recorded_tasks.does_async])
def test_a_task_whose_end_cannot_be_written_is_delivered_again(
    database: str, path: str, task: Any
) -> None:
    """The outage is longer than the lease."""
    with site_on(database, LEASE=1) as site:
        site.path = path
        result = task.enqueue("a")
        back: list[Callable[[], None]] = []

        def during() -> str:
            back.append(go_away(database))
            return "done"

        DURING["a"] = during
        try:
            status, document = site.deliver()
        finally:
            back[0]()
        assert status == 500
        assert (
            document["error"]
            == "The attempt is over, but its end could not be written to the database."
        )
        DURING["a"] = lambda: "again"
        soon(lambda: site.deliver(retry=1)[0] == 200)
        record = site.record(result.id)
        assert (record.state, record.return_value) == (State.SUCCESSFUL, "again")


# Connections.


async def deliver_over_asgi(site: Site, body: bytes) -> dict[str, Any]:
    """POST through the ASGI handler of Django in its own thread, as a server does."""
    answered: dict[str, Any] = {}
    sent = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not sent.is_set():
            sent.set()
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answered["status"] = message["status"]
        else:
            answered["document"] = json.loads(message["body"])

    headers = {
        "host": "testserver",
        "content-type": "application/json",
        "x-django-tasks-signature": sign(body),
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/async/cloudtasks/execute/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    await ASGIHandler()(scope, receive, send)  # type: ignore[arg-type]  # the stubs: typed scopes
    return answered


@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
def test_waiting_coroutine_tasks_hold_no_connection(database: str) -> None:
    with site_on(database) as site:
        for number in range(60):
            recorded_tasks.knows_async.enqueue(str(number))
        bodies = [request.body for request in site.queue.requests]

        async def deliver_all() -> list[dict[str, Any]]:
            let_go, began = asyncio.Event(), asyncio.Semaphore(0)

            async def during(_: object) -> str:
                began.release()
                await let_go.wait()
                return "done"

            DURING.update({str(number): during for number in range(60)})
            deliveries = [asyncio.create_task(deliver_over_asgi(site, body)) for body in bodies]
            for _ in range(60):
                await asyncio.wait_for(began.acquire(), PATIENCE)
            await asyncio.to_thread(soon, lambda: clients_now() <= 1)
            let_go.set()
            return await asyncio.gather(*deliveries)

        def clients_now() -> int:
            try:
                return clients(database)
            finally:
                connections[database].close()

        answers = asyncio.run(deliver_all())
        assert [answer["status"] for answer in answers] == [200] * 60


@pytest.fixture
def pooled(postgres_cluster: str, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of the PostgreSQL cluster, with a pool of two connections."""
    entry = dict(connections.settings[postgres_cluster])
    entry["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 2, "timeout": 20}}
    with django_db_blocker.unblock(), databases.reachable("pooled", entry):
        try:
            yield "pooled"
        finally:
            StoredTask.objects.using("pooled").all().delete()
            connections["pooled"].close()
            connections["pooled"].close_pool()  # type: ignore[attr-defined]  # PostgreSQL's


def test_each_task_runs_once_although_the_pool_has_fewer_connections_than_tasks(
    pooled: str, threads: ThreadPoolExecutor
) -> None:
    """Leases are renewed outside of the pool, and running tasks hold no connection of it."""
    with site_on(pooled, LEASE=1) as site:
        all_run, ran = threading.Barrier(8), []

        def during() -> str:
            ran.append(threading.get_ident())
            all_run.wait(PATIENCE)
            until = time.monotonic() + 2
            # This is longer than the lease, so only renewals prevent a second run.
            while time.monotonic() < until:
                relay_batch({})
            return "done"

        names = [str(number) for number in range(8)]
        DURING.update(dict.fromkeys(names, during))
        ids = [recorded_tasks.does.enqueue(name).id for name in names]

        def deliver(task_id: str) -> int:
            try:
                return site.deliver(task_id)[0]
            finally:
                connections[pooled].close()

        connections[pooled].close()
        assert list(threads.map(deliver, ids)) == [200] * 8
        assert len(ran) == 8
        assert {len(site.record(task_id).worker_ids) for task_id in ids} == {1}


# SQLite.


@pytest.mark.parametrize("database", ["sqlite_file"], indirect=True)
@pytest.mark.parametrize("fails", [False, True])
def test_a_lease_survives_an_atomic_task_that_prevents_its_renewal(
    database: str, threads: ThreadPoolExecutor, fails: bool
) -> None:
    with site_on(database, LEASE=1) as site:
        plain = Running(site, threads, recorded_tasks.does)
        entered, let_go = threading.Event(), threading.Event()

        def during() -> str:
            entered.set()
            assert let_go.wait(PATIENCE)
            if fails:
                raise ValueError("no")
            return "done"

        DURING["b"] = during
        atomic_id = recorded_tasks.marks_there.enqueue("b").id

        def deliver() -> int:
            try:
                return site.deliver(atomic_id)[0]
            finally:
                site.store.release()

        # After a renewal the atomic task blocks all writing for longer than the lease.
        before = lease_of(site, plain)
        soon(lambda: lease_of(site, plain) != before)
        answer = threads.submit(deliver)
        assert entered.wait(PATIENCE)
        expires = lease_of(site, plain)
        assert expires is not None
        soon(lambda: datetime.now(UTC) > expires)
        let_go.set()
        # The first delivery after that finds the lease still held.
        assert site.deliver(plain.result.id)[0] == 409
        assert answer.result(PATIENCE) == (500 if fails else 200)
        assert plain.end()[0] == 200
        assert len(site.record(plain.result.id).worker_ids) == 1

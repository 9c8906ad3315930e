"""The cost of a result store when a task is enqueued and executed: statements and time."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from . import library
from .measure import Row, alternate

_ROUNDS, _CALLS = 15, 60
_ALIAS = "results"


def results() -> Iterator[object]:
    """Measure each database, and compare it with a backend without a store."""
    from tests import postgres
    from tests.integration import databases

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        entries = {"SQLite": databases.sqlite(Path(folder))}
        if postgres.programs():
            entries["PostgreSQL"] = stack.enter_context(postgres.cluster())
        else:
            yield "  (PostgreSQL is not measured: its server programs are not installed)"
        address = stack.enter_context(library.emulator())
        for name, entry in entries.items():
            with _tasks(entry, address):
                yield from _enqueue(name)
                yield from _execution(name)


@contextmanager
def _tasks(entry: dict[str, object], address: str) -> Iterator[None]:
    """A context with two backends, one with a result store and one without."""
    from django.test import override_settings

    from tests.integration.databases import reachable

    entry = {"CONN_MAX_AGE": None, **entry}  # connections are kept, as in production
    backend = "django_tasks_cloud_tasks.CloudTasksBackend"
    options = {k: v for k, v in library.OPTIONS.items() if k != "OIDC_SERVICE_ACCOUNT_EMAIL"}
    options |= {"EMULATOR_HOST": address}
    stored = options | {"RESULTS": "database", "RESULTS_DATABASE": _ALIAS}
    tasks = {
        "default": {"BACKEND": backend, "OPTIONS": options},
        "stored": {"BACKEND": backend, "OPTIONS": stored},
    }
    # With DEBUG, Django records every statement. Production does not.
    middleware = library.STARTPROJECT_MIDDLEWARE
    with (
        reachable(_ALIAS, entry),
        override_settings(TASKS=tasks, MIDDLEWARE=middleware, DEBUG=False),
    ):
        yield


def _statements(call: Callable[[], object]) -> list[str]:
    """Return the first word of each statement that `call` executes, without BEGIN and COMMIT."""
    from django.db import connections
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connections[_ALIAS]) as queries:
        call()
    words = [query["sql"].split()[0] for query in queries]
    return [word for word in words if word not in {"BEGIN", "COMMIT"}]


def _count(what: str, statements: list[str], aim: int) -> str:
    told = ", ".join(statements) or "none"
    verdict = "reached" if len(statements) <= aim else "MISSED"
    return f"  {what:<46} {told}  aim {aim} at most  {verdict}"


def _enqueue(name: str) -> Iterator[object]:
    from .site_tasks import nothing

    stored = nothing.using(backend="stored")
    ways = {
        "stored": lambda: stored.enqueue(**library.ARGUMENTS),
        "plain": lambda: nothing.enqueue(**library.ARGUMENTS),
    }
    yield _count("statements of an enqueue, no store", _statements(ways["plain"]), 0)
    yield _count(f"statements of an enqueue, {name}", _statements(ways["stored"]), 2)
    times = alternate(
        ways,
        rounds=_ROUNDS,
        calls=_CALLS,
    )
    yield _added(f"enqueue, {name}", times)


def _execution(name: str) -> Iterator[object]:
    from django.tasks import task_backends
    from django.test import Client
    from django_tasks_cloud_tasks.core.lifecycle import enqueued
    from django_tasks_cloud_tasks.core.payload import TaskPayload
    from django_tasks_cloud_tasks.django_integration.signing import sign

    store = task_backends["stored"].configuration.results
    client = Client()

    def bodies(backend: str, count: int) -> Iterator[tuple[bytes, str]]:
        for number in range(count):
            payload = TaskPayload(
                task_id=f"{name}{number:025x}",
                task_path="bench.site_tasks.nothing",
                args=[],
                kwargs=library.ARGUMENTS,
                backend=backend,
                recorded=backend == "stored",
            )
            if payload.recorded:
                store.add(
                    enqueued(
                        payload,
                        args=[],
                        kwargs=library.ARGUMENTS,
                        run_after=None,
                        now=datetime.now(UTC),
                        timeout=10,
                    )
                )
            body = payload.encode()
            yield body, sign(body)

    def deliver(ready: Iterator[tuple[bytes, str]]) -> None:
        body, signature = next(ready)
        headers = {**library.DELIVERY, "HTTP_X_DJANGO_TASKS_SIGNATURE": signature}
        response = client.post(
            "/cloudtasks/execute/", body, content_type="application/json", **headers
        )
        assert response.status_code == 200, response.content

    count = (_ROUNDS + 1) * _CALLS + 1
    stored = iter(list(bodies("stored", count)))
    plain = iter(list(bodies("default", count)))
    yield _count("statements of an execution, no store", _statements(lambda: deliver(plain)), 0)
    yield _count(f"statements of an execution, {name}", _statements(lambda: deliver(stored)), 3)
    times = alternate(
        {"stored": lambda: deliver(stored), "plain": lambda: deliver(plain)},
        rounds=_ROUNDS,
        calls=_CALLS,
    )
    yield _added(f"execution, test client, {name}", times)


def _added(what: str, times: dict[str, float]) -> Row:
    added = (times["stored"] - times["plain"]) * 1e6
    what = f"{what} (+{added:.0f} us)"
    return Row(what, times["stored"] * 1e6, "no store", times["stored"] / times["plain"], None)

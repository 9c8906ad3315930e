"""A task can leave state on its thread. It affects neither the result nor the next request."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.tasks.base import TaskResultStatus
from django.urls import get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import timezone, translation
from django_tasks_cloud_tasks.core.records import State

from tests import recorded_tasks
from tests.integration.deliveries import PATHS
from tests.integration.recording import Site, recording
from tests.models import Mark
from tests.recorded_tasks import DURING


@pytest.fixture(params=list(PATHS.values()), ids=["wsgi", "asgi"])
def site(request: pytest.FixtureRequest, database: str) -> Iterator[Site]:
    DURING.clear()
    with recording(database=database) as made:
        made.path = request.param
        yield made
    DURING.clear()
    Mark.objects.using(database).all().delete()


def seen_by_others(database: str, look: Callable[[], object]) -> object:
    """Return the data that another connection sees, which is only committed data."""

    def there() -> object:
        try:
            return look()
        finally:
            connections[database].close()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(there).result(30)


def turn_autocommit_off(database: str) -> None:
    transaction.set_autocommit(False, using=database)


def begin_by_hand(database: str) -> None:
    with connections[database].cursor() as cursor:
        cursor.execute("BEGIN")


def never_leave_a_block(database: str) -> None:
    transaction.atomic(using=database).__enter__()


def never_leave_two_blocks(database: str) -> None:
    never_leave_a_block(database)
    never_leave_a_block(database)


OPEN = [turn_autocommit_off, begin_by_hand, never_leave_a_block, never_leave_two_blocks]


@pytest.mark.parametrize("task", [recorded_tasks.does, recorded_tasks.does_async])
@pytest.mark.parametrize("leave_open", OPEN)
def test_a_transaction_that_a_successful_task_left_open_is_committed(
    site: Site, database: str, leave_open: Callable[[str], None], task: Any
) -> None:
    def during() -> str:
        leave_open(database)
        Mark.objects.using(database).create(name="a")
        return "done"

    DURING["a"] = during
    result = task.enqueue("a")
    assert site.deliver() == (200, {"status": "success", "task_id": result.id})
    record: Any = seen_by_others(database, lambda: site.store.get(result.id))
    assert (record.state, record.return_value) == (State.SUCCESSFUL, "done")
    assert seen_by_others(database, Mark.objects.using(database).count) == 1
    connection = connections[database]
    assert (connection.in_atomic_block, connection.get_autocommit()) == (False, True)
    assert site.deliver()[1]["status"] == "duplicate"


@pytest.mark.parametrize("task", [recorded_tasks.does, recorded_tasks.does_async])
@pytest.mark.parametrize("leave_open", OPEN)
def test_a_transaction_that_a_failed_task_left_open_is_rolled_back(
    site: Site, database: str, leave_open: Callable[[str], None], task: Any
) -> None:
    def during() -> str:
        leave_open(database)
        Mark.objects.using(database).create(name="a")
        raise ValueError("no")

    DURING["a"] = during
    result = task.enqueue("a")
    assert site.deliver()[0] == 500
    record: Any = seen_by_others(database, lambda: site.store.get(result.id))
    assert (record.state, len(record.errors)) == (State.READY, 1)
    assert seen_by_others(database, Mark.objects.using(database).count) == 0
    DURING["a"] = lambda: "done"
    assert site.deliver(retry=1)[0] == 200


@pytest.mark.parametrize("leave_open", [never_leave_a_block, never_leave_two_blocks])
def test_an_atomic_task_that_leaves_a_block_open_is_committed_completely(
    site: Site, database: str, leave_open: Callable[[str], None]
) -> None:
    def during() -> str:
        leave_open(database)
        return "done"

    DURING["a"] = during
    result = recorded_tasks.marks_there.enqueue("a")
    assert site.deliver()[0] == 200
    record: Any = seen_by_others(database, lambda: site.store.get(result.id))
    assert record.state is State.SUCCESSFUL
    assert seen_by_others(database, Mark.objects.using(database).count) == 1


def test_a_broken_transaction_that_was_left_open_fails_the_attempt(
    site: Site, database: str
) -> None:
    """A task whose work cannot be committed must not succeed."""

    def during() -> str:
        transaction.atomic(using=database).__enter__()
        Mark.objects.using(database).create(name="a")
        transaction.set_rollback(True, using=database)
        return "done"

    DURING["a"] = during
    result = recorded_tasks.does.enqueue("a")
    status, document = site.deliver()
    assert (status, document["error"].partition(":")[0]) == (500, "UncommittedWorkError")
    assert len(site.record(result.id).errors) == 1
    assert seen_by_others(database, Mark.objects.using(database).count) == 0


@pytest.mark.parametrize("database", ["postgres_cluster"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        "SET default_transaction_read_only = on",
        "SET search_path = nowhere",
        "SET statement_timeout = 1",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ],
)
def test_a_task_succeeds_although_it_changed_the_settings_of_its_database_session(
    site: Site, database: str, statement: str
) -> None:
    def during() -> str:
        with connections[database].cursor() as cursor:
            cursor.execute(statement)
        return "done"

    DURING["a"] = during
    result = recorded_tasks.does.enqueue("a")
    assert site.deliver()[0] == 200
    record: Any = seen_by_others(database, lambda: site.store.get(result.id))
    assert record.state is State.SUCCESSFUL
    connections[database].close()


def test_a_task_succeeds_although_it_closed_or_blocked_its_connection(
    site: Site, database: str
) -> None:
    def close() -> str:
        connections[database].close()
        return "done"

    def refuse(*_: object) -> None:
        raise RuntimeError("no queries here")

    def wrap() -> str:
        connections[database].execute_wrappers.append(refuse)
        return "done"

    for during in (close, wrap):
        DURING["a"] = during
        result = recorded_tasks.does.enqueue("a")
        assert site.deliver(result.id)[0] == 200
        assert site.record(result.id).state is State.SUCCESSFUL


# The state of the thread.


def change_everything() -> str:
    translation.activate("de")
    timezone.activate("Pacific/Auckland")
    set_urlconf("somewhere.else")
    set_script_prefix("/elsewhere/")
    return "done"


def state_of_this_thread() -> tuple[object, ...]:
    return (
        translation.get_language(),
        timezone.get_current_timezone_name(),
        get_urlconf(),
        get_script_prefix(),
    )


async def change_everything_async(*_: object) -> str:
    await sync_to_async(change_everything)()
    return change_everything()


@pytest.mark.parametrize("path", list(PATHS.values()))
@pytest.mark.parametrize("how", ["function", "coroutine", "atomic"])
def test_the_next_request_does_not_see_what_a_task_activated(path: str, how: str) -> None:
    DURING.clear()
    with recording() as site:
        site.path = path
        DURING["a"] = change_everything if how == "function" else change_everything_async
        task: Any = recorded_tasks.does if how == "function" else recorded_tasks.knows_async
        before = state_of_this_thread()
        task.enqueue("a")
        assert site.deliver()[0] == 200
        assert state_of_this_thread() == before
    DURING.clear()


# Return values that are unfinished work.


async def later() -> str:
    await asyncio.sleep(0)
    return "done"


async def even_later() -> Any:
    return later()


@pytest.mark.parametrize("path", list(PATHS.values()))
@pytest.mark.parametrize("promise", [later, even_later])
def test_a_coroutine_that_a_function_returns_is_run(path: str, promise: Callable[[], Any]) -> None:
    with recording() as site:
        site.path = path
        DURING["a"] = promise
        result = recorded_tasks.does.enqueue("a")
        assert site.deliver()[0] == 200
        result.refresh()
        assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, "done")
    DURING.clear()


def generates() -> Iterator[int]:
    yield 1


async def generates_async() -> Any:
    yield 1


@pytest.mark.parametrize("path", list(PATHS.values()))
@pytest.mark.parametrize(
    "promise",
    [
        generates,
        generates_async,
        lambda: map(str, [1]),
        lambda: (number for number in [1]),
        lambda: [generates()],
        lambda: {"a": {"b": [later()]}},
        concurrent.futures.Future,
    ],
)
def test_a_task_that_returns_a_generator_or_future_does_not_succeed(
    path: str, promise: Callable[[], Any]
) -> None:
    with recording() as site:
        site.path = path
        DURING["a"] = promise
        result = recorded_tasks.does.enqueue("a")
        status, document = site.deliver()
        assert (status, document["status"]) == (500, "error")
        assert document["error"].startswith("UnfinishedWorkError: The task returned a value of")
        assert len(site.record(result.id).errors) == 1
    DURING.clear()

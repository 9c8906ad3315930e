"""What a task leaves on its thread does not matter: to its own end, or to whoever comes next."""

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
from tests.integration.recording import Site, recording
from tests.models import Mark
from tests.recorded_tasks import DURING

VIEWS = ["/cloudtasks/execute/", "/async/cloudtasks/execute/"]


@pytest.fixture(params=VIEWS, ids=["wsgi", "asgi"])
def site(request: pytest.FixtureRequest, database: str) -> Iterator[Site]:
    DURING.clear()
    with recording(database=database) as made:
        made.path = request.param
        yield made
    DURING.clear()
    Mark.objects.using(database).all().delete()


def seen_by_others(database: str, look: Callable[[], object]) -> object:
    """What another connection sees: only what is committed."""

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
def test_a_transaction_left_open_is_committed_with_the_success(
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
def test_a_transaction_left_open_by_a_failure_is_undone(
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
    assert (record.state, len(record.errors)) == (State.FAILED, 1)
    assert seen_by_others(database, Mark.objects.using(database).count) == 0
    DURING["a"] = lambda: "done"
    assert site.deliver(retry=1)[0] == 200


@pytest.mark.parametrize("leave_open", [never_leave_a_block, never_leave_two_blocks])
def test_an_atomic_task_that_leaves_a_block_open_is_committed_whole(
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


def test_a_broken_transaction_left_open_fails_the_attempt(site: Site, database: str) -> None:
    """What cannot be committed is not called done."""

    def during() -> str:
        transaction.atomic(using=database).__enter__()
        Mark.objects.using(database).create(name="a")
        transaction.set_rollback(True, using=database)
        return "done"

    DURING["a"] = during
    result = recorded_tasks.does.enqueue("a")
    status, document = site.deliver()
    assert (status, document["error"].partition(":")[0]) == (500, "UncommittedWorkError")
    assert site.record(result.id).state is State.FAILED
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
def test_settings_left_on_the_session_do_not_cost_a_success(
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


def test_a_closed_connection_or_one_that_refuses_does_not_cost_a_success(
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


# The thread's own state.


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


@pytest.mark.parametrize("path", VIEWS)
@pytest.mark.parametrize("how", ["function", "coroutine", "atomic"])
def test_what_a_task_activates_is_not_what_the_next_request_finds(path: str, how: str) -> None:
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


# What is not a value, but the promise of one.


async def later() -> str:
    await asyncio.sleep(0)
    return "done"


async def even_later() -> Any:
    return later()


@pytest.mark.parametrize("path", VIEWS)
@pytest.mark.parametrize("promise", [later, even_later])
def test_work_that_a_function_returns_unstarted_is_run(
    path: str, promise: Callable[[], Any]
) -> None:
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


@pytest.mark.parametrize("path", VIEWS)
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
def test_work_that_nothing_can_run_is_not_called_done(
    path: str, promise: Callable[[], Any]
) -> None:
    with recording() as site:
        site.path = path
        DURING["a"] = promise
        result = recorded_tasks.does.enqueue("a")
        status, document = site.deliver()
        assert (status, document["status"]) == (500, "error")
        assert document["error"].startswith("UnfinishedWorkError: The task returned a value of")
        assert site.record(result.id).state is State.FAILED
    DURING.clear()

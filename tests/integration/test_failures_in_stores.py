"""Tests of every `ResultStore` for final failures and replays."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import pytest
from django_tasks_cloud_tasks.adapters.memory import MemoryResultStore
from django_tasks_cloud_tasks.core.failures import FailedTask, FailureGroup, FailureSelection
from django_tasks_cloud_tasks.core.lifecycle import Replay, enqueued, replay
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.ports import ResultStore
from django_tasks_cloud_tasks.core.records import Attempt, AttemptError, State, TaskRecord
from django_tasks_cloud_tasks.django_integration.results.store import DatabaseResultStore
from pytest_django import DjangoDbBlocker

from tests.records import changed

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TINY = timedelta(microseconds=1)
ADD, SEND = "shop.tasks.add", "shop.tasks.send"
VALUE, KEY = "builtins.ValueError", "builtins.KeyError"
GROUP = FailureSelection(task_path=ADD, failure=VALUE)


@pytest.fixture(params=["memory", "sqlite_file", "postgres_cluster", "mariadb_server"])
def store(
    request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker
) -> Iterator[ResultStore]:
    if request.param == "memory":
        yield MemoryResultStore()
        return
    alias: str = request.getfixturevalue(request.param)
    kept = DatabaseResultStore(alias, clock=partial(datetime.now, UTC))
    with django_db_blocker.unblock():
        yield kept
        kept._rows.all().delete()
        kept.release()


def failed(
    task_id: str, at: datetime = NOW, *, path: str = ADD, error: str = VALUE, **more: object
) -> TaskRecord:
    """Return the record of a task that failed at this time."""
    record = TaskRecord(
        payload=TaskPayload(
            task_id=task_id, task_path=path, args=[], kwargs={}, enqueued_at=NOW, recorded=True
        ),
        state=State.FAILED,
        attempts=(Attempt("w", NOW, at, AttemptError(error, "Traceback: no")),),
        finished_at=at,
    )
    return changed(record, **more)


def copy_of(record: TaskRecord, task_id: str) -> Replay:
    """Return the two records after a replay. The new task has this id."""
    payload = attrs.evolve(record.payload, task_id=task_id)
    copy = enqueued(payload, args=[], kwargs={}, run_after=None, now=NOW, timeout=0)
    decision = replay(record, copy, now=NOW)
    assert isinstance(decision, Replay)
    return decision


def ids(store: ResultStore, selection: FailureSelection, limit: int = 99) -> list[str]:
    places = store.failed_tasks(selection, limit=limit)
    assert len(places) <= store.count_failures(selection)
    return [place.task_id for place in places]


def test_failures_are_grouped_the_latest_first(store: ResultStore) -> None:
    assert store.failure_groups() == []
    store.add(failed("a", NOW))
    store.add(failed("b", NOW + 5 * SECOND))
    store.add(failed("c", NOW + 3 * SECOND))
    store.add(failed("d", NOW + SECOND, error=KEY))
    store.add(failed("e", NOW + 9 * SECOND, path=SEND))
    store.add(changed(failed("f", NOW + 9 * SECOND), state=State.CANCELLED))
    store.add(changed(failed("g", NOW), state=State.READY, finished_at=None))
    store.add(failed("h", NOW + 9 * SECOND, replayed_as="i"))
    last = NOW + 9 * SECOND
    expected = [
        FailureGroup(task_path=SEND, failure=VALUE, count=1, first=last, last=last),
        FailureGroup(task_path=ADD, failure=VALUE, count=3, first=NOW, last=NOW + 5 * SECOND),
        FailureGroup(task_path=ADD, failure=KEY, count=1, first=NOW + SECOND, last=NOW + SECOND),
    ]
    assert store.failure_groups() == expected
    assert store.failure_groups(limit=1) == expected[:1]
    assert store.failure_groups(limit=1, offset=1) == expected[1:2]
    since = store.failure_groups(since=NOW + 3 * SECOND)
    assert [(g.task_path, g.count, g.first) for g in since] == [
        (SEND, 1, NOW + 9 * SECOND),
        (ADD, 2, NOW + 3 * SECOND),
    ]
    counts = {(g.task_path, g.failure): g.count for g in store.failure_groups(replayed=True)}
    assert counts == {(SEND, VALUE): 1, (ADD, VALUE): 4, (ADD, KEY): 1}


def test_groups_are_the_same_only_to_the_letter(store: ResultStore) -> None:
    store.add(failed("a", error="shop.Error"))
    store.add(failed("b", error="shop.error"))
    assert [g.count for g in store.failure_groups()] == [1, 1]
    selection = FailureSelection(task_path=ADD, failure="shop.error")
    assert ids(store, selection) == ["b"]


def test_the_failures_of_a_group_come_in_order_and_in_parts(store: ResultStore) -> None:
    store.add(failed("c", NOW))
    store.add(failed("a", NOW + TINY))
    store.add(failed("b", NOW + TINY))
    store.add(failed("d", NOW + 2 * TINY))
    store.add(failed("other", NOW, path=SEND))
    store.add(failed("another", NOW, error=KEY))
    store.add(failed("replayed", NOW - SECOND, replayed_as="x"))
    assert ids(store, GROUP) == ["c", "a", "b", "d"]
    assert ids(store, GROUP, limit=3) == ["c", "a", "b"]
    behind = attrs.evolve(GROUP, after=FailedTask(NOW + TINY, "a"))
    assert ids(store, behind) == ["b", "d"]
    assert store.count_failures(behind) == 2
    assert ids(store, attrs.evolve(GROUP, until=NOW + TINY)) == ["c", "a", "b"]
    assert ids(store, attrs.evolve(GROUP, since=NOW + TINY)) == ["a", "b", "d"]
    assert ids(store, attrs.evolve(GROUP, replayed=True)) == ["replayed", "c", "a", "b", "d"]
    assert store.failed_tasks(GROUP, limit=1) == [FailedTask(NOW, "c")]


def test_what_is_chosen_is_deleted_the_oldest_first(store: ResultStore) -> None:
    for number in range(6):
        store.add(failed(str(number), NOW + number * SECOND))
    store.add(failed("other", NOW, error=KEY))
    store.add(failed("replayed", NOW, replayed_as="x"))
    until = attrs.evolve(GROUP, until=NOW + 4 * SECOND)
    assert store.delete_failures(until, limit=2) == 2
    assert ids(store, GROUP) == ["2", "3", "4", "5"]
    assert store.delete_failures(until, limit=99) == 3
    assert store.delete_failures(until, limit=99) == 0
    assert ids(store, GROUP) == ["5"]
    assert store.get("other") is not None
    assert store.get("replayed") is not None


def test_many_are_deleted_in_one_call(store: ResultStore) -> None:
    for number in range(1100):
        store.add(failed(str(number)))
    assert store.delete_failures(GROUP, limit=1050) == 1050
    assert store.count_failures(GROUP) == 50


def test_both_records_of_a_replay_name_the_other(store: ResultStore) -> None:
    original = failed("one")
    store.add(original)
    made = copy_of(original, "two")
    with store.atomic():
        assert store.replace(original, made.original)
        store.add(made.copy)
    assert store.get("one") == made.original
    kept = store.get("two")
    assert kept is not None
    assert kept.replay_of == "one"
    assert store.failure_groups() == []


def test_a_replay_that_is_not_completed_leaves_nothing(store: ResultStore) -> None:
    original = failed("one")
    store.add(original)
    made = copy_of(original, "two")
    with pytest.raises(ZeroDivisionError), store.atomic():
        assert store.replace(original, made.original)
        store.add(made.copy)
        raise ZeroDivisionError
    assert store.get("one") == original
    assert store.get("two") is None


def test_what_waits_for_the_commit_inside_another_transaction_is_called(store: ResultStore) -> None:
    called: list[str] = []
    with store.atomic():
        with store.atomic():
            store.on_commit(lambda: called.append("inner"))
        assert called == []
    assert called == ["inner"]


def test_of_two_replays_at_once_one_wins(store: ResultStore) -> None:
    """The second begins while the transaction of the first is open."""
    original = failed("one")
    store.add(original)
    written, second_begins = threading.Event(), threading.Event()

    def run(task_id: str) -> bool:
        made = copy_of(original, task_id)
        if task_id == "second":
            assert written.wait(20)
            second_begins.set()
        try:
            with store.atomic():
                won = store.replace(original, made.original)
                if won:
                    store.add(made.copy)
                    written.set()
                    assert second_begins.wait(20)
            return won
        finally:
            store.release()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, ["first", "second"])) == [True, False]
    kept = store.get("one")
    assert kept is not None
    assert kept.replayed_as == "first"
    assert store.get("second") is None


def test_a_failure_that_was_replayed_is_not_deleted_with_its_group(store: ResultStore) -> None:
    """The group is deleted by a person who has seen it before the replay."""
    original = failed("one")
    store.add(original)
    store.add(failed("other"))
    made = copy_of(original, "two")
    assert store.replace(original, made.original)
    assert store.delete_failures(attrs.evolve(GROUP, until=NOW), limit=9) == 1
    assert store.get("one") == made.original


def test_a_record_that_was_deleted_is_not_replayed(store: ResultStore) -> None:
    original = failed("one")
    store.add(original)
    assert store.delete_failures(GROUP, limit=9) == 1
    assert not store.replace(original, copy_of(original, "two").original)

"""The contract of `ResultStore`, for every store: in memory, on SQLite, PostgreSQL and MariaDB."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import attrs
import pytest
from django.db import DataError, OperationalError, connections
from django_tasks_cloud_tasks.adapters.memory import MemoryResultStore
from django_tasks_cloud_tasks.core.lifecycle import Claimed, claim, succeed, withdraw
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.ports import ResultStore
from django_tasks_cloud_tasks.core.records import (
    LEAVES,
    Attempt,
    AttemptError,
    State,
    TaskRecord,
)
from django_tasks_cloud_tasks.core.schedules import ScheduleState
from django_tasks_cloud_tasks.django_integration.models import StoredSchedule
from django_tasks_cloud_tasks.django_integration.results.store import DatabaseResultStore
from psycopg import IsolationLevel
from pytest_django import DjangoDbBlocker

from tests.integration import databases
from tests.records import changed

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
_utc_now = partial(datetime.now, UTC)
FINISHED = [State.SUCCESSFUL, State.FAILED, State.CANCELLED]


@pytest.fixture(params=["memory", "sqlite_file", "postgres_cluster", "mariadb_server"])
def store(
    request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker
) -> Iterator[ResultStore]:
    if request.param == "memory":
        yield MemoryResultStore()
        return
    kept = DatabaseResultStore(request.getfixturevalue(request.param), clock=_utc_now)
    with django_db_blocker.unblock():
        yield kept
        kept._rows.all().delete()
        StoredSchedule.objects.using(kept.database).all().delete()
        kept.release()


def record(task_id: str = "one", **more: object) -> TaskRecord:
    """Return a record of a task; `claim__token` means the field `claim.token`."""
    payload = TaskPayload(
        task_id=task_id,
        task_path="tests.tasks.add",
        args=[1, 2],
        kwargs={},
        backend="stored",
        enqueued_at=NOW,
        recorded=True,
    )
    return changed(TaskRecord(payload=payload), **more)


def full_record() -> TaskRecord:
    """Return a record with a value in every field. Some databases cannot store some of them."""
    strange = "NUL \x00, surrogate \ud800, \N{SNOWMAN}, %s"
    return record(
        payload__task_path="tests.tasks.other",
        payload__queue_name="mail",
        payload__backend="other",
        payload__priority=-7,
        payload__takes_context=True,
        payload__schedule="nightly",
        payload__scheduled_for=NOW - MINUTE,
        payload__args=[strange, 10**40, 1.5, None, [True, {"deep": []}]],
        payload__kwargs={strange: {"a": 1}},
        run_after=NOW + MINUTE,
        state=State.FAILED,
        attempts=(
            Attempt("unknown"),
            Attempt("host:7", NOW, NOW + MINUTE),
            Attempt("host:8", NOW, None, AttemptError("builtins.ValueError", f"Tr: {strange}")),
        ),
        finished_at=NOW + 2 * MINUTE,
        lost="It is gone.\n",
        replay_of="before",
        replayed_as="after",
        redelivery__at=NOW + 5 * MINUTE,
        return_value={"kept": [strange]},
        claim__token="f" * 32,
        claim__expires_at=NOW + 3 * MINUTE,
        cancel_requested=True,
        redelivery__turned_away=True,
        relay__at=NOW + 4 * MINUTE,
        relay__failures=3,
        relay__error="UNAVAILABLE: é",
        redelivery__count=2,
        redelivery__first=1,
        redelivery__name="projects/p/locations/l/queues/q/tasks/t-2",
        redelivery__sent=True,
    )


def test_a_record_comes_back_as_it_was(store: ResultStore) -> None:
    every = full_record()
    defaults = record()
    same = [path for path, read in LEAVES.items() if read(every) == read(defaults)]
    assert same == ["payload.task_id", "payload.enqueued_at"], "leaves that nothing tries"
    store.add(every)
    assert store.get("one") == every


def test_what_is_unknown_is_none(store: ResultStore) -> None:
    assert store.get("one") is None


def test_a_record_that_is_there_stays(store: ResultStore) -> None:
    store.add(record(payload__args=["first"]))
    store.add(record(payload__args=["second"]))
    found = store.get("one")
    assert found is not None
    assert found.payload.args == ["first"]


@pytest.mark.parametrize(
    "name", ["payload__task_path", "payload__backend", "payload__queue_name", "claim__token"]
)
def test_what_is_too_long_is_not_cut(store: ResultStore, name: str) -> None:
    long = record(**{name: "x" * 300})
    try:
        store.add(long)
    except DataError:
        assert store.get("one") is None
    else:
        assert store.get("one") == long


def test_a_record_that_is_there_does_not_harm_a_transaction(store: ResultStore) -> None:
    store.add(record())
    with store.atomic():
        store.add(record("two"))
        store.add(record(payload__args=["another"]))
        store.add(record("three"))
    assert store.get("one") == record()
    assert store.get("two") is not None
    assert store.get("three") is not None


def test_a_record_is_replaced_whole(store: ResultStore) -> None:
    plain = record()
    store.add(plain)
    assert store.replace(plain, full_record())
    assert store.get("one") == full_record()


@pytest.mark.parametrize(
    "change",
    [
        {"state": State.RUNNING},
        {"claim__token": "another"},
        {"redelivery__turned_away": True},
        {"cancel_requested": True},
        {"redelivery__count": 1},
    ],
)
def test_a_record_that_moved_on_is_not_replaced(
    store: ResultStore, change: dict[str, object]
) -> None:
    seen = record()
    moved = changed(seen, **change)
    store.add(moved)
    assert not store.replace(seen, attrs.evolve(seen, state=State.SUCCESSFUL))
    assert store.get("one") == moved


def test_a_record_that_is_gone_is_not_replaced(store: ResultStore) -> None:
    assert not store.replace(record(), attrs.evolve(record(), state=State.SUCCESSFUL))
    assert store.get("one") is None


def test_a_change_of_nothing_tells_whether_the_record_moved_on(store: ResultStore) -> None:
    store.add(record())
    assert store.replace(record(), record())
    assert not store.replace(record(claim__token="another"), record(claim__token="another"))


def test_what_others_changed_meanwhile_stays(store: ResultStore) -> None:
    running = record(state=State.RUNNING, claim__token="mine", claim__expires_at=NOW + MINUTE)
    store.add(running)
    assert store.replace(running, changed(running, relay__error="theirs"))
    assert store.replace(running, succeed(running, 3, now=NOW))
    found = store.get("one")
    assert found is not None
    assert (found.state, found.relay.error) == (State.SUCCESSFUL, "theirs")


def race[R](store: ResultStore, runners: int, run: Callable[[int], R]) -> list[R]:
    """Call `run` in several threads at the same time, and return all results."""
    ready = threading.Barrier(runners)

    def one(number: int) -> R:
        try:
            ready.wait(20)
            return run(number)
        finally:
            store.release()

    with ThreadPoolExecutor(runners) as pool:
        return list(pool.map(one, range(runners)))


def test_of_many_that_claim_at_once_one_wins(store: ResultStore) -> None:
    waiting = record()
    store.add(waiting)

    def run(number: int) -> str | None:
        claimed = claim(waiting, now=NOW, token=f"token-{number}", worker="w", lease=MINUTE)
        assert isinstance(claimed, Claimed)
        return claimed.record.claim.token if store.replace(waiting, claimed.record) else None

    (winner,) = [token for token in race(store, 8, run) if token]
    found = store.get("one")
    assert found is not None
    assert (found.claim.token, found.worker_ids) == (winner, ("w",))


def test_of_a_claim_and_a_cancelling_one_wins(store: ResultStore) -> None:
    for number in range(10):
        waiting = record(str(number))
        store.add(waiting)

        def run(who: int, waiting: TaskRecord = waiting) -> bool:
            change = (
                claim(waiting, now=NOW, token="t", worker="w", lease=MINUTE)
                if who
                else withdraw(waiting, now=NOW)
            )
            return store.replace(waiting, change.record)

        assert sorted(race(store, 2, run)) == [False, True]


def test_the_due_are_taken_in_order_and_once(store: ResultStore) -> None:
    for name, minutes in (("late", -1), ("later", -2), ("latest", -3), ("not yet", 1)):
        store.add(record(name, relay__at=NOW + minutes * MINUTE))
    store.add(record("sent"))
    store.add(record("another's", payload__backend="another", relay__at=NOW))
    until = NOW + MINUTE
    taken = store.due(["stored", "more"], now=NOW, until=until, limit=2)
    assert [(r.task_id, r.relay.at) for r in taken if isinstance(r, TaskRecord)] == [
        ("latest", until),
        ("later", until),
    ]
    assert [store.get(r.task_id) for r in taken] == taken
    assert [r.task_id for r in store.due(["stored"], now=NOW, until=until, limit=2)] == ["late"]
    assert store.due(["stored"], now=NOW, until=until, limit=2) == []
    assert store.due([], now=until, until=until, limit=9) == []


def test_many_that_take_at_once_leave_nothing(store: ResultStore) -> None:
    names = {str(number) for number in range(60)}
    for name in names:
        store.add(record(name, relay__at=NOW))

    def run(_: int) -> list[str]:
        taken = []
        while some := store.due(["stored"], now=NOW, until=NOW + MINUTE, limit=7):
            taken += [r.task_id for r in some]
        return taken

    taken = [name for names in race(store, 4, run) for name in names]
    assert set(taken) == names
    assert len(taken) == len(names), "each by one of them"


def test_pruning_takes_what_finished_before(store: ResultStore) -> None:
    old, young = NOW - MINUTE, NOW + MINUTE
    final = {"finished_at": old}
    store.add(record("old success", state=State.SUCCESSFUL, **final))
    store.add(record("old failure", state=State.FAILED, **final))
    store.add(record("old cancelled", state=State.CANCELLED, **final))
    store.add(record("young", state=State.SUCCESSFUL, finished_at=young))
    store.add(record("at that time", state=State.SUCCESSFUL, finished_at=NOW))
    store.add(record("waits", payload__enqueued_at=old))
    before = NOW
    assert store.count_finished(FINISHED, before) == 3
    assert store.count_finished([State.FAILED], before) == 1
    assert store.prune([State.FAILED], before, limit=10) == 1
    assert store.prune(FINISHED, before, limit=1) == 1
    assert store.prune(FINISHED, before, limit=10) == 1
    assert store.prune(FINISHED, before, limit=10) == 0
    left = ["old success", "old failure", "old cancelled", "young", "at that time", "waits"]
    assert [n for n in left if store.get(n)] == ["young", "at that time", "waits"]


def test_pruning_takes_many(store: ResultStore) -> None:
    final = {"state": State.SUCCESSFUL, "finished_at": NOW - MINUTE}
    for number in range(1100):
        store.add(record(str(number), **final))
    assert store.prune(FINISHED, NOW, limit=1050) == 1050
    assert store.count_finished(FINISHED, NOW) == 50


def test_a_renewal_is_a_replacement(store: ResultStore) -> None:
    running = record(state=State.RUNNING, claim__token="mine", claim__expires_at=NOW)
    store.add(running)
    assert store.renew(running, changed(running, claim__expires_at=NOW + MINUTE))
    found = store.get("one")
    assert found is not None
    assert found.claim.expires_at == NOW + MINUTE
    another = changed(running, claim__token="another's")
    assert not store.renew(another, changed(another, claim__expires_at=NOW + 2 * MINUTE))
    assert store.get("one") == found


def test_a_renewal_waits_for_nobody(store: ResultStore) -> None:
    running = record(state=State.RUNNING, claim__token="mine", claim__expires_at=NOW)
    store.add(running)
    locked, renewed = threading.Event(), threading.Event()

    def hold(_: int) -> bool:
        with store.atomic():
            store.replace(running, attrs.evolve(running, cancel_requested=True))
            locked.set()
            return renewed.wait(20)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(lambda: race(store, 1, hold))
        assert locked.wait(20)
        if not is_sqlite(store):  # It has one writer, and no way to ask without waiting.
            assert store.renew(running, changed(running, claim__expires_at=NOW + MINUTE))
        renewed.set()
        assert holding.result(20) == [True]
    found = store.get("one")
    assert found is not None
    assert (found.cancel_requested, found.claim.expires_at) == (True, NOW)


@pytest.mark.parametrize("server", ["postgres_cluster", "mariadb_server"])
def test_a_transaction_that_sees_only_the_past_ends(
    request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker, server: str
) -> None:
    """Decided anew on what it sees, a change would be refused for ever."""
    entry = dict(connections.settings[request.getfixturevalue(server)])
    level: object = (
        "repeatable read" if server == "mariadb_server" else IsolationLevel.REPEATABLE_READ
    )
    entry["OPTIONS"] = {**entry["OPTIONS"], "isolation_level": level}
    with django_db_blocker.unblock(), databases.reachable("repeatable", entry):
        store = DatabaseResultStore("repeatable", clock=_utc_now)
        store.add(record())
        try:
            with pytest.raises(OperationalError), store.atomic():
                assert store.get("one") == record()
                race(store, 1, lambda _: store.replace(record(), record(cancel_requested=True)))
                store.replace(record(), record(state=State.RUNNING))
            assert store.get("one") == record(cancel_requested=True)
        finally:
            store._rows.all().delete()


def is_sqlite(store: ResultStore) -> bool:
    return isinstance(store, DatabaseResultStore) and "sqlite" in store.database


def test_a_transaction_that_raises_leaves_nothing(store: ResultStore) -> None:
    called: list[str] = []
    store.add(record())
    with pytest.raises(ZeroDivisionError), store.atomic():
        store.add(record("two"))
        store.replace(record(), attrs.evolve(record(), state=State.SUCCESSFUL))
        store.on_commit(lambda: called.append("committed"))
        raise ZeroDivisionError
    assert store.get("two") is None
    assert store.get("one") == record()
    assert called == []
    store.on_commit(lambda: called.append("at once"))
    assert called == ["at once"]


def test_what_waits_for_the_commit_is_called_then_in_order(store: ResultStore) -> None:
    called: list[str] = []
    with store.atomic():
        store.on_commit(lambda: called.append("first"))
        with pytest.raises(ZeroDivisionError), store.atomic():
            store.add(record("inner"))
            store.on_commit(lambda: called.append("inner"))
            raise ZeroDivisionError
        store.on_commit(lambda: called.append("second"))
        store.add(record())
        assert called == []
    assert called == ["first", "second"]
    assert store.get("inner") is None
    assert store.get("one") == record()


@pytest.mark.parametrize("inside", [True, False], ids=["in a transaction", "at once"])
def test_what_fails_after_a_commit_is_logged_and_hinders_nobody(
    store: ResultStore, caplog: pytest.LogCaptureFixture, inside: bool
) -> None:
    called: list[str] = []

    def fail() -> None:
        raise ZeroDivisionError("after the commit")

    if inside:
        with store.atomic():
            store.on_commit(fail)
            store.on_commit(lambda: called.append("the next"))
    else:
        store.on_commit(fail)
        store.on_commit(lambda: called.append("the next"))
    assert called == ["the next"]
    (told,) = [r for r in caplog.records if r.exc_info]
    assert told.exc_info
    assert told.exc_info[0] is ZeroDivisionError


def test_ids_are_the_same_only_to_the_letter(store: ResultStore) -> None:
    for task_id in ("abc", "ABC", "Abc"):
        assert store.get(task_id) is None
        store.add(record(task_id, payload__args=[task_id]))
    for task_id in ("abc", "ABC", "Abc"):
        kept = store.get(task_id)
        assert kept is not None
        assert kept.payload.args == [task_id]


def test_what_failed_to_be_sent_is_counted(store: ResultStore) -> None:
    assert store.backlog(["stored"]).count == 0
    store.add(record("sent", relay__at=NOW))
    store.add(record("later", relay__at=NOW + MINUTE, relay__failures=3, relay__error="late"))
    store.add(record("first", relay__at=NOW, relay__failures=1, relay__error="early"))
    store.add(record("another's", payload__backend="another", relay__at=NOW, relay__failures=1))
    waiting = store.backlog(["stored"])
    assert (waiting.count, waiting.next_at, waiting.error) == (2, NOW, "early")


def test_backends_are_the_same_only_to_the_letter(store: ResultStore) -> None:
    store.add(record("one", payload__backend="stored", relay__at=NOW))
    store.add(record("two", payload__backend="Stored", relay__at=NOW))
    (taken,) = store.due(["Stored"], now=NOW, until=NOW + MINUTE, limit=9)
    assert isinstance(taken, TaskRecord)
    assert taken.task_id == "two"


def test_large_arguments_and_errors_come_back(store: ResultStore) -> None:
    """As large as Cloud Tasks takes a task, with characters that take four bytes."""
    large = record(payload__args=["\N{SNOWMAN}\N{GRINNING FACE}" * 100_000])
    store.add(large)
    error = AttemptError("E", "\U0001f600" * 9)
    failed = changed(large, state=State.FAILED, attempts=(Attempt("w", NOW, NOW, error),))
    assert store.replace(large, failed)
    assert store.get("one") == failed


def test_all_at_once_wait_for_one_another_and_never_in_a_circle(store: ResultStore) -> None:
    """Relays, runners, their heartbeats, pruning and new tasks: no deadlock among their locks."""
    for number in range(200):
        store.add(record(f"{number:03}", relay__at=NOW - MINUTE))

    def relay(who: int) -> None:
        for round_ in range(20):
            now = NOW + round_ * MINUTE
            store.due(["stored"], now=now, until=now + MINUTE / 2, limit=50)

    def run(who: int) -> None:
        for number in range(who % 2, 200, 2):
            seen = store.get(f"{number:03}")
            assert seen is not None
            claimed = claim(seen, now=NOW, token=f"{who}", worker="w", lease=MINUTE)
            if isinstance(claimed, Claimed) and store.replace(seen, claimed.record):
                with store.atomic():
                    store.renew(claimed.record, claimed.record)
                    store.replace(claimed.record, succeed(claimed.record, number, now=NOW))

    def prune(who: int) -> None:
        for _ in range(20):
            store.prune(FINISHED, NOW + MINUTE, limit=1)

    def add(who: int) -> None:
        for number in range(60):
            with store.atomic():
                store.add(record(f"new {who} {number}", relay__at=NOW))

    jobs = [relay, relay, run, run, prune, add, add]
    race(store, len(jobs), lambda who: jobs[who](who))


def state(minutes: int, **more: Any) -> ScheduleState:
    ticked_at = NOW + minutes * MINUTE
    return ScheduleState(name="nightly", rhythm="cron 0 3 * * * UTC", ticked_at=ticked_at, **more)


def test_the_state_of_a_schedule_is_written_by_the_first_only(store: ResultStore) -> None:
    first, then = state(0), state(1, paused=True)
    assert store.replace_schedule(None, first)
    assert not store.replace_schedule(None, then), "another process has added it"
    assert store.schedule_states() == {"nightly": first}
    assert store.replace_schedule(first, then)
    assert not store.replace_schedule(first, state(2)), "another process has changed it"
    assert store.schedule_states() == {"nightly": then}


def test_the_state_of_a_schedule_is_rolled_back_with_its_task(store: ResultStore) -> None:
    store.replace_schedule(None, state(0))
    with pytest.raises(ZeroDivisionError), store.atomic():
        store.replace_schedule(state(0), state(1))
        store.add(record())
        raise ZeroDivisionError
    assert store.schedule_states() == {"nightly": state(0)}
    assert store.get("one") is None

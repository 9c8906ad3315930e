"""Tests of lost tasks, `task_finished`, declarations of policies, and data of other versions."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.tasks import TaskResultStatus
from django.tasks import task as django_task
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_finished
from django.test import override_settings
from django_tasks_cloud_tasks import (
    Backoff,
    Discard,
    Retry,
    Snooze,
    TaskLostError,
    WorkerLostError,
    cancel,
    task,
)
from django_tasks_cloud_tasks.adapters.guarded_queue import GuardedTaskQueue
from django_tasks_cloud_tasks.core.errors import LookUpError
from django_tasks_cloud_tasks.core.lifecycle import DELIVERY_GRACE, LOOK_UP_PAUSE
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import State
from django_tasks_cloud_tasks.django_integration import checks
from django_tasks_cloud_tasks.django_integration.models import StoredTask
from django_tasks_cloud_tasks.django_integration.operating import relay as relaying
from django_tasks_cloud_tasks.django_integration.operating.relay import relay_batch
from django_tasks_cloud_tasks.django_integration.registry import recording_backends
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime
from django_tasks_cloud_tasks.django_integration.testing.contexts import EmulatorInHand
from pytest_django import DjangoDbBlocker

from tests import policy_tasks, recorded_tasks
from tests.integration.deliveries import PATHS, body_of, post_signed
from tests.integration.recording import Site, dies, fail, hearing, recording, relay
from tests.policy_tasks import ANSWERS, ASKED, ATTEMPTS, SCRIPT, SEEN
from tests.recorded_tasks import DURING

APP = "django_tasks_cloud_tasks"
HOUR = DELIVERY_GRACE.total_seconds()


@pytest.fixture
def site() -> Iterator[Site]:
    DURING.clear()
    for left in (SCRIPT, SEEN, ATTEMPTS, ASKED, ANSWERS):
        left.clear()
    with recording() as made:
        yield made
    DURING.clear()


# Lost tasks.


@pytest.mark.django_db(transaction=True)
def test_a_task_whose_queue_was_purged_has_failed_and_says_so(
    cloud_tasks_emulator: EmulatorInHand, caplog: pytest.LogCaptureFixture
) -> None:
    lost = recorded_tasks.does.using(run_after=_in(60)).enqueue("lost")
    cloud_tasks_emulator.reset()
    with hearing(task_finished, of=lambda result: (result.id, result.status)) as ends:
        cloud_tasks_emulator.advance(60 + HOUR - 1)
        relay_batch(recording_backends())
        lost.refresh()
        assert lost.status == TaskResultStatus.READY, "it may only be late"
        cloud_tasks_emulator.advance(1)
        relay_batch(recording_backends())
    assert ends == [(lost.id, "FAILED")]
    lost.refresh()
    (error,) = lost.errors
    assert error.exception_class is TaskLostError
    assert "after 0 of 100 attempts" in error.traceback
    assert "any more, after 0 of 100 attempts. It is marked as failed." in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_task_that_waits_in_a_paused_queue_is_not_lost(
    cloud_tasks_emulator: EmulatorInHand,
) -> None:
    waits = recorded_tasks.does.using(run_after=_in(10 * HOUR)).enqueue("waits")
    row = StoredTask.objects.get(task_id=waits.id)
    StoredTask.objects.update(relay_at=get_runtime().clock())
    relay_batch(recording_backends())
    waits.refresh()
    assert waits.status == TaskResultStatus.READY
    again = StoredTask.objects.get(task_id=waits.id)
    assert again.relay_at >= row.run_after + DELIVERY_GRACE


def _in(seconds: float) -> datetime:
    return get_runtime().clock() + timedelta(seconds=seconds)


def test_a_task_that_its_queue_gave_up_has_failed(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = fail
    assert site.deliver()[0] == 500
    site.queue.requests.clear()
    site.wait(HOUR)
    assert relay() == (0, 0)
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert [e.exception_class for e in result.errors] == [ValueError, TaskLostError]


def test_a_lost_task_is_sent_again_where_the_site_wants_that() -> None:
    with recording(LOST_TASKS="redeliver") as site:
        result = recorded_tasks.does.enqueue("a")
        site.queue.requests.clear()
        site.wait(HOUR)
        assert relay() == (1, 0)
        assert [request.task_id for request in site.queue.requests] == [f"{result.id}-1"]
        assert site.deliver()[0] == 200
        result.refresh()
        assert result.status == TaskResultStatus.SUCCESSFUL


def test_a_missing_permission_is_told_once_and_everything_else_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: object, **__: object) -> bool:
        raise LookUpError("Grant the account roles/cloudtasks.viewer.", forbidden=True)

    monkeypatch.setattr(GuardedTaskQueue, "exists", forbidden)
    monkeypatch.setattr(relaying, "_told_of_permission", set())
    results = [recorded_tasks.does.enqueue(name) for name in "ab"]
    site.wait(HOUR)
    enqueued = recorded_tasks.does.enqueue("c")
    site.store.set_aside(enqueued.id, "", until=site.now)
    relay()
    told = [r.getMessage() for r in caplog.records if "roles/cloudtasks.viewer" in r.getMessage()]
    assert len(told) == 1
    for result in results:
        record = site.record(result.id)
        assert (record.state, record.relay.at) == (State.READY, site.now + LOOK_UP_PAUSE)


def test_a_task_that_is_claimed_while_it_is_looked_up_is_not_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = recorded_tasks.does.enqueue("a")

    def delivered_meanwhile(*_: object, **__: object) -> bool:
        assert site.deliver()[0] == 200
        return False

    monkeypatch.setattr(GuardedTaskQueue, "exists", delivered_meanwhile)
    site.wait(HOUR)
    relay()
    result.refresh()
    assert (result.status, result.errors) == (TaskResultStatus.SUCCESSFUL, [])


def test_a_round_looks_up_a_bounded_number_of_tasks(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        recorded_tasks.does.enqueue(str(number))
    asked: list[object] = []

    def exists(*_: object, **__: object) -> bool:
        asked.append(1)
        return True

    monkeypatch.setattr(GuardedTaskQueue, "exists", exists)
    site.wait(HOUR)
    relay()
    assert len(asked) == 20
    site.wait(LOOK_UP_PAUSE.total_seconds())
    relay()
    assert len(asked) == 40, "the others come later"


# Tasks that end without an attempt.


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_task_whose_workers_all_died_has_failed_and_task_finished_is_sent_once(
    site: Site, path: str
) -> None:
    site.path = path
    result = policy_tasks.data.using(backend="stored").enqueue()
    SCRIPT[:] = [lambda _: dies()] * 3
    with hearing(task_finished, of=lambda result: (result.status, result.attempts)) as ends:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                site.deliver(result.id)
            site.wait(61)
        status, document = site.deliver(result.id)
        assert (status, document["status"]) == (200, "failed")
        assert document["error"] == "The workers of all 3 attempts died."
        assert site.deliver(result.id)[1]["status"] == "duplicate"
    assert ends == [("FAILED", 3)]
    result.refresh()
    assert {error.exception_class for error in result.errors} == {WorkerLostError}


def test_task_finished_is_sent_for_a_task_that_is_cancelled_before_it_runs(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    with hearing(task_finished, of=lambda result: result.status) as ends:
        cancel(result)
        cancel(result)
    assert ends == ["FAILED"]


def test_a_delivery_of_a_cloud_task_that_another_one_followed_changes_nothing(site: Site) -> None:
    """The response to the first Cloud Task was lost, so Cloud Tasks delivers it again."""
    result = policy_tasks.function.using(backend="stored").enqueue()
    SCRIPT[:], ANSWERS[:] = [ValueError("no")], [3600]
    first = site.queue.requests[0]
    site.deliver(result.id)
    before = site.record(result.id)
    headers = {"X-CloudTasks-TaskName": result.id, "X-CloudTasks-TaskRetryCount": "1"}
    answer = post_signed(site.path, first.body, headers=headers)
    assert (answer.status_code, json.loads(answer.content)["status"]) == (200, "superseded")
    assert site.record(result.id) == before


# Declarations.


def test_an_old_delivery_that_comes_late_makes_no_attempt(site: Site) -> None:
    SCRIPT[:] = [Retry(after=1), ValueError("no"), "done"]
    result = policy_tasks.plain.using(backend="stored").enqueue()
    assert site.deliver(result.id)[0] == 200
    site.wait(1)
    assert site.deliver(f"{result.id}-1")[0] == 500
    status, document = site.deliver(result.id, retry=1)
    assert (status, document["status"], ATTEMPTS) == (200, "superseded", [1, 2])
    assert site.deliver(f"{result.id}-1", retry=1)[0] == 200
    assert ATTEMPTS == [1, 2, 3]


def test_the_lost_runner_of_a_task_that_snoozed_often_is_found_after_its_lease(site: Site) -> None:
    SCRIPT[:] = [*[Snooze(for_=60)] * 8, lambda _: dies()]
    result = policy_tasks.plain.using(backend="stored").enqueue()
    for number in range(8):
        site.deliver(f"{result.id}-{number}" if number else result.id)
        site.wait(60)
    with pytest.raises(KeyboardInterrupt):
        site.deliver(f"{result.id}-8")
    record = site.record(result.id)
    assert record.relay.at == record.claim.expires_at


def _send() -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1"),
        ({"timeout": timedelta(seconds=5)}, "timeout must be 15 seconds to 30 minutes"),
        ({"backoff": lambda error: 5}, "takes two positional arguments"),
        ({"backoff": 10}, "backoff must be a Backoff, or a function"),
    ],
    ids=["no attempts", "too short", "one argument", "no backoff"],
)
@pytest.mark.parametrize("declare", [task, django_task], ids=["own", "Django"])
def test_a_wrong_policy_is_refused_where_the_task_is_declared(
    declare: Any, policy: dict[str, Any], said: str
) -> None:
    if declare is django_task:
        pytest.importorskip("django", minversion="6.1")
    with pytest.raises(InvalidTask, match=said):
        declare(**policy)(_send)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (Retry, TypeError, "Retry takes after or at, one of them"),
        (lambda: Retry(after=1, at=datetime.now(UTC)), TypeError, "one of them"),
        (lambda: Retry(after=-1), ValueError, r"Retry\(after=...\): -1 is not a duration"),
        (lambda: Retry(at=datetime(2026, 1, 1)), ValueError, "has no time zone"),  # noqa: DTZ001 - on purpose
        (lambda: Snooze(until="soon"), TypeError, "takes a datetime, not 'soon'"),  # type: ignore[arg-type]  # on purpose
        (lambda: Snooze(for_=timedelta(days=-1)), ValueError, "is not a duration"),
    ],
)
def test_a_wrong_wish_is_refused_with_its_value(
    make: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        make()


FAR = datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))
LONG_AGO = datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))


@pytest.mark.parametrize("moment", [FAR, FAR.replace(tzinfo=UTC), LONG_AGO], ids=str)
@pytest.mark.parametrize("wish", ["Retry(at", "Snooze(until"])
def test_a_time_at_the_end_of_the_calendar_is_refused_with_its_value(
    wish: str, moment: datetime
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{wish}={moment}): some time zones cannot")):
        Retry(at=moment) if wish == "Retry(at" else Snooze(until=moment)


def test_a_naive_time_at_the_end_of_the_calendar_is_refused_too() -> None:
    with (
        override_settings(USE_TZ=False, TIME_ZONE="America/New_York"),
        pytest.raises(ValueError, match="some time zones cannot express this time"),
    ):
        Retry(at=datetime.max)  # noqa: DTZ901 - naive, as with USE_TZ off


@pytest.mark.parametrize(
    "wish",
    [Retry(after=5), Retry(at=datetime(2030, 1, 1, tzinfo=UTC)), Snooze(for_=3), Discard("no")],
    ids=repr,
)
def test_a_wish_can_be_pickled(wish: Exception) -> None:
    copy = pickle.loads(pickle.dumps(wish))  # noqa: S301 - made here
    assert type(copy) is type(wish)
    assert (str(copy), vars(copy)) == (str(wish), vars(wish))


@dataclasses.dataclass
class Constantly:
    """A callable object that cannot be hashed, because dataclasses compare by value."""

    seconds: int

    def __call__(self, error: BaseException, result: object) -> int:
        return self.seconds


def test_a_backoff_function_can_be_an_unhashable_object() -> None:
    declared = task(max_attempts=3, backoff=Constantly(5))(recorded_tasks.does.func)
    assert hash(declared) == hash(declared.using(queue_name="other").using(queue_name="default"))


def test_policies_are_kept_by_using_and_can_be_imported_under_other_backends() -> None:
    used = policy_tasks.data.using(priority=5, queue_name="mail")
    assert (used.max_attempts, used.backoff) == (3, Backoff(10, 300, 3))  # type: ignore[attr-defined]  # of CloudTask
    assert issubclass(Discard, Exception)


def test_an_older_client_is_told_by_a_check_and_the_endpoint_repeats(
    site: Site, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    from django_tasks_cloud_tasks.django_integration import configuration

    for module in (checks, configuration):
        monkeypatch.setattr(module, "sends_retry_config", lambda: False)
    told = [m for m in run_checks() if m.id == "django_tasks_cloud_tasks.I002"]
    assert told
    assert "cannot send retry settings of a task" in told[0].msg
    SCRIPT[:] = [ValueError("no"), "done"]
    result = policy_tasks.data.using(backend="stored").enqueue()
    assert site.queue.requests[0].retry is None
    assert site.deliver(result.id)[0] == 200
    (_, following) = site.queue.requests
    assert (following.task_id, following.schedule_time) == (
        f"{result.id}-1",
        site.now + timedelta(seconds=10),
    )


# Data of other versions.


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.usefixtures("cloud_tasks")
def test_a_task_of_a_later_version_runs_without_what_is_unknown_here(path: str) -> None:
    body = body_of("tests.tasks.add", 1, 2, attempts=4, something_new={"a": 1})
    assert post_signed(path, body).status_code == 200


@pytest.mark.usefixtures("cloud_tasks")
@pytest.mark.parametrize(
    "field", [{"attempts": -1}, {"attempts": "1"}, {"number": 1.5}, {"due_at": "soon"}]
)
def test_damaged_progress_is_refused(field: dict[str, object]) -> None:
    answer = post_signed(PATHS["sync"], body_of("tests.tasks.add", 1, 2, **field))
    assert answer.status_code == 400
    assert next(iter(field)) in answer.content.decode()


def test_a_body_says_nothing_of_progress_where_there_is_none() -> None:
    body = TaskPayload(task_id="a", task_path="b.c", args=[], kwargs={}).encode()
    assert {"attempts", "number", "run_after", "due_at"}.isdisjoint(json.loads(body))


@pytest.fixture(params=["sqlite_file", "postgres_cluster", "mariadb_server"])
def before_policies(
    request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker
) -> Iterator[str]:
    """Migrate a database back to the tables of the previous version, and yield its alias."""
    alias = request.getfixturevalue(request.param)
    with django_db_blocker.unblock():
        call_command("migrate", APP, "0001", database=alias, verbosity=0)
        yield alias
        call_command("migrate", APP, database=alias, verbosity=0)
        StoredTask.objects.using(alias).all().delete()


def test_the_migration_takes_the_rows_as_they_are(before_policies: str) -> None:
    executor = MigrationExecutor(connections[before_policies])
    old = executor.loader.project_state((APP, "0001_initial")).apps.get_model(APP, "StoredTask")
    attempts = [["w", "2026-11-22T12:00:00+00:00", "2026-11-22T12:00:01+00:00", "a.Error"]]
    for name, status, final in (
        ("again", "FAILED", False),
        ("over", "FAILED", True),
        ("waits", "READY", False),
        ("done", "SUCCESSFUL", True),
    ):
        old.objects.using(before_policies).create(
            task_id=name,
            task_path="tests.recorded_tasks.does",
            queue_name="default",
            backend="stored",
            status=status,
            final=final,
            attempts_json=json.dumps(attempts if status == "FAILED" else []),
            tracebacks_json=json.dumps(["Traceback"] if status == "FAILED" else []),
            finished_at=datetime(2026, 11, 22, 12, tzinfo=UTC) if status != "READY" else None,
            relay_at=None if final else datetime(2026, 12, 22, 12, tzinfo=UTC),
        )
    call_command("migrate", APP, database=before_policies, verbosity=0)
    rows = StoredTask.objects.using(before_policies)
    records = {row.task_id: row.record for row in rows.all()}
    assert {name: record.state for name, record in records.items()} == {
        "again": State.READY,
        "over": State.FAILED,
        "waits": State.READY,
        "done": State.SUCCESSFUL,
    }
    again = records["again"]
    assert (again.finished_at, len(again.errors)) == (None, 1)
    assert again.relay.at
    assert again.relay.at < datetime.now(UTC) + timedelta(hours=2)
    assert rows.get(task_id="over").failure == records["over"].failure == "a.Error"
    assert all(record.final == (record.relay.at is None) for record in records.values())

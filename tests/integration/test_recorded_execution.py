"""Recorded tasks: enqueued in a transaction, run under a lease, ended once.

Both stores and both views, by the same tests. What must happen at the same time as something else
happens while a task runs: from inside it, so that the order is forced.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from django.conf import settings
from django.core import serializers
from django.db import IntegrityError, connection, transaction
from django.dispatch import Signal
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django_tasks_cloud_tasks import (
    CancelError,
    CancelOutcome,
    CloudTaskContext,
    StoredTask,
    TaskCancelledError,
    WorkerLostError,
    acancel,
    cancel,
)
from django_tasks_cloud_tasks.core.errors import (
    PayloadTooLargeError,
    QueueNotFoundError,
    ServiceUnavailableError,
)
from django_tasks_cloud_tasks.core.outbox import NAME_KEPT
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import AttemptError, State, TaskRecord, failed
from django_tasks_cloud_tasks.django_integration.enqueueing.backend import recording_backends
from django_tasks_cloud_tasks.django_integration.operating.relay import relay_batch
from django_tasks_cloud_tasks.django_integration.tasks import Cancellation

from tests import recorded_tasks, tasks
from tests.integration.recording import START, Site, payload, recording
from tests.models import Mark
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)

PATHS = {"sync": "/cloudtasks/execute/", "async": "/async/cloudtasks/execute/"}


@pytest.fixture(autouse=True)
def _nothing_happens_by_itself() -> Iterator[None]:
    DURING.clear()
    yield
    DURING.clear()


@pytest.fixture(params=["memory", "database"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with recording(database="default" if request.param == "database" else None) as made:
        yield made


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def view(request: pytest.FixtureRequest, site: Site) -> Site:
    site.path = request.param
    return site


@pytest.fixture
def database_site() -> Iterator[Site]:
    with recording(database="default") as made:
        yield made


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def database_view(request: pytest.FixtureRequest, database_site: Site) -> Site:
    database_site.path = request.param
    return database_site


def relay() -> tuple[int, int]:
    done = relay_batch(recording_backends())
    return done.sent, done.failed


def fail(*_: object) -> None:
    raise ValueError("no such order")


@contextmanager
def hearing(
    *signals: Signal, of: Callable[[TaskResult[..., Any]], object]
) -> Iterator[list[object]]:
    """What these signals told while inside, one of each result at its time."""
    told: list[object] = []

    def hear(task_result: TaskResult[..., Any], **_: object) -> None:
        told.append(of(task_result))

    for signal in signals:
        signal.connect(hear)
    try:
        yield told
    finally:
        for signal in signals:
            signal.disconnect(hear)


# Enqueueing.


def test_a_task_is_recorded_and_sent(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    assert (result.status, result.enqueued_at) == (TaskResultStatus.READY, START)
    (request,) = site.queue.requests
    assert request.task_id == result.id
    record = site.record(result.id)
    assert (record.state, record.args, record.sent) == (State.READY, ["a"], True)
    assert record.relay_at == START + NAME_KEPT, "should nobody come by then"


def test_the_task_is_created_after_the_commit(site: Site) -> None:
    def sent(result: TaskResult[..., Any]) -> tuple[str, int]:
        return result.id, len(site.queue.requests)

    with hearing(task_enqueued, of=sent) as told, site.store.atomic():
        result = recorded_tasks.does.enqueue("a")
        assert result.enqueued_at is None
        assert site.queue.requests == []
        assert told == []
    assert [r.task_id for r in site.queue.requests] == [result.id]
    assert told == [(result.id, 1)]
    assert result.enqueued_at == START


def test_a_rollback_leaves_neither(site: Site) -> None:
    with pytest.raises(ValueError, match="no such order"), site.store.atomic():
        result = recorded_tasks.does.enqueue("a")
        fail()
    assert site.queue.requests == []
    assert site.store.get(result.id) is None
    site.wait(3600)
    assert relay() == (0, 0)


async def test_aenqueue_records_too() -> None:
    with recording() as site:
        result = await recorded_tasks.does.aenqueue("a")
        assert site.record(result.id).state is State.READY
        assert len(site.queue.requests) == 1
        assert (await recorded_tasks.does.aget_result(result.id)).id == result.id
        await result.arefresh()
        assert await acancel(result) is CancelOutcome.CANCELLED


def test_a_task_that_cloud_tasks_does_not_take_is_sent_by_the_relay(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.queue.go_down()
    result = recorded_tasks.does.enqueue("a")
    assert result.enqueued_at == START
    (told,) = caplog.records
    assert (told.levelno, "waits for the relay" in told.getMessage()) == (logging.WARNING, True)
    assert site.record(result.id).relay_error == "Cloud Tasks does not answer"
    assert relay() == (0, 0), "not at once again"
    site.wait(1)
    assert relay() == (0, 1)
    site.queue.down = None
    assert relay() == (0, 0), "later and later"
    site.wait(2)
    assert relay() == (1, 0)
    assert [r.task_id for r in site.queue.requests] == [result.id]
    assert site.deliver()[0] == 200
    assert site.record(result.id).relay_error == ""


def test_a_fault_that_does_not_pass_is_told_as_an_error(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.queue.down = QueueNotFoundError("The queue does not exist. Create it with: gcloud")
    recorded_tasks.does.enqueue("a")
    (told,) = caplog.records
    assert told.levelno == logging.ERROR
    assert "Create it with" in told.getMessage()


def test_a_process_that_dies_before_the_creation_loses_nothing(site: Site) -> None:
    site.queue.down = SystemExit()  # as the process ends, after the commit
    with pytest.raises(SystemExit):
        recorded_tasks.does.using(priority=50).enqueue("a")
    site.queue.down = None
    site.wait(24)
    assert relay() == (0, 0), "the process that enqueued it has a head start"
    site.wait(1)
    assert relay() == (1, 0)
    assert relay() == (0, 0)
    (request,) = site.queue.requests
    assert TaskPayload.decode(request.body).priority == 50
    assert site.deliver()[0] == 200


def test_the_relay_keeps_to_the_time_a_task_is_due(site: Site) -> None:
    due = START + timedelta(hours=2)
    site.queue.go_down()
    recorded_tasks.does.using(run_after=due).enqueue("a")
    site.queue.down = None
    site.wait(60)
    assert relay() == (1, 0)
    (request,) = site.queue.requests
    assert request.schedule_time == due


def test_a_task_due_beyond_the_horizon_is_sent_when_it_can_be(site: Site) -> None:
    due = START + timedelta(days=365)
    result = recorded_tasks.does.using(run_after=due).enqueue("a")
    assert result.enqueued_at == START
    assert site.queue.requests == []
    site.now = due - timedelta(days=23, seconds=1)
    assert relay() == (0, 0)
    site.wait(1)
    assert relay() == (1, 0)
    (request,) = site.queue.requests
    assert (request.task_id, request.schedule_time) == (result.id, due)
    with pytest.raises(PayloadTooLargeError):
        recorded_tasks.does.using(run_after=site.now + timedelta(days=99)).enqueue("x" * 2_000_000)


def test_the_relay_stops_while_cloud_tasks_is_away(site: Site) -> None:
    site.queue.go_down()
    for number in range(40):
        recorded_tasks.does.enqueue(str(number))
    site.wait(1)
    assert relay() == (0, 16), "the others would wait for the same silence"
    site.queue.down = None
    assert relay() == (24, 0), "they wait no longer for it"
    site.wait(2)
    assert relay() == (16, 0)
    assert len({r.task_id for r in site.queue.requests}) == 40


def test_what_cannot_be_sent_is_refused_and_not_recorded(site: Site) -> None:
    with pytest.raises(PayloadTooLargeError):
        recorded_tasks.does.enqueue("x" * 2_000_000)
    with pytest.raises(TypeError):
        recorded_tasks.does.enqueue(object())  # type: ignore[arg-type]  # that is the point
    site.wait(3600)
    assert relay() == (0, 0)


# Executing.


def test_a_success_is_recorded(view: Site) -> None:
    seen: list[TaskResult[..., Any]] = []
    result = recorded_tasks.knows.enqueue("a")

    def during(context: CloudTaskContext) -> list[object]:
        seen.append(recorded_tasks.knows.get_result(result.id))
        view.wait(5)
        return [context.attempt, context.cancelled]

    DURING["a"] = during
    view.wait(2)
    assert view.deliver() == (200, {"status": "success", "task_id": result.id})
    (running,) = seen
    assert running.status == TaskResultStatus.RUNNING
    assert running.attempts == 1
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == [1, False]
    assert (result.started_at, result.last_attempted_at) == (START + timedelta(seconds=2),) * 2
    assert result.finished_at == START + timedelta(seconds=7)
    assert result.worker_ids == running.worker_ids
    assert result.errors == []


def test_each_failure_is_recorded_until_the_success(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = fail
    with hearing(task_finished, of=lambda result: result.status) as finished:
        assert view.deliver()[0] == 500
        view.wait(1)
        assert view.deliver(retry=1)[0] == 500
        result.refresh()
        assert result.status == TaskResultStatus.FAILED
        assert (result.attempts, len(result.errors)) == (2, 2)
        assert result.started_at == START
        assert result.last_attempted_at == START + timedelta(seconds=1)
        DURING.clear()
        assert view.deliver(retry=2)[0] == 200
    result.refresh()
    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, "a")
    assert (result.attempts, len(result.errors)) == (3, 2)
    assert {e.exception_class for e in result.errors} == {ValueError}
    assert all("no such order" in e.traceback for e in result.errors)
    assert finished == ["FAILED", "FAILED", "SUCCESSFUL"]


def test_a_coroutine_is_recorded(view: Site) -> None:
    result = recorded_tasks.does_async.enqueue("a")
    DURING["a"] = fail
    assert view.deliver()[0] == 500
    DURING.clear()
    assert view.deliver()[0] == 200
    result.refresh()
    value: object = result.return_value  # the stubs take it for a coroutine
    assert value == "a"
    assert len(result.errors) == 1


def test_what_json_cannot_carry_fails_the_task_for_good(database_view: Site) -> None:
    tried: list[tuple[Any, int]] = [
        (recorded_tasks.returns_a_set, 1),
        (recorded_tasks.marks_and_returns_a_set, 0),
    ]
    for task, effects in tried:
        Mark.objects.all().delete()
        result = task.enqueue()
        status, document = database_view.deliver(result.id)
        assert (status, document["status"]) == (200, "error")
        result.refresh()
        assert result.status == TaskResultStatus.FAILED
        assert "set" in result.errors[0].traceback
        assert database_view.deliver(result.id) == (
            200,
            {"status": "duplicate", "task_id": result.id, "ended": "FAILED"},
        )
        assert Mark.objects.count() == effects, "what an atomic task did is undone"


def test_a_duplicate_of_a_finished_task_does_not_run(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    assert view.deliver()[0] == 200
    DURING["a"] = fail
    assert view.deliver() == (
        200,
        {"status": "duplicate", "task_id": result.id, "ended": "SUCCESSFUL"},
    )
    assert view.record(result.id).worker_ids == view.record(result.id).worker_ids[:1]


def test_a_duplicate_of_a_running_task_is_sent_away_until_the_lease_ends(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    answers = []

    def during() -> str:
        view.wait(20.5)
        DURING["a"] = fail  # it must not run
        response = view.post()
        answers.append((response.status_code, response.headers["Retry-After"]))
        return "first"

    DURING["a"] = during
    assert view.deliver()[0] == 200
    assert answers == [(409, "40")]
    result.refresh()
    assert (result.return_value, result.attempts) == ("first", 1)
    view.wait(60)
    assert relay() == (0, 0), "the runner did not die"


def test_a_task_whose_runner_died_is_taken_over_after_the_lease(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = dies
    with pytest.raises(KeyboardInterrupt):
        view.deliver()
    DURING.clear()
    assert view.deliver(retry=1)[0] == 409
    view.wait(60)
    assert view.deliver(retry=2)[0] == 200
    result.refresh()
    assert result.return_value == "a"
    assert [e.exception_class for e in result.errors] == [WorkerLostError]
    assert result.attempts == 2


def test_a_task_whose_last_delivery_was_sent_away_is_delivered_anew(view: Site) -> None:
    """The queue has given it up: only the relay knows that its runner died."""
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = dies
    with pytest.raises(KeyboardInterrupt):
        view.deliver()
    DURING.clear()
    assert view.deliver(retry=1)[0] == 409
    view.queue.requests.clear()
    view.wait(59)
    assert relay() == (0, 0)
    view.wait(1)
    assert relay() == (1, 0)
    (request,) = view.queue.requests
    assert request.task_id == f"{result.id}-1", "the first name is taken for a day"
    assert view.deliver()[0] == 200
    result.refresh()
    assert result.return_value == "a"


def before_replacing(site: Site, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Once, just before the next change is written, something else happens."""
    replace = site.store.replace

    def replace_later(seen: TaskRecord, then: TaskRecord) -> bool:
        monkeypatch.setattr(site.store, "replace", replace)
        act()
        return replace(seen, then)

    monkeypatch.setattr(site.store, "replace", replace_later)


def test_a_delivery_that_is_sent_away_while_the_attempt_fails_is_remembered(
    view: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = recorded_tasks.does.enqueue("a")
    answers: list[int] = []

    def during() -> None:
        before_replacing(view, monkeypatch, lambda: answers.append(view.deliver(retry=1)[0]))
        fail()

    DURING["a"] = during
    assert view.deliver()[0] == 500
    assert answers == [409]
    assert view.record(result.id).turned_away
    assert view.record(result.id).relay_at is not None


def test_a_delivery_that_comes_while_the_attempt_ends_is_not_sent_away(
    view: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the record and its note of being sent away."""
    result = recorded_tasks.does.enqueue("a")
    answers: list[int] = []

    def during() -> None:
        claimed = view.record(result.id)
        DURING.clear()
        reason = AttemptError("builtins.ValueError", "no")
        before_replacing(
            view,
            monkeypatch,
            lambda: view.store.replace(claimed, failed(claimed, reason, now=view.now)),
        )
        answers.append(view.deliver()[0])

    DURING["a"] = during
    view.deliver()
    assert answers == [200], "it was free to run the task itself"


def test_a_task_that_is_asked_to_stop_while_it_fails_is_not_repeated(
    view: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = recorded_tasks.does.enqueue("a")
    outcomes: list[CancelOutcome] = []

    def during() -> None:
        before_replacing(view, monkeypatch, lambda: outcomes.append(cancel(result)))
        fail()

    DURING["a"] = during
    assert view.deliver()[0] == 200
    assert outcomes == [CancelOutcome.REQUESTED]
    assert view.record(result.id).state is State.CANCELLED


@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_runner_that_lost_its_lease_writes_nothing(view: Site, ending: str) -> None:
    result = recorded_tasks.does.enqueue("a")
    inner: list[int] = []

    def during() -> str:
        view.wait(61)
        DURING["a"] = lambda: "second"
        inner.append(view.deliver()[0])
        if ending == "raises":
            fail()
        return "first"

    DURING["a"] = during
    with hearing(task_finished, of=lambda result: result.return_value) as finished:
        status, document = view.deliver()
    assert (status, inner) == (409, [200])
    assert "took over" in document["error"]
    result.refresh()
    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, "second")
    assert [e.exception_class for e in result.errors] == [WorkerLostError]
    assert finished == ["second"], "only the end that counts is told"
    assert view.deliver()[0] == 200


def dies() -> None:
    """As a process does: nothing more happens to this attempt."""
    raise KeyboardInterrupt


def test_a_task_whose_runner_died_is_delivered_anew_though_nobody_came(view: Site) -> None:
    """It was the queue's last attempt."""
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = dies
    with pytest.raises(KeyboardInterrupt):
        view.deliver()
    DURING.clear()
    view.queue.requests.clear()
    view.wait(60)
    assert relay() == (1, 0)
    assert view.deliver()[0] == 200
    result.refresh()
    assert (result.return_value, result.attempts) == ("a", 2)


def test_a_failure_is_made_up_for_where_deliveries_were_sent_away(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")

    def during() -> None:
        assert view.deliver(retry=1)[0] == 409
        fail()

    DURING["a"] = during
    assert view.deliver()[0] == 500
    DURING.clear()
    view.queue.requests.clear()  # that was the last one
    assert relay() == (0, 0)
    view.wait(60)
    assert relay() == (1, 0)
    assert view.deliver()[0] == 200
    result.refresh()
    assert (result.return_value, result.attempts) == ("a", 2)


@pytest.mark.parametrize(
    "value",
    [10**5000, float("nan"), [{"deep": float("inf")}]],
    ids=["5001 digits", "nan", "deep infinity"],
)
def test_a_number_that_json_cannot_carry_fails_the_task_for_good(view: Site, value: Any) -> None:
    for task in (recorded_tasks.does, recorded_tasks.marks):
        result = task.enqueue("a")
        DURING["a"] = lambda: value
        status, document = view.deliver(result.id)
        assert (status, document["status"]) == (200, "error")
        assert view.record(result.id).final
        assert view.record(result.id).state is State.FAILED


def test_another_backends_record_is_not_run(view: Site) -> None:
    """Who may use one backend shall not run what waits in another."""
    result = recorded_tasks.does.enqueue("a")
    record = view.record(result.id)
    view.store.add(attrs.evolve(record, task_id="others", backend="vault"))
    payload = attrs.evolve(record.payload, task_id="others")
    DURING["a"] = fail
    assert view.post_body(payload.encode()).status_code == 400
    assert view.record("others").state is State.READY


def test_a_record_survives_a_fixture(database_site: Site) -> None:
    due = START + timedelta(hours=1, milliseconds=7)  # as far as Django's JSON goes
    result = recorded_tasks.does.using(run_after=due).enqueue("a")
    running = attrs.evolve(
        database_site.record(result.id), state=State.RUNNING, lease_expires_at=due, relay_at=due
    )
    database_site.store.replace(database_site.record(result.id), running)
    text = serializers.serialize("json", StoredTask.objects.all())
    StoredTask.objects.all().delete()
    for restored in serializers.deserialize("json", text):
        restored.object.full_clean(exclude=NULLABLE)
        restored.save()
    assert database_site.record(result.id) == running


NULLABLE = [f.name for f in StoredTask._meta.fields if f.null or f.default == ""]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC"])
def test_leases_hold_in_the_hour_that_comes_twice(zone: str) -> None:
    twice = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # half past two in Berlin, again
    with (
        override_settings(USE_TZ=False, TIME_ZONE=zone),
        recording(database="default") as site,
    ):
        site.now = twice
        result = recorded_tasks.does.enqueue("a")
        answers: list[int] = []
        DURING["a"] = lambda: answers.append(site.deliver()[0])
        site.wait(60)
        assert relay() == (0, 0)
        assert site.deliver()[0] == 200
        assert answers == [409]
        assert site.record(result.id).state is State.SUCCESSFUL


def test_what_one_task_cannot_be_sent_for_does_not_hold_up_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.queue.go_down()
    bad, *good = [recorded_tasks.does.enqueue(str(n)).id for n in range(3)]
    site.queue.down = None
    create = site.queue.create

    def fail_for_one(request: Any, **more: Any) -> None:
        if request.task_id == bad:
            raise ZeroDivisionError("something that nobody thought of")
        create(request, **more)

    monkeypatch.setattr(site.queue, "create", fail_for_one)
    site.wait(10)
    assert relay() == (2, 1)
    assert {str(r.task_id) for r in site.queue.requests} == set(good), "in any order"
    assert "something that nobody thought of" in site.record(bad).relay_error
    assert relay() == (0, 0)


def test_while_cloud_tasks_is_silent_tasks_do_not_wait_for_it_one_by_one(site: Site) -> None:
    tried: list[None] = []

    def create(*_: object, **__: object) -> None:
        tried.append(None)
        raise ServiceUnavailableError("Cloud Tasks does not answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.queue, "create", create)
        with site.store.atomic():
            for number in range(20):
                recorded_tasks.does.enqueue(str(number))
        assert len(tried) == 1
        site.wait(5)
        recorded_tasks.does.enqueue("later")
        assert len(tried) == 2
    site.wait(5)
    recorded_tasks.does.enqueue("and later")
    assert len(site.queue.requests) == 1
    assert relay() == (21, 0)


def test_an_enqueue_is_told_though_its_sending_could_not_be_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def replace(*_: object) -> bool:
        raise OSError("the database is away")

    monkeypatch.setattr(site.store, "replace", replace)
    with hearing(task_enqueued, of=lambda result: result.id) as told:
        result = recorded_tasks.does.enqueue("a")
    assert told == [result.id]
    assert result.enqueued_at == START
    assert "the database is away" in caplog.text


# Atomic tasks.


@pytest.fixture(params=["marks", "marks_async"])
def marks(request: pytest.FixtureRequest) -> Any:
    return getattr(recorded_tasks, request.param)


def test_an_atomic_task_and_its_success_are_one(database_view: Site, marks: Any) -> None:
    result = marks.enqueue("a")

    def during() -> str:
        assert connection.in_atomic_block
        return "done"

    DURING["a"] = during
    assert database_view.deliver()[0] == 200
    result.refresh()
    assert (result.return_value, Mark.objects.count()) == ("done", 1)
    assert database_view.deliver()[1]["status"] == "duplicate"
    assert Mark.objects.count() == 1


def test_an_atomic_task_that_fails_leaves_nothing_but_its_failure(
    database_view: Site, marks: Any
) -> None:
    result = marks.enqueue("a")
    DURING["a"] = fail
    assert database_view.deliver()[0] == 500
    assert Mark.objects.count() == 0
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert result.errors[0].exception_class is ValueError
    DURING.clear()
    assert database_view.deliver()[0] == 200
    assert Mark.objects.count() == 1


def test_an_atomic_task_whose_lease_was_lost_leaves_nothing(
    database_view: Site, marks: Any
) -> None:
    result = marks.enqueue("a")

    def during() -> str:
        claimed = database_view.record(result.id)
        assert database_view.store.replace(claimed, attrs.evolve(claimed, token="another's"))
        return "first"

    DURING["a"] = during
    assert database_view.deliver()[0] == 409
    assert Mark.objects.count() == 0


def test_an_atomic_task_whose_commit_fails_has_failed(database_view: Site, marks: Any) -> None:
    result = marks.enqueue("a")

    def during() -> None:
        Mark.objects.create(name="orphan", parent_id=999)  # found out at the commit

    DURING["a"] = during
    status, document = database_view.deliver()
    assert (status, "IntegrityError" in document["error"]) == (500, True)
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert result.errors[0].exception_class is IntegrityError
    assert Mark.objects.count() == 0


def test_what_fails_after_the_commit_of_an_atomic_task_changes_nothing(
    database_view: Site, marks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    result = marks.enqueue("a")

    def during() -> str:
        transaction.on_commit(fail)
        return "done"

    DURING["a"] = during
    with hearing(task_finished, of=lambda result: result.return_value) as finished:
        assert database_view.deliver()[0] == 200
    assert "something failed after its commit" in caplog.text
    assert "no such order" in caplog.text
    result.refresh()
    assert (result.return_value, finished) == ("done", ["done"])


def test_what_an_atomic_task_enqueues_is_sent_with_its_success_only(
    database_view: Site, marks: Any
) -> None:
    marks.enqueue("a")

    def during() -> None:
        recorded_tasks.does.enqueue("inner")
        if not database_view.now > START:
            fail()

    DURING["a"] = during
    assert database_view.deliver()[0] == 500
    assert len(database_view.queue.requests) == 1
    database_view.wait(1)
    assert database_view.deliver()[0] == 200
    assert len(database_view.queue.requests) == 2


# Cancelling.


def test_a_waiting_task_is_cancelled(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    body = view.queue.requests[0].body
    view.wait(3)
    assert cancel(result) is CancelOutcome.CANCELLED
    assert view.queue.requests == []
    assert result.status == TaskResultStatus.FAILED
    assert [e.exception_class for e in result.errors] == [TaskCancelledError]
    assert result.finished_at == START + timedelta(seconds=3)
    DURING["a"] = fail
    assert json.loads(view.post_body(body).content)["ended"] == "CANCELLED"
    assert cancel(result) is CancelOutcome.TOO_LATE


def test_a_task_that_waits_for_the_relay_is_cancelled(site: Site) -> None:
    site.queue.go_down()
    result = recorded_tasks.does.enqueue("a")
    assert cancel(result) is CancelOutcome.CANCELLED
    site.queue.down = None
    site.wait(3600)
    assert relay() == (0, 0)


def test_a_task_between_two_attempts_is_cancelled(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = fail
    view.deliver()
    assert cancel(result) is CancelOutcome.CANCELLED
    assert [e.exception_class for e in result.errors] == [ValueError, TaskCancelledError]


def test_cancelling_rolls_back_with_the_callers_transaction(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    with pytest.raises(ValueError, match="no such order"), site.store.atomic():
        assert cancel(result) is CancelOutcome.CANCELLED
        fail()
    assert len(site.queue.requests) == 1
    assert site.deliver()[0] == 200


def test_cancelling_needs_no_answer_of_cloud_tasks(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = recorded_tasks.does.enqueue("a")

    def delete(*_: object, **__: object) -> bool:
        raise CancelError("Cloud Tasks did not delete it")

    monkeypatch.setattr(site.queue, "delete", delete)
    assert cancel(result) is CancelOutcome.CANCELLED
    assert "stays in its queue" in caplog.text
    assert site.deliver()[1]["ended"] == "CANCELLED"


def test_a_finished_task_is_not_cancelled(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    view.deliver()
    assert cancel(result) is CancelOutcome.TOO_LATE
    assert result.return_value == "a"


@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_running_task_learns_that_it_is_cancelled(view: Site, ending: str) -> None:
    result = recorded_tasks.knows.enqueue("a")

    def during(context: CloudTaskContext) -> str:
        assert cancel(result) is CancelOutcome.REQUESTED
        assert context.cancelled
        if ending == "raises":
            fail()
        return "cleaned up"

    DURING["a"] = during
    status, document = view.deliver()
    assert status == 200, "it must not be repeated"
    result.refresh()
    if ending == "raises":
        assert document["status"] == "cancelled"
        assert result.status == TaskResultStatus.FAILED
        assert [e.exception_class for e in result.errors] == [ValueError, TaskCancelledError]
    else:
        assert result.return_value == "cleaned up"
    assert view.deliver()[1]["status"] == "duplicate"


def test_a_task_that_lost_its_lease_may_stop(view: Site) -> None:
    result = recorded_tasks.knows.enqueue("a")
    seen: list[bool] = []

    def during(context: CloudTaskContext) -> None:
        view.wait(61)
        assert cancel(result) is CancelOutcome.CANCELLED
        seen.append(context.cancelled)

    DURING["a"] = during
    assert view.deliver()[0] == 409
    assert seen == [True]


def test_a_context_is_never_cancelled_without_a_store(cloud_tasks: Any) -> None:
    tasks.which_attempt.enqueue()
    cloud_tasks.run_all()
    context: Any = CloudTaskContext(task_result=None, cancellation=Cancellation())  # type: ignore[arg-type]  # not asked
    assert not context.cancelled


def test_a_store_is_asked_once_a_second_whether_to_stop() -> None:
    moments = iter([0.0, 0.5, 1.0, 1.5, 2.0])
    answers = iter([False, False, True])
    asked = Cancellation(lambda: next(answers), clock=lambda: next(moments))
    assert [asked.requested() for _ in range(7)] == [False] * 4 + [True] * 3


def test_without_a_store_a_waiting_task_is_cancelled_by_its_name(cloud_tasks: Any) -> None:
    result = tasks.add.enqueue(1, 2)
    other = tasks.add.enqueue(3, 4)
    assert len(cloud_tasks.pending) == 2
    assert cancel(result) is CancelOutcome.CANCELLED
    assert result.status == TaskResultStatus.FAILED
    assert [t.request.task_id for t in cloud_tasks.pending] == [other.id]
    assert cancel(result) is CancelOutcome.TOO_LATE


@pytest.mark.usefixtures("cloud_tasks")
def test_without_a_store_a_task_without_a_name_cannot_be_cancelled() -> None:
    entry: dict[str, Any] = dict(settings.TASKS["default"])
    backend = {**entry, "OPTIONS": {**entry["OPTIONS"], "NAME_TASKS": False}}
    with override_settings(TASKS={**settings.TASKS, "default": backend}):
        result = tasks.add.enqueue(1, 2)
        with pytest.raises(CancelError, match="NAME_TASKS is off"):
            cancel(result)


def test_what_another_backend_runs_cannot_be_cancelled() -> None:
    dummy = {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}
    with override_settings(TASKS={**settings.TASKS, "default": dummy}):
        result = tasks.echo.enqueue()
        with pytest.raises(CancelError, match="'default' is no CloudTasksBackend"):
            cancel(result)


def test_what_is_no_result_cannot_be_cancelled() -> None:
    with pytest.raises(TypeError, match="takes a TaskResult"):
        cancel("0" * 32)  # type: ignore[arg-type]  # that is the point


# Results.


def test_results_are_told_apart(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    backend = recorded_tasks.does.get_backend()
    assert backend.supports_get_result
    found = backend.get_result(result.id)
    assert (found.task.func, found.args, found.kwargs) == (recorded_tasks.does.func, ["a"], {})
    assert (found.id, found.status, found.backend) == (result.id, "READY", "stored")
    with pytest.raises(TaskResultMismatch):
        recorded_tasks.knows.get_result(result.id)
    for unknown in ("0" * 32, "", "a\x00b", "x" * 501, "{}", "%"):
        with pytest.raises(TaskResultDoesNotExist):
            recorded_tasks.does.get_result(unknown)


def test_a_result_tells_how_its_task_was_enqueued(site: Site) -> None:
    due = START + timedelta(hours=1)
    result = recorded_tasks.does.using(priority=7, queue_name="mail", run_after=due).enqueue(
        name="a"
    )
    task = recorded_tasks.does.get_result(result.id).task
    assert (task.priority, task.queue_name, task.run_after) == (7, "mail", due)
    assert task == result.task


def test_a_backend_without_a_store_has_no_results() -> None:
    backend = tasks.add.get_backend()
    assert not backend.supports_get_result
    with pytest.raises(NotImplementedError, match="set RESULTS to 'database'"):
        tasks.add.get_result("0" * 32)


def test_another_backends_result_is_not_found(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    record = site.record(result.id)
    site.store.add(attrs.evolve(record, task_id="another", backend="another"))
    with pytest.raises(TaskResultDoesNotExist):
        recorded_tasks.does.get_result("another")


@pytest.mark.parametrize(
    "path", ["tests.recorded_tasks.gone", "tests.gone.does", "tests.recorded_tasks.DURING"]
)
def test_the_result_of_a_task_that_is_gone_is_not_found(site: Site, path: str) -> None:
    result = recorded_tasks.does.enqueue("a")
    site.store.add(attrs.evolve(site.record(result.id), task_id="old", task_path=path))
    with pytest.raises(TaskResultDoesNotExist, match="old"):
        recorded_tasks.does.get_result("old")


# Tasks and records that do not belong together.


def test_a_task_from_before_the_store_is_run_and_recorded(view: Site) -> None:
    body = payload("early")
    DURING["a"] = fail
    assert view.post_body(body, retry=2).status_code == 500
    record = view.record("early")
    assert (len(record.worker_ids), len(record.errors), record.args) == (3, 1, ["a"])
    DURING.clear()
    assert view.post_body(body, retry=3).status_code == 200
    assert json.loads(view.post_body(body).content)["status"] == "duplicate"


def test_a_recorded_task_whose_record_is_gone_is_not_run(
    view: Site, caplog: pytest.LogCaptureFixture
) -> None:
    body = payload("pruned", recorded=True)
    DURING["a"] = fail
    assert view.post_body(body).status_code == 404
    assert "its record is gone" in caplog.text


@pytest.mark.parametrize("task_id", ["", "a b", "x" * 501, "\N{SNOWMAN}"])
def test_an_id_that_no_task_can_have_is_not_recorded(view: Site, task_id: str) -> None:
    body = payload(task_id)
    assert view.post_body(body).status_code == 400


def test_an_id_of_another_task_is_refused(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    body = payload(result.id, task="marks", recorded=True)
    assert view.post_body(body).status_code == 400
    assert view.record(result.id).state is State.READY


def test_signals_tell_of_the_attempts_that_are_made(view: Site) -> None:
    recorded_tasks.does.enqueue("a")
    with hearing(task_started, task_finished, of=lambda result: result.status) as told:
        view.deliver()
        view.deliver()
    assert told == ["RUNNING", "SUCCESSFUL"], "a duplicate is no attempt"


# What it costs.


def statements(queries: CaptureQueriesContext) -> list[str]:
    return [
        word
        for query in queries
        if (word := query["sql"].split()[0]) not in ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    ]


@pytest.mark.parametrize("path", list(PATHS.values()), ids=list(PATHS))
def test_without_a_store_nothing_is_asked(
    path: str, django_assert_num_queries: Any, cloud_tasks: Any
) -> None:
    with recording() as site, django_assert_num_queries(0):
        site.path = path
        tasks.add.enqueue(1, 2)
        assert site.deliver()[0] == 200


def test_with_a_store_little_is_asked(database_view: Site) -> None:
    for task, executed in (
        (recorded_tasks.does, ["SELECT", "UPDATE", "UPDATE"]),
        (recorded_tasks.does_async, ["SELECT", "UPDATE", "UPDATE"]),
        (recorded_tasks.marks, ["SELECT", "UPDATE", "INSERT", "UPDATE"]),
    ):
        with CaptureQueriesContext(connection) as queries:
            result = task.enqueue("a")
        assert statements(queries) == ["INSERT", "UPDATE"]
        with CaptureQueriesContext(connection) as queries:
            assert database_view.deliver(result.id)[0] == 200
        assert statements(queries) == executed
        with CaptureQueriesContext(connection) as queries:
            result.refresh()
        assert statements(queries) == ["SELECT"]


@pytest.mark.parametrize(
    "due",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
    ],
    ids=str,
)
def test_a_task_cannot_be_due_at_the_ends_of_the_calendar(site: Site, due: datetime) -> None:
    with pytest.raises(InvalidTask, match="no time in every time zone"):
        recorded_tasks.does.using(run_after=due).enqueue("a")
    almost = datetime(9999, 12, 30, tzinfo=UTC)
    result = recorded_tasks.does.using(run_after=almost).enqueue("a")
    assert site.record(result.id).run_after == almost

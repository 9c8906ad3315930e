"""Cancelling: tasks that wait, tasks that run, and tasks without a record."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.tasks import TaskResultStatus
from django.test import override_settings
from django_tasks_cloud_tasks import (
    CancelError,
    CancelOutcome,
    CloudTaskContext,
    TaskCancelledError,
    cancel,
)
from django_tasks_cloud_tasks.core.records import State
from django_tasks_cloud_tasks.django_integration.tasks import Cancellation

from tests import recorded_tasks, tasks
from tests.integration.recording import START, Site, before_replacing, fail, relay
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)


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


def test_a_cancellation_is_rolled_back_with_the_transaction_of_the_caller(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    with pytest.raises(ValueError, match="no such order"), site.store.atomic():
        assert cancel(result) is CancelOutcome.CANCELLED
        fail()
    assert len(site.queue.requests) == 1
    assert site.deliver()[0] == 200


def test_a_task_is_cancelled_even_if_cloud_tasks_does_not_delete_it(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = recorded_tasks.does.enqueue("a")

    def delete(*_: object, **__: object) -> bool:
        raise CancelError("Cloud Tasks did not delete it")

    monkeypatch.setattr(site.queue, "delete", delete)
    assert cancel(result) is CancelOutcome.CANCELLED
    assert "its Cloud Task was not deleted" in caplog.text
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


def test_a_task_that_is_cancelled_while_it_fails_is_not_retried(
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


def test_a_task_that_lost_its_lease_sees_that_it_is_cancelled(view: Site) -> None:
    result = recorded_tasks.knows.enqueue("a")
    seen: list[bool] = []

    def during(context: CloudTaskContext) -> None:
        view.wait(61)
        assert cancel(result) is CancelOutcome.CANCELLED
        seen.append(context.cancelled)

    DURING["a"] = during
    assert view.deliver()[0] == 409
    assert seen == [True]


def test_a_context_without_a_store_is_never_cancelled(cloud_tasks: Any) -> None:
    tasks.which_attempt.enqueue()
    cloud_tasks.run_all()
    context: Any = CloudTaskContext(task_result=None, cancellation=Cancellation())  # type: ignore[arg-type]  # not asked
    assert not context.cancelled


def test_the_store_is_asked_at_most_once_a_second_whether_to_stop() -> None:
    moments = iter([0.0, 0.5, 1.0, 1.5, 2.0])
    answers = iter([False, False, True])
    asked = Cancellation(lambda: next(answers), clock=lambda: next(moments))
    assert [asked.requested() for _ in range(7)] == [False] * 4 + [True] * 3


def test_a_waiting_task_without_a_store_is_cancelled_by_its_name(cloud_tasks: Any) -> None:
    result = tasks.add.enqueue(1, 2)
    other = tasks.add.enqueue(3, 4)
    assert len(cloud_tasks.pending) == 2
    assert cancel(result) is CancelOutcome.CANCELLED
    assert result.status == TaskResultStatus.FAILED
    assert [t.request.task_id for t in cloud_tasks.pending] == [other.id]
    assert cancel(result) is CancelOutcome.TOO_LATE


@pytest.mark.usefixtures("cloud_tasks")
def test_a_task_without_a_store_and_a_name_cannot_be_cancelled() -> None:
    entry: dict[str, Any] = dict(settings.TASKS["default"])
    backend = {**entry, "OPTIONS": {**entry["OPTIONS"], "NAME_TASKS": False}}
    with override_settings(TASKS={**settings.TASKS, "default": backend}):
        result = tasks.add.enqueue(1, 2)
        with pytest.raises(CancelError, match="NAME_TASKS is off"):
            cancel(result)


def test_a_task_of_another_kind_of_backend_cannot_be_cancelled() -> None:
    dummy = {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}
    with override_settings(TASKS={**settings.TASKS, "default": dummy}):
        result = tasks.echo.enqueue()
        with pytest.raises(CancelError, match="'default' is not a CloudTasksBackend"):
            cancel(result)


def test_cancel_refuses_values_that_are_not_results() -> None:
    with pytest.raises(TypeError, match="takes a TaskResult"):
        cancel("0" * 32)  # type: ignore[arg-type]  # that is the point

"""Executing: the start and the end of each attempt are recorded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.signals import task_finished, task_started
from django_tasks_cloud_tasks import CloudTaskContext
from django_tasks_cloud_tasks.core.records import State

from tests import recorded_tasks
from tests.integration.recording import START, Site, fail, hearing
from tests.models import Mark
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)


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
        assert result.status == TaskResultStatus.READY
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
    assert finished == ["SUCCESSFUL"]


def test_a_coroutine_is_recorded(view: Site) -> None:
    result = recorded_tasks.does_async.enqueue("a")
    DURING["a"] = fail
    assert view.deliver()[0] == 500
    DURING.clear()
    assert view.deliver()[0] == 200
    result.refresh()
    value: object = result.return_value  # the stubs say that it is a coroutine
    assert value == "a"
    assert len(result.errors) == 1


def test_a_return_value_that_is_not_json_fails_the_task_permanently(database_view: Site) -> None:
    tried: list[tuple[Any, int]] = [
        (recorded_tasks.returns_a_set, 1),
        (recorded_tasks.marks_and_returns_a_set, 0),
    ]
    for task, effects in tried:
        Mark.objects.all().delete()
        result = task.enqueue()
        status, document = database_view.deliver(result.id)
        assert (status, document["status"]) == (200, "failed")
        result.refresh()
        assert result.status == TaskResultStatus.FAILED
        assert "set" in result.errors[0].traceback
        assert database_view.deliver(result.id) == (
            200,
            {"status": "duplicate", "task_id": result.id, "ended": "FAILED"},
        )
        assert Mark.objects.count() == effects, "what an atomic task did is undone"


@pytest.mark.parametrize(
    "value",
    [10**5000, float("nan"), [{"deep": float("inf")}]],
    ids=["5001 digits", "nan", "deep infinity"],
)
def test_a_number_that_json_does_not_have_fails_the_task_permanently(
    view: Site, value: Any
) -> None:
    for task in (recorded_tasks.does, recorded_tasks.marks):
        result = task.enqueue("a")
        DURING["a"] = lambda: value
        status, document = view.deliver(result.id)
        assert (status, document["status"]) == (200, "failed")
        assert view.record(result.id).final
        assert view.record(result.id).state is State.FAILED


def test_signals_are_sent_for_attempts_and_not_for_duplicates(view: Site) -> None:
    recorded_tasks.does.enqueue("a")
    with hearing(task_started, task_finished, of=lambda result: result.status) as told:
        view.deliver()
        view.deliver()
    assert told == ["RUNNING", "SUCCESSFUL"], "a duplicate is no attempt"

"""Atomic tasks: what the task writes and its success are committed in one transaction."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.tasks import TaskResultStatus
from django.tasks.signals import task_finished

from tests import recorded_tasks
from tests.integration.recording import START, Site, fail, hearing
from tests.models import Mark
from tests.recorded_tasks import DURING
from tests.records import changed

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["marks", "marks_async"])
def marks(request: pytest.FixtureRequest) -> Any:
    return getattr(recorded_tasks, request.param)


def test_an_atomic_task_and_its_success_are_committed_together(
    database_view: Site, marks: Any
) -> None:
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


def test_an_atomic_task_that_fails_is_rolled_back_and_its_failure_is_recorded(
    database_view: Site, marks: Any
) -> None:
    result = marks.enqueue("a")
    DURING["a"] = fail
    assert database_view.deliver()[0] == 500
    assert Mark.objects.count() == 0
    result.refresh()
    assert result.status == TaskResultStatus.READY
    assert result.errors[0].exception_class is ValueError
    DURING.clear()
    assert database_view.deliver()[0] == 200
    assert Mark.objects.count() == 1


def test_an_atomic_task_that_lost_its_lease_is_rolled_back(database_view: Site, marks: Any) -> None:
    result = marks.enqueue("a")

    def during() -> str:
        claimed = database_view.record(result.id)
        assert database_view.store.replace(claimed, changed(claimed, claim__token="another's"))
        return "first"

    DURING["a"] = during
    assert database_view.deliver()[0] == 409
    assert Mark.objects.count() == 0


def test_a_failed_commit_fails_an_atomic_task(database_view: Site, marks: Any) -> None:
    result = marks.enqueue("a")

    def during() -> None:
        Mark.objects.create(name="orphan", parent_id=999)  # the database checks this at the commit

    DURING["a"] = during
    status, document = database_view.deliver()
    assert (status, "IntegrityError" in document["error"]) == (500, True)
    result.refresh()
    assert result.status == TaskResultStatus.READY
    assert result.errors[0].exception_class is IntegrityError
    assert Mark.objects.count() == 0


def test_an_error_after_the_commit_of_an_atomic_task_leaves_it_successful(
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


def test_tasks_enqueued_by_an_atomic_task_are_sent_only_if_it_succeeds(
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

"""Enqueueing: a task and its record are written together, and the task is sent after the commit."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_enqueued
from django_tasks_cloud_tasks import CancelOutcome, acancel
from django_tasks_cloud_tasks.core.errors import PayloadTooLargeError, QueueNotFoundError
from django_tasks_cloud_tasks.core.lifecycle import DELIVERY_GRACE
from django_tasks_cloud_tasks.core.records import State

from tests import recorded_tasks
from tests.integration.recording import START, Site, fail, hearing, recording, relay

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_task_is_recorded_and_sent(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    assert (result.status, result.enqueued_at) == (TaskResultStatus.READY, START)
    (request,) = site.queue.requests
    assert request.task_id == result.id
    record = site.record(result.id)
    assert (record.state, record.payload.args, record.redelivery.sent) == (State.READY, ["a"], True)
    assert record.relay.at == START + DELIVERY_GRACE, "should nobody come by then"


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


def test_a_rollback_leaves_neither_a_record_nor_a_cloud_task(site: Site) -> None:
    with pytest.raises(ValueError, match="no such order"), site.store.atomic():
        result = recorded_tasks.does.enqueue("a")
        fail()
    assert site.queue.requests == []
    assert site.store.get(result.id) is None
    site.wait(3600)
    assert relay() == (0, 0)


async def test_aenqueue_records_the_task() -> None:
    with recording() as site:
        result = await recorded_tasks.does.aenqueue("a")
        assert site.record(result.id).state is State.READY
        assert len(site.queue.requests) == 1
        assert (await recorded_tasks.does.aget_result(result.id)).id == result.id
        await result.arefresh()
        assert await acancel(result) is CancelOutcome.CANCELLED


def test_an_enqueue_logs_a_permanent_failure_as_an_error(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.queue.down = QueueNotFoundError("The queue does not exist. Create it with: gcloud")
    recorded_tasks.does.enqueue("a")
    (told,) = caplog.records
    assert told.levelno == logging.ERROR
    assert "Create it with" in told.getMessage()


def test_arguments_that_cannot_be_sent_are_refused_and_not_recorded(site: Site) -> None:
    with pytest.raises(PayloadTooLargeError):
        recorded_tasks.does.enqueue("x" * 2_000_000)
    with pytest.raises(TypeError):
        recorded_tasks.does.enqueue(object())  # type: ignore[arg-type]  # that is the point
    site.wait(3600)
    assert relay() == (0, 0)


def test_the_enqueued_signal_is_sent_even_if_the_sending_cannot_be_recorded(
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


@pytest.mark.parametrize(
    "due",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
    ],
    ids=str,
)
def test_a_task_cannot_be_due_at_the_first_or_last_moment_of_the_calendar(
    site: Site, due: datetime
) -> None:
    with pytest.raises(InvalidTask, match="which some time zones cannot express"):
        recorded_tasks.does.using(run_after=due).enqueue("a")
    almost = datetime(9999, 12, 30, tzinfo=UTC)
    result = recorded_tasks.does.using(run_after=almost).enqueue("a")
    assert site.record(result.id).run_after == almost

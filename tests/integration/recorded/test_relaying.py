"""The relay sends tasks that were recorded, but not sent immediately."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from django_tasks_cloud_tasks.core.errors import PayloadTooLargeError, ServiceUnavailableError
from django_tasks_cloud_tasks.core.payload import TaskPayload

from tests import recorded_tasks
from tests.integration.recording import START, Site, relay

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_relay_sends_a_task_that_cloud_tasks_did_not_accept(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.queue.go_down()
    result = recorded_tasks.does.enqueue("a")
    assert result.enqueued_at == START
    (told,) = caplog.records
    assert (told.levelno, "waits for the relay" in told.getMessage()) == (logging.WARNING, True)
    assert site.record(result.id).relay.error == "Cloud Tasks does not answer"
    assert relay() == (0, 0), "not at once again"
    site.wait(1)
    assert relay() == (0, 1)
    site.queue.down = None
    assert relay() == (0, 0), "later and later"
    site.wait(2)
    assert relay() == (1, 0)
    assert [r.task_id for r in site.queue.requests] == [result.id]
    assert site.deliver()[0] == 200
    assert site.record(result.id).relay.error == ""


def test_the_relay_sends_the_task_of_a_process_that_died_before_sending_it(site: Site) -> None:
    site.queue.down = SystemExit()  # the process dies after the commit
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


def test_the_relay_sends_a_task_with_the_time_when_it_is_due(site: Site) -> None:
    due = START + timedelta(hours=2)
    site.queue.go_down()
    recorded_tasks.does.using(run_after=due).enqueue("a")
    site.queue.down = None
    site.wait(60)
    assert relay() == (1, 0)
    (request,) = site.queue.requests
    assert request.schedule_time == due


def test_the_relay_sends_a_far_future_task_as_soon_as_cloud_tasks_accepts_its_time(
    site: Site,
) -> None:
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


def test_the_relay_stops_while_cloud_tasks_does_not_answer(site: Site) -> None:
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


def test_an_error_in_sending_one_task_does_not_delay_the_others(
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
    assert "something that nobody thought of" in site.record(bad).relay.error
    assert relay() == (0, 0)


def test_only_one_of_many_enqueues_waits_for_cloud_tasks_that_does_not_answer(site: Site) -> None:
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

"""If Cloud Tasks does not answer, the calls after the first timeout do not wait again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django_tasks_cloud_tasks import CancelError, CancelOutcome, ServiceUnavailableError, cancel
from django_tasks_cloud_tasks.core.errors import RunNowError
from django_tasks_cloud_tasks.core.names import QueueName

from tests import recorded_tasks, tasks
from tests.integration.recording import Site, recording


@pytest.fixture
def site(transactional_db: None) -> Iterator[Site]:
    with recording(database="default") as made:
        yield made


@pytest.fixture
def asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the tasks for which a call waited for a time-out."""
    calls: list[str] = []

    def delete(_: QueueName, task_id: str, *, timeout: float) -> bool:
        calls.append(task_id)
        raise CancelError("no answer", unanswered=True)

    def run(_: QueueName, task_id: str, *, timeout: float) -> bool:
        calls.append(task_id)
        raise RunNowError("no answer", unanswered=True)

    monkeypatch.setattr(site.queue, "delete", delete)
    monkeypatch.setattr(site.queue, "run", run)
    return calls


def test_only_one_of_six_cancellations_waits_for_a_time_out(site: Site, asked: list[str]) -> None:
    results = [recorded_tasks.does.enqueue(str(number)) for number in range(6)]
    assert [cancel(result) for result in results] == [CancelOutcome.CANCELLED] * 6
    assert asked == [results[0].id]
    site.wait(6)
    more = recorded_tasks.does.enqueue("more")
    assert cancel(more) is CancelOutcome.CANCELLED
    assert asked == [results[0].id, more.id], "it is asked again after a while"


def test_a_time_out_of_an_enqueue_or_a_cancellation_counts_for_the_other(
    site: Site, asked: list[str]
) -> None:
    waits = recorded_tasks.does.enqueue("a")
    site.queue.go_down()
    recorded_tasks.does.enqueue("b")
    assert cancel(waits) is CancelOutcome.CANCELLED
    assert asked == []
    site.wait(6)
    cancel(recorded_tasks.does.enqueue("c"))
    assert asked == [], "another enqueue has waited meanwhile"


def test_a_task_without_a_record_is_not_cancelled_after_a_time_out(
    site: Site, asked: list[str]
) -> None:
    first, second = (tasks.add.enqueue(1, number) for number in range(2))
    for result in (first, second):
        with pytest.raises(CancelError) as raised:
            cancel(result)
        assert raised.value.unanswered
    assert asked == [first.id]


def test_a_task_without_a_record_is_created_even_after_a_time_out(
    site: Site, asked: list[str]
) -> None:
    """Without a record the relay cannot create it later."""
    site.queue.go_down()
    with pytest.raises(ServiceUnavailableError):
        tasks.add.enqueue(1, 2)
    site.queue.down = None
    assert tasks.add.enqueue(1, 2).id == site.queue.requests[-1].task_id


def test_an_admin_action_stops_at_the_first_time_out_and_reports_it(
    site: Site, asked: list[str]
) -> None:
    ids = [recorded_tasks.does.enqueue(str(number)).id for number in range(30)]
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    page = "/admin/django_tasks_cloud_tasks/storedtask/"
    response: Any = client.post(page, {"action": "run_now", "_selected_action": ids}, follow=True)
    assert len(asked) == 1
    told = [str(message) for message in response.context["messages"]]
    assert told[-1] == "Stopped: Cloud Tasks does not answer. Tasks left unchanged: 29."

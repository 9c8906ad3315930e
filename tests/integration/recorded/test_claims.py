"""Claims: a delivery runs a task only under a lease, and only one lease is valid at a time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.tasks import TaskResultStatus
from django.tasks.signals import task_finished
from django.test import override_settings
from django_tasks_cloud_tasks import WorkerLostError
from django_tasks_cloud_tasks.core import lifecycle
from django_tasks_cloud_tasks.core.records import AttemptError, State
from django_tasks_cloud_tasks.core.retry_policy import Again

from tests import recorded_tasks
from tests.integration.recording import (
    Site,
    before_replacing,
    dies,
    fail,
    hearing,
    recording,
    relay,
)
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_duplicate_of_a_finished_task_does_not_run(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    assert view.deliver()[0] == 200
    DURING["a"] = fail
    assert view.deliver() == (
        200,
        {"status": "duplicate", "task_id": result.id, "ended": "SUCCESSFUL"},
    )
    assert view.record(result.id).worker_ids == view.record(result.id).worker_ids[:1]


def test_a_duplicate_of_a_running_task_is_refused_until_the_lease_ends(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    answers = []

    def during() -> str:
        view.wait(20.5)
        DURING["a"] = fail  # a second run would fail
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


def test_a_delivery_takes_over_a_task_whose_runner_died_after_the_lease(view: Site) -> None:
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


def test_a_delivery_that_is_refused_while_the_attempt_fails_is_recorded(
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
    assert view.record(result.id).redelivery.turned_away
    assert view.record(result.id).relay.at is not None


def test_a_delivery_that_arrives_while_the_attempt_ends_is_not_refused(
    view: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt ends after the delivery has read the record and before it writes the refusal."""
    result = recorded_tasks.does.enqueue("a")
    answers: list[int] = []

    def during() -> None:
        claimed = view.record(result.id)
        DURING.clear()
        reason = AttemptError("builtins.ValueError", "no")
        again = Again(None, by_queue=True)
        before_replacing(
            view,
            monkeypatch,
            lambda: view.store.replace(
                claimed, lifecycle.fail(claimed, reason, now=view.now, then=again)
            ),
        )
        answers.append(view.deliver()[0])

    DURING["a"] = during
    view.deliver()
    assert answers == [200], "it was free to run the task itself"


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


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC"])
def test_a_lease_is_valid_in_the_hour_that_daylight_saving_time_repeats(zone: str) -> None:
    twice = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # the second 02:30 of that night in Berlin
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

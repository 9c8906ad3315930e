"""Decisions about a delivery of a task that has, or should have, a record."""

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from django_tasks_cloud_tasks.core.deliveries import Adopt, Decline, Delivery, Run, decide_delivery
from django_tasks_cloud_tasks.core.lifecycle import adopted, claim, enqueued, succeed
from django_tasks_cloud_tasks.core.outcomes import BadPayload, Busy, Duplicate, Unrecorded
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import LONGEST_NAME, State, TaskRecord

from tests.records import changed

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEASE = timedelta(seconds=60)
RECORDED = TaskPayload(task_id="one", task_path="a.b", args=[], kwargs={}, recorded=True)
FOREIGN = attrs.evolve(RECORDED, recorded=False)
WAITING = enqueued(RECORDED, args=[], kwargs={}, run_after=None, now=NOW, timeout=10)
RUNNING = claim(WAITING, now=NOW, token="t1", worker="w1", lease=LEASE).record


def decide(record: TaskRecord | None, payload: TaskPayload = RECORDED) -> Adopt | Run | Decline:
    return decide_delivery(
        payload,
        record,
        delivery=Delivery(retry_count=2),
        now=NOW,
        token="t2",
        worker="w2",
        lease=LEASE,
        max_attempts=100,
    )


def test_a_waiting_task_runs_under_a_claim() -> None:
    decision = decide(WAITING)
    assert isinstance(decision, Run)
    assert decision.record.claim.token == "t2"


def test_a_running_task_is_busy_until_its_lease_ends() -> None:
    turned_away = changed(RUNNING, redelivery__turned_away=True)
    assert decide(RUNNING) == Decline(Busy("one", 60.0), turned_away)


def test_a_task_that_has_ended_is_a_duplicate() -> None:
    ended = succeed(RUNNING, 1, now=NOW)
    assert decide(ended) == Decline(Duplicate("one", State.SUCCESSFUL), ended)


def test_a_task_whose_record_is_gone_does_not_run() -> None:
    assert decide(None) == Decline(Unrecorded("one"))


def test_a_task_that_was_enqueued_without_a_record_gets_one() -> None:
    assert decide(None, FOREIGN) == Adopt(adopted(FOREIGN, earlier_attempts=2, now=NOW))


@pytest.mark.parametrize("task_id", ["no id", "x" * (LONGEST_NAME + 1), ""])
def test_an_id_that_no_cloud_task_can_have_gets_no_record(task_id: str) -> None:
    decision = decide(None, attrs.evolve(FOREIGN, task_id=task_id))
    assert decision == Decline(BadPayload(("task_id cannot be the id of a Cloud Task",)))


@pytest.mark.parametrize(
    "other", [attrs.evolve(RECORDED, task_path="a.c"), attrs.evolve(RECORDED, backend="other")]
)
def test_an_id_of_another_task_runs_nothing(other: TaskPayload) -> None:
    decision = decide(WAITING, other)
    assert decision == Decline(BadPayload(("task_id belongs to another task",)))

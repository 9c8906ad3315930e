"""Settings that change while tasks are on their way. No task is lost, and none runs early."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest
from django.conf import settings
from django.tasks import TaskResultStatus
from django.test import override_settings
from django_tasks_cloud_tasks import CancelOutcome, cancel
from django_tasks_cloud_tasks.django_integration.models import StoredTask
from django_tasks_cloud_tasks.django_integration.operating.control import run_now
from django_tasks_cloud_tasks.django_integration.operating.relay import relay_batch
from django_tasks_cloud_tasks.django_integration.registry import recording_backends
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime
from django_tasks_cloud_tasks.django_integration.testing.contexts import EmulatorInHand

from tests import policy_tasks
from tests.integration.grpc_calls import client_over
from tests.policy_tasks import ANSWERS, ASKED, ATTEMPTS, SCRIPT, SEEN

PARENT = "projects/test-project/locations/europe-west1"
DAY = 86_400
HOP = 719 * 3_600  # seconds until the delivery of a task that is due beyond the horizon

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def emulator(cloud_tasks_emulator: EmulatorInHand) -> EmulatorInHand:
    for left in (SCRIPT, SEEN, ATTEMPTS, ASKED, ANSWERS):
        left.clear()
    return cloud_tasks_emulator


def options(alias: str, **more: object) -> AbstractContextManager[Any]:
    """A context with additional OPTIONS for one backend."""
    entry: Any = settings.TASKS[alias]
    changed = {**entry, "OPTIONS": {**entry["OPTIONS"], **more}}
    return override_settings(TASKS={**settings.TASKS, alias: changed})


def days_ahead(days: float) -> datetime:
    return get_runtime().clock() + timedelta(days=days)


def test_a_task_that_travels_in_hops_stays_early_when_results_is_turned_on(
    emulator: EmulatorInHand,
) -> None:
    SCRIPT[:] = ["done"]
    policy_tasks.plain.using(run_after=days_ahead(60)).enqueue()
    with options("default", RESULTS="database"):
        emulator.advance(HOP)
        assert SEEN == [], "30 days too early"
        emulator.advance(60 * DAY - HOP)
    assert len(SEEN) == 1
    assert StoredTask.objects.get().status == TaskResultStatus.SUCCESSFUL


def test_a_function_goes_on_choosing_the_waits_when_results_is_turned_off(
    emulator: EmulatorInHand,
) -> None:
    SCRIPT[:], ANSWERS[:] = [ValueError("no")] * 4, [60, 60, 60]
    with options("default", RESULTS="database"):
        policy_tasks.function.enqueue()
        emulator.settle()
        emulator.advance(60)
    emulator.advance(60)
    emulator.advance(60)
    assert ATTEMPTS == [1, 2, 3, 4], "the limit of the function is 4 attempts"
    assert emulator.waiting() == []


@pytest.mark.parametrize(
    "change",
    [{"PRIORITY_QUEUES": {0: "{queue}-new"}}, {"CLOUD_TASKS_LOCATION": "europe-west9"}],
    ids=["queue", "location"],
)
@pytest.mark.parametrize("what", ["looked up", "cancelled", "run now"])
def test_a_recorded_task_is_found_in_the_queue_that_has_it(
    emulator: EmulatorInHand, change: dict[str, object], what: str
) -> None:
    SCRIPT[:] = ["done"]
    result = policy_tasks.plain.using(backend="stored", run_after=days_ahead(1)).enqueue()
    with options("stored", **change):
        if what == "cancelled":
            assert cancel(result) is CancelOutcome.CANCELLED
            assert emulator.waiting() == []
            return
        if what == "run now":
            configuration = recording_backends()["stored"]
            assert configuration.results
            run_now(configuration, configuration.results, StoredTask.objects.get().record)
            emulator.settle()
        else:
            StoredTask.objects.update(relay_at=get_runtime().clock())
            relay_batch(recording_backends())
            emulator.advance(DAY)
        result.refresh()
    assert (result.status, len(SEEN)) == (TaskResultStatus.SUCCESSFUL, 1)


def test_a_task_whose_id_cloud_tasks_chose_is_found_when_results_is_turned_on(
    emulator: EmulatorInHand,
) -> None:
    with grpc.insecure_channel(emulator.address) as channel:
        slow = {"min_backoff": {"seconds": 7_200}, "max_backoff": {"seconds": 7_200}}
        client_over(channel).create_queue(
            parent=PARENT, queue={"name": f"{PARENT}/queues/slow", "retry_config": slow}
        )
    SCRIPT[:] = [ValueError("no"), "done"]
    with options("default", NAME_TASKS=False):
        policy_tasks.plain.using(queue_name="slow", run_after=days_ahead(0.1)).enqueue()
    with options("default", RESULTS="database"):
        emulator.advance(0.1 * DAY)
        emulator.advance(3_601)
        relay_batch(recording_backends())
        assert StoredTask.objects.get().status == TaskResultStatus.READY, "its queue repeats it"
        emulator.advance(7_200)
    assert StoredTask.objects.get().status == TaskResultStatus.SUCCESSFUL

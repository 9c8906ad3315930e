"""Deleting a task and running it now over gRPC. Cancelling and the admin use these calls."""

from collections.abc import Iterator

import pytest
from django_tasks_cloud_tasks.adapters.cloud_tasks import GrpcTaskQueue
from django_tasks_cloud_tasks.core.errors import CancelError, RunNowError
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator

from tests.integration.http_servers import handler
from tests.integration.task_requests import QUEUE_NAME, task_request


@pytest.fixture
def emulator() -> Iterator[BackgroundEmulator]:
    with BackgroundEmulator(lambda: Emulator(queues=[str(QUEUE_NAME)])) as running:
        running.call(pause(running.emulator))
        yield running


async def pause(emulator: Emulator) -> None:
    from django_tasks_cloud_tasks.emulator.state.model import QueueState

    emulator.service.set_state(str(QUEUE_NAME), QueueState.PAUSED)


@pytest.fixture
def queue(emulator: BackgroundEmulator) -> Iterator[GrpcTaskQueue]:
    made = GrpcTaskQueue(emulator.address)
    yield made
    made.close()


def test_a_waiting_task_is_deleted_once_and_a_missing_task_is_reported(
    queue: GrpcTaskQueue,
) -> None:
    queue.create(task_request("one"), timeout=10)
    assert queue.delete(QUEUE_NAME, "one", timeout=10)
    assert not queue.delete(QUEUE_NAME, "one", timeout=10)
    assert not queue.delete(QUEUE_NAME, "another", timeout=10)


def test_a_task_runs_now_although_its_queue_is_paused(queue: GrpcTaskQueue) -> None:
    with handler() as (url, called):
        queue.create(task_request("one", url), timeout=10)
        assert queue.run(QUEUE_NAME, "one", timeout=10)
        assert called.wait(20)
    assert not queue.run(QUEUE_NAME, "another", timeout=10)


def test_the_error_without_an_answer_names_the_task_and_the_status() -> None:
    nobody = GrpcTaskQueue("127.0.0.1:1")
    with pytest.raises(CancelError, match=r"did not delete .*/queues/q/tasks/one.*UNAVAILABLE"):
        nobody.delete(QUEUE_NAME, "one", timeout=0.3)
    with pytest.raises(RunNowError, match=r"did not run .*/queues/q/tasks/one.*UNAVAILABLE"):
        nobody.run(QUEUE_NAME, "one", timeout=0.3)
    nobody.close()

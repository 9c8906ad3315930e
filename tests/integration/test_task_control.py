"""Deleting tasks and having them run now, over gRPC, as cancelling and the admin do."""

from collections.abc import Iterator

import pytest
from django_tasks_cloud_tasks.adapters.cloud_tasks import GrpcTaskQueue
from django_tasks_cloud_tasks.core.errors import CancelError, RunNowError
from django_tasks_cloud_tasks.core.names import QueueName
from django_tasks_cloud_tasks.core.requests import TaskRequest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator

from tests.integration.test_emulator_program import handler

NAME = QueueName("p", "l", "q")


@pytest.fixture
def emulator() -> Iterator[BackgroundEmulator]:
    with BackgroundEmulator(lambda: Emulator(queues=[str(NAME)])) as running:
        running.call(pause(running.emulator))
        yield running


async def pause(emulator: Emulator) -> None:
    from django_tasks_cloud_tasks.emulator.values import QueueState

    emulator.service.set_state(str(NAME), QueueState.PAUSED)


@pytest.fixture
def queue(emulator: BackgroundEmulator) -> Iterator[GrpcTaskQueue]:
    made = GrpcTaskQueue(emulator.address)
    yield made
    made.close()


def create(queue: GrpcTaskQueue, url: str) -> None:
    request = TaskRequest(queue=NAME, task_id="one", url=url, headers={}, body=b"")
    queue.create(request, timeout=10)


def test_a_task_that_waits_is_deleted_and_one_that_is_gone_is_missing(
    queue: GrpcTaskQueue,
) -> None:
    create(queue, "http://127.0.0.1:1/")
    assert queue.delete(NAME, "one", timeout=10)
    assert not queue.delete(NAME, "one", timeout=10)
    assert not queue.delete(NAME, "another", timeout=10)


def test_a_task_runs_now_though_its_queue_is_paused(queue: GrpcTaskQueue) -> None:
    with handler() as (url, called):
        create(queue, url)
        assert queue.run(NAME, "one", timeout=10)
        assert called.wait(20)
    assert not queue.run(NAME, "another", timeout=10)


def test_who_does_not_answer_is_named_with_the_task() -> None:
    nobody = GrpcTaskQueue("127.0.0.1:1")
    with pytest.raises(CancelError, match=r"did not delete .*/queues/q/tasks/one.*UNAVAILABLE"):
        nobody.delete(NAME, "one", timeout=0.3)
    with pytest.raises(RunNowError, match=r"did not run .*/queues/q/tasks/one.*UNAVAILABLE"):
        nobody.run(NAME, "one", timeout=0.3)
    nobody.close()

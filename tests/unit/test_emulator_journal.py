"""If the journal refuses a change, as with a full disk, the change does not happen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest
from django_tasks_cloud_tasks.emulator.errors import ApiError, Status, unavailable
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.state.model import Queue, QueueConfig, QueueState, Task
from django_tasks_cloud_tasks.emulator.state.retries import RetryPolicy
from django_tasks_cloud_tasks.emulator.state.state_machine import RETENTION, Service
from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget

QUEUE = "projects/p/locations/l/queues/q"
_ENOUGH = 1_000
START = 1_767_225_600 * SECOND
TARGET = HttpTarget(url="http://localhost/")


@attrs.define
class Disk:
    """A journal that stores names. It refuses changes after `room` more changes."""

    room: int = _ENOUGH
    tasks: dict[str, int] = attrs.field(factory=dict)
    queues: dict[str, QueueState] = attrs.field(factory=dict)

    def _write(self) -> None:
        if self.room == 0:
            raise unavailable("the disk is full")
        self.room -= 1

    @contextmanager
    def together(self) -> Iterator[None]:
        kept = dict(self.tasks), dict(self.queues)
        try:
            yield
        except ApiError:
            self.tasks, self.queues = kept
            raise

    def queue_changed(self, queue: Queue) -> None:
        self._write()
        self.queues[queue.name] = queue.state

    def queue_deleted(self, name: str, until: int) -> None:
        self._write()
        del self.queues[name]
        self.tasks.clear()

    def task_changed(self, task: Task) -> None:
        self._write()
        self.tasks[task.task_id] = task.dispatch_count

    def task_removed(self, task: Task, until: int) -> None:
        self._write()
        self.tasks.pop(task.task_id, None)

    def emptied(self) -> None:
        self._write()
        self.tasks.clear()
        self.queues.clear()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def service(disk: Disk) -> Service:
    made = Service(new_id=lambda: "new", journal=disk, create_queues=True)
    made.create_queue(QUEUE, QueueConfig(), START)
    create(made, "a")
    create(made, "b", after=60)
    return made


def create(service: Service, task_id: str | None, *, after: int = 0, queue: str = QUEUE) -> Task:
    when = START + after * SECOND
    return service.create_task(
        queue, task_id, TARGET, schedule_time=when, deadline=600 * SECOND, now=START
    )


def shown(service: Service) -> object:
    """Return all state that a caller can see."""
    return [
        (
            queue.name,
            queue.state,
            queue.config,
            queue.purge_time,
            queue.running,
            round(queue.bucket.tokens, 3),
            [
                (task.name, task.schedule_time, task.dispatch_count, task.last_attempt)
                for task in service.tasks(queue.name)
            ],
        )
        for queue in service.queues()
    ]


ASKED: dict[str, Callable[[Service], object]] = {
    "create": lambda of: create(of, "c"),
    "create without an id": lambda of: create(of, None),
    "create in a queue on demand": lambda of: create(of, "c", queue=QUEUE + "2"),
    "create a queue": lambda of: of.create_queue(QUEUE + "3", QueueConfig(), START),
    "update a queue": lambda of: of.update_queue(
        QUEUE, QueueConfig(retries=RetryPolicy(max_attempts=1)), START
    ),
    "pause": lambda of: of.set_state(QUEUE, QueueState.PAUSED),
    "purge": lambda of: of.purge_queue(QUEUE, START),
    "delete a queue": lambda of: of.delete_queue(QUEUE, START),
    "delete": lambda of: of.delete_task(f"{QUEUE}/tasks/a", START),
    "run": lambda of: of.run_task(f"{QUEUE}/tasks/b", START),
    "dispatch": lambda of: list(of.dispatch(QUEUE, START)),
    "reset": lambda of: of.reset([QUEUE], START),
}


@pytest.mark.parametrize("what", ASKED)
def test_a_change_that_the_journal_refuses_happens_only_when_it_is_repeated(
    service: Service, disk: Disk, what: str
) -> None:
    before = shown(service)
    disk.room = 0
    for _ in range(2):
        with pytest.raises(ApiError) as raised:
            ASKED[what](service)
        assert raised.value.status is Status.UNAVAILABLE
        assert shown(service) == before
    disk.room = _ENOUGH
    ASKED[what](service)
    assert shown(service) != before


@pytest.mark.parametrize("room", [1, 2])
@pytest.mark.parametrize("what", ASKED)
def test_a_change_of_many_parts_happens_completely_or_not_at_all(
    service: Service, disk: Disk, what: str, room: int
) -> None:
    before, kept = shown(service), (dict(disk.tasks), dict(disk.queues))
    disk.room = room
    try:
        ASKED[what](service)
    except ApiError:
        assert shown(service) == before
        disk.room = _ENOUGH
        service.catch_up()
        assert (disk.tasks, disk.queues) == kept
    else:
        assert shown(service) != before


def test_an_attempt_ends_although_the_journal_refuses_and_is_written_later(
    service: Service, disk: Disk
) -> None:
    (attempt,) = service.dispatch(QUEUE, START)
    disk.room = 0
    service.finish(attempt, 200, START)
    assert [task.task_id for task in service.tasks(QUEUE)] == ["b"]
    assert "a" in disk.tasks
    with pytest.raises(ApiError):
        list(service.dispatch(QUEUE, START))
    disk.room = _ENOUGH
    assert list(service.dispatch(QUEUE, START)) == []
    assert list(disk.tasks) == ["b"]


def test_a_failed_attempt_is_retried_although_the_journal_refused_its_end(
    service: Service, disk: Disk
) -> None:
    (attempt,) = service.dispatch(QUEUE, START)
    disk.room = 0
    service.finish(attempt, 500, START)
    later = START + SECOND
    with pytest.raises(ApiError):
        list(service.dispatch(QUEUE, later))
    disk.room = _ENOUGH
    (again,) = service.dispatch(QUEUE, later)
    assert (again.task.task_id, again.retry_count) == ("a", 1)
    assert disk.tasks["a"] == 2


def test_an_expired_task_is_removed_although_the_journal_refuses(
    service: Service, disk: Disk
) -> None:
    disk.room = 0
    late = START + RETENTION
    assert service.next_event(QUEUE, late) is None
    assert service.tasks(QUEUE) == []
    disk.room = _ENOUGH
    service.catch_up()
    assert disk.tasks == {}


def test_a_late_write_to_the_journal_does_not_undo_a_deletion(service: Service, disk: Disk) -> None:
    (attempt,) = service.dispatch(QUEUE, START)
    disk.room = 0
    service.finish(attempt, 500, START)
    disk.room = _ENOUGH
    service.delete_task(f"{QUEUE}/tasks/a", START)
    service.catch_up()
    assert list(disk.tasks) == ["b"]

"""Queues, tasks and attempts, without input, output or clock."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from django_tasks_cloud_tasks.emulator.errors import ApiError, Status
from django_tasks_cloud_tasks.emulator.state import state_machine
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.state.model import (
    Attempt,
    AttemptResult,
    QueueConfig,
    QueueState,
    RateLimits,
    Task,
)
from django_tasks_cloud_tasks.emulator.state.retries import RetryPolicy
from django_tasks_cloud_tasks.emulator.state.state_machine import (
    QUEUE_TOMBSTONE,
    RETENTION,
    TASK_TOMBSTONE,
    Service,
)
from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

QUEUE = "projects/p/locations/l/queues/q"
START = 1_767_225_600 * SECOND
TARGET = HttpTarget(url="http://localhost/")


def service(**config: Any) -> Service:
    numbers = count(1)
    made = Service(new_id=lambda: str(next(numbers)))
    made.create_queue(QUEUE, QueueConfig(**config), START)
    return made


def create(of: Service, task_id: str | None = None, now: int = START, after: float = 0) -> Task:
    when = now + round(after * SECOND)
    return of.create_task(
        QUEUE, task_id, TARGET, schedule_time=when, deadline=600 * SECOND, now=now
    )


def begin(of: Service, now: int) -> Attempt:
    (attempt,) = of.dispatch(QUEUE, now)
    return attempt


def refused(call: Callable[[], object]) -> tuple[Status, str]:
    with pytest.raises(ApiError) as raised:
        call()
    return raised.value.status, raised.value.message


def test_a_task_is_dispatched_once_and_removed_after_success() -> None:
    of = service()
    task = create(of)
    attempt = begin(of, START)
    assert list(of.dispatch(QUEUE, START)) == []
    of.finish(attempt, 204, START + SECOND)
    assert of.tasks(QUEUE) == []
    assert refused(lambda: of.task(task.name, START))[1].startswith("The task no longer exists")


def test_a_task_waits_for_its_schedule_time() -> None:
    of = service()
    create(of, after=10)
    assert list(of.dispatch(QUEUE, START + 10 * SECOND - 1)) == []
    assert of.next_event(QUEUE, START) == START + 10 * SECOND
    assert begin(of, START + 10 * SECOND).retry_count == 0


def test_tasks_are_dispatched_in_the_order_of_their_schedule_times() -> None:
    of = service()
    for task_id, after in (("c", 3), ("a", 1), ("b", 2), ("a2", 1)):
        create(of, task_id, after=after)
    attempts = of.dispatch(QUEUE, START + 9 * SECOND)
    assert [attempt.task.task_id for attempt in attempts] == ["a", "a2", "b", "c"]


# From a capture of production: the headers of each attempt, and the answer of the handler.
CAPTURED = [
    (503, "0", "0", None),
    (404, "0", "1", "503"),
    (429, "1", "2", "404"),
    (500, "2", "3", "429"),
    (302, "2", "4", "500"),
    (200, "3", "5", "302"),
]


def test_the_headers_of_each_attempt_are_those_of_production() -> None:
    of, now = service(), START
    task = create(of, "the-task")
    for answered, executions, retries, previous in CAPTURED:
        attempt = begin(of, now)
        expected = {
            "User-Agent": "Google-Cloud-Tasks",
            "X-CloudTasks-QueueName": "q",
            "X-CloudTasks-TaskName": "the-task",
            "X-CloudTasks-TaskETA": f"{task.schedule_time / SECOND:.6f}",
            "X-CloudTasks-TaskExecutionCount": executions,
            "X-CloudTasks-TaskRetryCount": retries,
        }
        if previous:
            expected["X-CloudTasks-TaskPreviousResponse"] = previous
            expected["X-CloudTasks-TaskRetryReason"] = ""
        assert attempt.headers() == expected
        of.finish(attempt, answered, now)
        now = max(now, task.schedule_time)
    assert of.tasks(QUEUE) == []


def test_the_attempt_after_a_timeout_reports_504_as_the_previous_response() -> None:
    of = service()
    task = create(of)
    of.finish(begin(of, START), AttemptResult.TIMEOUT, START)
    headers = begin(of, task.schedule_time).headers()
    assert headers["X-CloudTasks-TaskPreviousResponse"] == "504"
    assert headers["X-CloudTasks-TaskExecutionCount"] == "0"
    assert (task.response_count, task.dispatch_count) == (0, 2)


def test_failed_attempts_are_retried_at_the_exact_time_of_the_policy() -> None:
    policy = RetryPolicy(min_backoff=10, max_backoff=300, max_doublings=3)
    of, now = service(retries=policy), START
    task = create(of)
    waits = []
    for _ in range(8):
        of.finish(begin(of, now), 500, now)
        waits.append((task.schedule_time - now) / SECOND)
        assert of.next_event(QUEUE, now) == task.schedule_time
        now = task.schedule_time
    assert waits == [10, 20, 40, 80, 160, 240, 300, 300]


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [
        (RetryPolicy(max_attempts=3), 3),
        (RetryPolicy(max_attempts=1), 1),
        (RetryPolicy(max_attempts=2, max_retry_duration=65, min_backoff=10, max_doublings=0), 5),
        (RetryPolicy(max_attempts=-1, max_retry_duration=65, min_backoff=10, max_doublings=0), 5),
    ],
)
def test_retries_end_by_the_policy(policy: RetryPolicy, attempts: int) -> None:
    of, now, made = service(retries=policy), START, 0
    task = create(of)
    while of.tasks(QUEUE):
        of.finish(begin(of, now), 500, now)
        made, now = made + 1, task.schedule_time
    assert made == attempts


def test_a_queue_limits_the_number_of_concurrent_attempts() -> None:
    of = service(limits=RateLimits(concurrent=2))
    for _ in range(5):
        create(of)
    first, _ = of.dispatch(QUEUE, START)
    assert list(of.dispatch(QUEUE, START)) == []
    assert of.next_event(QUEUE, START) is None
    of.finish(first, 200, START)
    assert len(list(of.dispatch(QUEUE, START))) == 1


def test_the_rate_limit_counts_first_attempts_and_retries() -> None:
    of = service(limits=RateLimits(rate=1, concurrent=1000))
    for _ in range(12):
        create(of)
    attempts = list(of.dispatch(QUEUE, START))
    assert len(attempts) == 10, "the burst"
    of.finish(attempts[0], 500, START)
    when = of.next_event(QUEUE, START)
    assert when is not None
    assert START + SECOND <= when <= START + SECOND + 10
    assert len(list(of.dispatch(QUEUE, when))) == 1


def test_a_paused_queue_dispatches_only_tasks_that_are_run_manually() -> None:
    of = service()
    task = create(of)
    of.set_state(QUEUE, QueueState.PAUSED)
    assert list(of.dispatch(QUEUE, START)) == []
    assert of.next_event(QUEUE, START) is None
    attempt = of.run_task(task.name, START)
    of.finish(attempt, 500, START + SECOND)
    assert task.schedule_time == START + SECOND + SECOND // 10
    of.set_state(QUEUE, QueueState.RUNNING)
    assert begin(of, task.schedule_time).retry_count == 1


def test_a_task_that_is_deleted_while_it_runs_is_not_retried() -> None:
    of = service()
    task = create(of)
    attempt = begin(of, START)
    of.delete_task(task.name, START)
    of.finish(attempt, 500, START)
    assert of.tasks(QUEUE) == []
    assert of.next_event(QUEUE, START) is None


def test_a_task_that_ran_twice_at_once_ends_with_the_first_success() -> None:
    of = service()
    task = create(of)
    first = begin(of, START)
    second = of.run_task(task.name, START)
    of.finish(second, 200, START)
    of.finish(first, 500, START)
    assert of.tasks(QUEUE) == []
    assert of.queue(QUEUE).running == 0


def test_the_name_of_a_deleted_task_stays_in_use_for_a_while() -> None:
    of = service()
    task = create(of, "once")
    taken = (Status.ALREADY_EXISTS, "Requested entity already exists")
    assert refused(lambda: create(of, "once")) == taken
    of.delete_task(task.name, START)
    assert refused(lambda: create(of, "once", START + TASK_TOMBSTONE - 1)) == taken
    create(of, "once", START + TASK_TOMBSTONE)


def test_a_deleted_queue_cannot_be_created_again_for_three_days() -> None:
    of = service()
    of.delete_queue(QUEUE, START)
    status, message = refused(
        lambda: of.create_queue(QUEUE, QueueConfig(), START + QUEUE_TOMBSTONE - 1)
    )
    assert status is Status.FAILED_PRECONDITION
    assert "existed too recently" in message
    of.create_queue(QUEUE, QueueConfig(), START + QUEUE_TOMBSTONE)


def test_a_task_is_deleted_after_31_days() -> None:
    of = service()
    task = create(of)
    of.set_state(QUEUE, QueueState.PAUSED)
    of.set_state(QUEUE, QueueState.RUNNING)
    assert list(of.dispatch(QUEUE, START + RETENTION)) == []
    assert refused(lambda: of.task(task.name, START + RETENTION))[0] is Status.NOT_FOUND


def test_a_queue_is_created_on_demand_unless_it_was_deleted() -> None:
    of = Service(new_id=lambda: "1", create_queues=True)
    create(of)
    assert [queue.name for queue in of.queues()] == [QUEUE]
    of.delete_queue(QUEUE, START)
    assert refused(lambda: create(of))[0] is Status.NOT_FOUND


def test_deleted_tasks_use_no_memory() -> None:
    of = service()
    create(of, "stays", after=1)
    for _ in range(1000):
        of.delete_task(create(of, after=100).name, START)
    assert len(of.queue(QUEUE).waiting) < 200
    for _ in range(1000):
        attempt = of.run_task(create(of, after=100).name, START)
        of.finish(attempt, 200, START)
    assert len(of.queue(QUEUE).waiting) < 200
    assert begin(of, START + SECOND).task.task_id == "stays"
    of.purge_queue(QUEUE, START)
    assert of.queue(QUEUE).waiting == []


def test_a_queue_remembers_a_limited_number_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_machine, "MOST_TOMBSTONES", 10)
    of = service()
    for number in range(20):
        of.delete_task(create(of, f"t{number}").name, START)
    assert list(of.queue(QUEUE).tombstones) == [f"t{number}" for number in range(10, 20)]


class AnyOrderOfEvents(RuleBasedStateMachine):
    """A test with random events: no order of events loses a task or exceeds the limits."""

    def __init__(self) -> None:
        super().__init__()
        self.of = service(limits=RateLimits(rate=5, concurrent=3), retries=RetryPolicy())
        self.now = START
        self.running: list[Attempt] = []
        self.alive: set[str] = set()

    @rule(after=st.floats(0, 100))
    def create(self, after: float) -> None:
        self.alive.add(create(self.of, None, self.now, after).task_id)

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    @rule()
    def dispatch(self) -> None:
        paused = self.of.queue(QUEUE).state is QueueState.PAUSED
        started = list(self.of.dispatch(QUEUE, self.now))
        assert not (paused and started)
        assert all(attempt.record.schedule_time <= self.now for attempt in started)
        self.running += started
        assert len(self.running) <= 3

    @rule(data=st.data(), result=st.sampled_from([200, 404, 500, AttemptResult.TIMEOUT]))
    def finish(self, data: st.DataObject, result: int | AttemptResult) -> None:
        if self.running:
            attempt = data.draw(st.sampled_from(self.running))
            self.running.remove(attempt)
            self.of.finish(attempt, result, self.now)
            if result == 200:
                self.alive.discard(attempt.task.task_id)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.alive:
            task_id = data.draw(st.sampled_from(sorted(self.alive)))
            self.of.delete_task(f"{QUEUE}/tasks/{task_id}", self.now)
            self.alive.remove(task_id)

    @rule(state=st.sampled_from(QueueState))
    def pause_or_resume(self, state: QueueState) -> None:
        self.of.set_state(QUEUE, state)

    @rule()
    def purge(self) -> None:
        self.of.purge_queue(QUEUE, self.now)
        self.alive.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert {task.task_id for task in self.of.tasks(QUEUE)} == self.alive

    @invariant()
    def what_runs_is_counted(self) -> None:
        assert self.of.queue(QUEUE).running == len(self.running)

    @invariant()
    def the_next_event_is_when_something_happens(self) -> None:
        when = self.of.next_event(QUEUE, self.now)
        due = [task.schedule_time for task in self.of.tasks(QUEUE) if task.order is not None]
        may = self.of.queue(QUEUE).state is QueueState.RUNNING and len(self.running) < 3
        assert (when is not None) == bool(due and may)
        assert when is None or when >= min(self.now, *due)


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase

"""The state machine of queues, tasks and attempts. It has no input, output or clock.

Each method is an event: a request, or something that happened, at a time (`now`, nanoseconds since
the epoch). It changes the state, and returns a result or raises `ApiError`. The scheduler, a test
or a simulation drives the state machine with three methods:

- `dispatch(queue, now)` returns the attempts that begin now. The caller makes them.
- `finish(attempt, result, now)` reports how an attempt ended.
- `next_event(queue, now)` returns the time of the next call of `dispatch`.

A task waits in the heap of its queue, sorted by schedule time. Dispatching a task removes it from
the heap. A failed attempt puts the task back with a later time. Deleting a task leaves its entry in
the heap, and the entry is skipped later. The state is changed in place, because a copy for every
event would be too slow with a hundred thousand tasks.

A request is recorded in the journal before it changes the state. If the journal refuses, nothing
changes. Some events have happened anyway: an attempt has ended, or a task has passed its retention.
If the journal refuses to record such an event, `catch_up` records it later.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ...core.errors import InvalidNameError
from ...core.names import QueueName, is_task_id
from ..errors import (
    ApiError,
    Status,
    invalid_task_id,
    invalid_task_name,
    no_queue,
    not_found,
    task_gone,
)
from .journal import Journal, NullJournal
from .limits import SECOND, TokenBucket
from .model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Queue,
    QueueConfig,
    QueueState,
    RateLimits,
    Task,
)
from .retries import RetryPolicy
from .targets import HttpTarget, Target

TASK_TOMBSTONE = 24 * 3600 * SECOND
"""How long a task's name stays reserved after the task is removed."""

QUEUE_TOMBSTONE = 3 * 24 * 3600 * SECOND
"""How long a deleted queue's name stays reserved."""

MOST_TOMBSTONES = 200_000
"""How many names a queue remembers. Production remembers more, which needs more memory."""

RETENTION = 31 * 24 * 3600 * SECOND
"""The longest time that a task is kept."""

_FEW = 64  # entries in a heap that need no cleaning


class Service:
    """All queues of all projects.

    Args:
        new_id: makes the id of a task that is created without one.
        create_queues: whether a task may be created in a queue that does not exist yet.
        journal: records every change.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[], str],
        create_queues: bool = False,
        journal: Journal | None = None,
    ) -> None:
        self._new_id = new_id
        self._create_queues = create_queues
        self._journal = journal or NullJournal()
        self._queues: dict[str, Queue] = {}
        self._deleted_queues: dict[str, int] = {}
        self._order = 0
        self._late: dict[str, Callable[[], None]] = {}

    # Queues

    def create_queue(self, name: str, config: QueueConfig, now: int) -> Queue:
        """Create a queue. `name` must be valid."""
        if name in self._queues:
            raise ApiError(Status.ALREADY_EXISTS, "Queue already exists")
        if now < self._deleted_queues.get(name, now):
            raise ApiError(
                Status.FAILED_PRECONDITION,
                "The queue cannot be created because a queue with this name existed too recently.",
            )
        queue = _queue(name, config, now)
        self._journal.queue_changed(queue)
        self._deleted_queues.pop(name, None)
        self._queues[name] = queue
        return queue

    def allow_again(self, name: str) -> None:
        """Release the name of a deleted queue."""
        self._deleted_queues.pop(name, None)

    def queue(self, name: str) -> Queue:
        """The queue with that name."""
        queue = self._queues.get(name)
        if queue is None:
            raise no_queue()
        return queue

    def has_queue(self, name: str) -> bool:
        """Whether a queue with that name exists."""
        return name in self._queues

    def queues(self, parent: str = "") -> list[Queue]:
        """The queues below `projects/P/locations/L`, or all queues, sorted by name."""
        prefix = f"{parent}/queues/" if parent else ""
        return [queue for name, queue in sorted(self._queues.items()) if name.startswith(prefix)]

    def update_queue(self, name: str, config: QueueConfig, now: int) -> Queue:
        """Change a queue, or create it if it does not exist, as the API does."""
        queue = self._queues.get(name)
        if queue is None:
            return self.create_queue(name, config, now)
        before = queue.config
        queue.config = config
        with _undo_if_refused(lambda: setattr(queue, "config", before)):
            self._journal.queue_changed(queue)
        if config.limits != before.limits:
            queue.bucket = _bucket(config.limits, now)
        return queue

    def delete_queue(self, name: str, now: int) -> None:
        """Delete a queue and its tasks."""
        queue = self._queues.get(name)
        if queue is None:
            raise not_found()
        until = now + QUEUE_TOMBSTONE
        self._journal.queue_deleted(name, until)
        self._deleted_queues[name] = until
        del self._queues[name]
        for task in queue.tasks.values():
            self._late.pop(task.name, None)
        queue.tasks.clear()  # So that `finish` puts no task back.

    def purge_queue(self, name: str, now: int) -> Queue:
        """Delete all tasks of a queue."""
        queue = self.queue(name)
        before, tasks = queue.purge_time, list(queue.tasks.values())
        queue.purge_time = now
        with (
            _undo_if_refused(lambda: setattr(queue, "purge_time", before)),
            self._journal.together(),
        ):
            self._journal.queue_changed(queue)
            for task in tasks:
                self._journal.task_removed(task, now + TASK_TOMBSTONE)
        for task in tasks:
            self._late.pop(task.name, None)
            self._forget(queue, task, now)
        queue.waiting.clear()
        return queue

    def set_state(self, name: str, state: QueueState) -> Queue:
        """Pause or resume a queue."""
        queue = self.queue(name)
        before = queue.state
        queue.state = state
        with _undo_if_refused(lambda: setattr(queue, "state", before)):
            self._journal.queue_changed(queue)
        return queue

    def reset(self, queues: Iterable[str], now: int) -> None:
        """Remove all queues and tasks, and create these queues.

        Attempts under way have no effect when they end.
        """
        made = {name: _queue(name, QueueConfig(), now) for name in queues}
        with self._journal.together():
            self._journal.emptied()
            for queue in made.values():
                self._journal.queue_changed(queue)
        for queue in self._queues.values():
            queue.tasks.clear()
        self._queues = made
        self._deleted_queues.clear()
        self._late.clear()

    # Restoring what a journal recorded

    def restore_queue(self, name: str, config: QueueConfig, now: int) -> Queue:
        """Restore a queue."""
        queue = self._queues[name] = _queue(name, config, now)
        return queue

    def restore_deleted_queue(self, name: str, until: int) -> None:
        """Restore the name of a deleted queue that is still reserved."""
        self._deleted_queues[name] = until

    def restore_task(self, task: Task) -> None:
        """Restore a task."""
        queue = self._queues[task.queue_name]
        queue.tasks[task.task_id] = task
        self._schedule(queue, task)

    def restore_tombstone(self, name: str, until: int, now: int) -> None:
        """Restore the name of a removed task that is still reserved."""
        queue_name, task_id = split_task_name(name)
        if until > now and queue_name in self._queues:
            self._queues[queue_name].tombstones[task_id] = until

    # Tasks

    def create_task(
        self,
        queue_name: str,
        task_id: str | None,
        target: Target,
        *,
        schedule_time: int | None,
        deadline: int,
        now: int,
        retries: RetryPolicy | None = None,
    ) -> Task:
        """Put a task into a queue. A schedule time in the past means now."""
        queue = known = self._queues.get(queue_name)
        if queue is None:
            queue = self._queue_on_demand(queue_name, now)
        if task_id is None:
            task_id = self._new_id()
        elif task_id in queue.tasks or now < queue.tombstones.get(task_id, now):
            raise ApiError(Status.ALREADY_EXISTS, "Requested entity already exists")
        task = Task(
            queue_name=queue.name,
            task_id=task_id,
            target=target,
            create_time=now,
            schedule_time=max(schedule_time or now, now),
            deadline=deadline,
            retries=retries,
        )
        if known is None:
            with self._journal.together():
                self._journal.queue_changed(queue)
                self._journal.task_changed(task)
            self._queues[queue_name] = queue
        else:
            self._journal.task_changed(task)
        queue.tasks[task_id] = task
        self._schedule(queue, task)
        return task

    def task(self, name: str, now: int) -> Task:
        """The task with that name."""
        queue_name, task_id = split_task_name(name)
        queue = self._queues.get(queue_name)
        task = queue.tasks.get(task_id) if queue else None
        if task is None:
            if queue and now < queue.tombstones.get(task_id, now):
                raise task_gone()
            raise not_found()
        return task

    def tasks(self, queue_name: str) -> list[Task]:
        """The tasks of a queue, sorted by schedule time."""
        tasks = self.queue(queue_name).tasks.values()
        return sorted(tasks, key=lambda task: (task.schedule_time, task.name))

    def delete_task(self, name: str, now: int) -> None:
        """Delete a task. Its attempts under way continue, but do not put it back."""
        task = self.task(name, now)
        self._remove(self._queues[split_task_name(name)[0]], task, now)

    def run_task(self, name: str, now: int) -> Attempt:
        """Dispatch a task now, regardless of the state and the limits of its queue."""
        task = self.task(name, now)
        queue = self._queues[split_task_name(name)[0]]
        return self._begin(queue, task, now)

    # Attempts

    def dispatch(self, queue_name: str, now: int) -> Iterator[Attempt]:
        """Begin every attempt that is due in the queue and within its limits.

        Raises:
            ApiError: the journal refuses. What is due stays due.
        """
        self.catch_up()
        queue = self._queues.get(queue_name)
        while queue is not None:
            due = self._first(queue, now)
            if due is None or max(due, queue.held_until) > now:
                return
            if not self._may_begin(queue) or not queue.bucket.take(now):
                return
            with _undo_if_refused(queue.bucket.give_back):
                attempt = self._begin(queue, queue.tasks[queue.waiting[0][2]], now)
            heapq.heappop(queue.waiting)
            yield attempt

    def catch_up(self) -> None:
        """Record what the journal refused at the time when it happened.

        Raises:
            ApiError: the journal still refuses.
        """
        for name in list(self._late):
            self._late[name]()
            del self._late[name]

    def next_event(self, queue_name: str, now: int) -> int | None:
        """The time of the next attempt; None if there is none before another event."""
        queue = self._queues.get(queue_name)
        if queue is None or not self._may_begin(queue):
            return None
        due = self._first(queue, now)
        return None if due is None else max(due, queue.held_until, queue.bucket.next_token(now))

    def finish(
        self, attempt: Attempt, result: int | AttemptResult, now: int, retry_after: int = 0
    ) -> None:
        """An attempt ended with an HTTP status, or without a response.

        Args:
            retry_after: nanoseconds that the response asked to wait for. With 429 and 503 the whole
                queue waits, because the service slows down a queue whose handler is overloaded.
                With another status it has no effect.
        """
        queue, task, record = attempt.queue, attempt.task, attempt.record
        queue.running -= 1
        record.answered = isinstance(result, int)
        record.status = result if isinstance(result, int) else result.http_status
        if record.answered:
            record.response_time = now
            task.response_count += 1
            # HTTP tasks do not count 5xx responses, App Engine tasks count all. This was captured
            # from production.
            counts = record.status < 500 or not isinstance(task.target, HttpTarget)  # noqa: PLR2004
            task.execution_count += counts
        if not record.answered or record.status not in {429, 503}:
            retry_after = 0
        if retry_after:
            queue.held_until = max(queue.held_until, now + retry_after)
        if queue.tasks.get(task.task_id) is not task:
            return  # The task was removed while this attempt ran.
        policy = task.retries or queue.config.retries
        first = task.first_attempt or record
        if 200 <= record.status < 300 or policy.exhausted(  # noqa: PLR2004
            attempts=task.dispatch_count,
            since_first=(now - first.dispatch_time) / SECOND,
        ):
            self._remove(queue, task, now, late=True)
            return
        backoff = round(policy.backoff(task.dispatch_count) * SECOND)
        # A wait longer than the retention makes no difference.
        task.schedule_time = now + min(max(backoff, retry_after), RETENTION)
        self._schedule(queue, task)
        self._record_late(task.name, lambda: self._journal.task_changed(task))

    # Internals

    def _record_late(self, task_name: str, record: Callable[[], None]) -> None:
        """Record what has already happened, or keep it for `catch_up` if the journal refuses."""
        self._late.pop(task_name, None)
        try:
            record()
        except ApiError:
            self._late[task_name] = record

    def _queue_on_demand(self, name: str, now: int) -> Queue:
        """A new queue for a task whose queue does not exist yet."""
        if not self._create_queues or now < self._deleted_queues.get(name, now):
            raise no_queue()
        return _queue(name, QueueConfig(), now)

    def _schedule(self, queue: Queue, task: Task) -> None:
        self._order += 1
        task.order = self._order
        if len(queue.waiting) > 2 * len(queue.tasks) + _FEW:
            # Most entries belong to tasks that no longer wait: build the heap again without them.
            queue.waiting = [
                (other.schedule_time, other.order, other.task_id)
                for other in queue.tasks.values()
                if other.order is not None and other is not task
            ]
            heapq.heapify(queue.waiting)
        heapq.heappush(queue.waiting, (task.schedule_time, self._order, task.task_id))

    def _first(self, queue: Queue, now: int) -> int | None:
        """The earliest schedule time of a waiting task.

        It removes entries that are no longer valid, and tasks that have passed their retention.
        """
        while queue.waiting:
            due, order, task_id = queue.waiting[0]
            task = queue.tasks.get(task_id)
            if task is not None and task.order == order:
                if now < task.create_time + RETENTION:
                    return due
                self._remove(queue, task, now, late=True)
            heapq.heappop(queue.waiting)
        return None

    def _may_begin(self, queue: Queue) -> bool:
        return queue.state is QueueState.RUNNING and queue.running < queue.config.limits.concurrent

    def _begin(self, queue: Queue, task: Task, now: int) -> Attempt:
        record = AttemptRecord(task.schedule_time, now)
        previous = task.last_attempt
        attempt = Attempt(
            queue,
            task,
            record,
            task.dispatch_count,
            task.execution_count,
            previous,
        )
        order, first = task.order, task.first_attempt

        def undo() -> None:
            task.order, task.dispatch_count = order, attempt.retry_count
            task.first_attempt, task.last_attempt = first, previous

        task.order = None
        task.dispatch_count += 1
        task.first_attempt = task.first_attempt or record
        task.last_attempt = record
        with _undo_if_refused(undo):
            self._journal.task_changed(task)
        self._late.pop(task.name, None)
        queue.running += 1
        return attempt

    def _remove(self, queue: Queue, task: Task, now: int, *, late: bool = False) -> None:
        """Record that a task is removed, and remove it.

        Args:
            late: whether the task is removed even if the journal refuses.
        """
        until = now + TASK_TOMBSTONE
        if late:
            self._record_late(task.name, lambda: self._journal.task_removed(task, until))
        else:
            self._journal.task_removed(task, until)
            self._late.pop(task.name, None)
        self._forget(queue, task, now)

    def _forget(self, queue: Queue, task: Task, now: int) -> None:
        """Remove a task, and reserve its name."""
        task.order = None
        queue.tasks.pop(task.task_id, None)
        # The names are in the order of insertion, so the oldest is first. Names that are no longer
        # reserved are dropped when others are added.
        while queue.tombstones:
            oldest = next(iter(queue.tombstones))
            if queue.tombstones[oldest] > now and len(queue.tombstones) < MOST_TOMBSTONES:
                break
            del queue.tombstones[oldest]
        queue.tombstones.pop(task.task_id, None)
        queue.tombstones[task.task_id] = now + TASK_TOMBSTONE


@contextmanager
def _undo_if_refused(undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` to revert a change if the journal refuses it."""
    try:
        yield
    except BaseException:
        undo()
        raise


def split_task_name(name: str) -> tuple[str, str]:
    """Queue name and task id of a task name."""
    queue_name, separator, task_id = name.partition("/tasks/")
    try:
        queue_name = str(QueueName.parse(queue_name))
    except InvalidNameError:
        raise invalid_task_name() from None
    if not separator:
        raise invalid_task_name()
    if not is_task_id(task_id):
        raise invalid_task_id(task_id)
    return queue_name, task_id


def _queue(name: str, config: QueueConfig, now: int) -> Queue:
    return Queue(name, config, _bucket(config.limits, now))


def _bucket(limits: RateLimits, now: int) -> TokenBucket:
    return TokenBucket.full(limits.rate, limits.burst, now)

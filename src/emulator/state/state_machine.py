"""The state machine of queues, tasks and attempts. It has no input, output or clock.

Each method is an event: a request, or something else that happened. `now` is the time of the event
in nanoseconds since the epoch. The method changes the state, and returns a result or raises
`ApiError`. The scheduler, a test or a simulation drives the state machine with three methods:

- `dispatch(queue, now)` returns the attempts that begin now. The caller makes them.
- `finish(attempt, result, now)` reports how an attempt ended.
- `next_event(queue, now)` returns the time of the next call of `dispatch`.

A task waits in the heap of its queue, sorted by schedule time. Dispatching a task removes it from
the heap. A failed attempt puts the task back with a later time. Deleting a task leaves its entry in
the heap, and the entry is skipped later. The state is changed in place, because a copy for every
event would be too slow with a hundred thousand tasks.

A request is recorded in the journal before it changes the state. If the journal refuses, nothing
changes. Two events cannot be refused: the end of an attempt, and the end of a task's retention. If
the journal refuses to record such an event, `catch_up` records it later.
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
"""How long a task's name stays reserved after the task is removed, in nanoseconds."""

QUEUE_TOMBSTONE = 3 * 24 * 3600 * SECOND
"""How long a deleted queue's name stays reserved, in nanoseconds."""

MOST_TOMBSTONES = 200_000
"""The maximum number of reserved task names in a queue. Production keeps more. The emulator limits
the number to save memory."""

RETENTION = 31 * 24 * 3600 * SECOND
"""How long a task is kept at most after its creation, in nanoseconds."""

_FEW = 64  # invalid entries that a heap may always contain without being rebuilt


class Service:
    """All queues of all projects.

    Args:
        new_id: returns an id for a task that is created without a name.
        create_queues: whether creating a task also creates its queue if that does not exist.
        journal: records every change; None to record nothing.
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
        """Create a queue. The caller has checked that `name` is valid.

        Raises:
            ApiError: the queue exists, its name is still reserved, or the journal refuses.
        """
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
        """Return the queue with this full name.

        Raises:
            ApiError: NOT_FOUND.
        """
        queue = self._queues.get(name)
        if queue is None:
            raise no_queue()
        return queue

    def has_queue(self, name: str) -> bool:
        """Return whether a queue with this full name exists."""
        return name in self._queues

    def queues(self, parent: str = "") -> list[Queue]:
        """Return the queues in `projects/P/locations/L`, or all queues, sorted by name."""
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
        queue.tasks.clear()  # Then `finish` does not put a task back.

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
        """Remove all queues, tasks and reserved names, and create the queues with these names.

        Attempts in progress have no effect when they end.
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

    # Restoring the state from a journal. These methods record nothing.

    def restore_queue(self, name: str, config: QueueConfig, now: int) -> Queue:
        """Restore a queue, and return it."""
        queue = self._queues[name] = _queue(name, config, now)
        return queue

    def restore_deleted_queue(self, name: str, until: int) -> None:
        """Restore the name of a deleted queue. It is reserved until `until`."""
        self._deleted_queues[name] = until

    def restore_task(self, task: Task) -> None:
        """Restore a task. Its queue must be restored before.

        Raises:
            KeyError: its queue does not exist.
        """
        queue = self._queues[task.queue_name]
        queue.tasks[task.task_id] = task
        self._schedule(queue, task)

    def restore_tombstone(self, name: str, until: int, now: int) -> None:
        """Restore the name of a removed task if its queue exists and `until` is after `now`."""
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
        """Create a task.

        Args:
            queue_name: the full name of its queue.
            task_id: the id; None for an id from `new_id`.
            target: the request to make.
            schedule_time: nanoseconds since the epoch; None or a time in the past for now.
            deadline: the dispatch deadline, in nanoseconds.
            now: the time of this event.
            retries: the retry policy of the task; None for that of its queue.

        Raises:
            ApiError: the queue does not exist, the name is taken, or the journal refuses.
        """
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
        """Return the task with this full name.

        Raises:
            ApiError: the name is invalid, or NOT_FOUND.
        """
        queue_name, task_id = split_task_name(name)
        queue = self._queues.get(queue_name)
        task = queue.tasks.get(task_id) if queue else None
        if task is None:
            if queue and now < queue.tombstones.get(task_id, now):
                raise task_gone()
            raise not_found()
        return task

    def tasks(self, queue_name: str) -> list[Task]:
        """Return the tasks of a queue, sorted by schedule time and name.

        Raises:
            ApiError: NOT_FOUND, the queue does not exist.
        """
        tasks = self.queue(queue_name).tasks.values()
        return sorted(tasks, key=lambda task: (task.schedule_time, task.name))

    def delete_task(self, name: str, now: int) -> None:
        """Delete a task. Its attempts in progress continue, but they do not put it back."""
        task = self.task(name, now)
        self._remove(self._queues[split_task_name(name)[0]], task, now)

    def run_task(self, name: str, now: int) -> Attempt:
        """Dispatch a task now, even if its queue is paused or at its limits.

        Returns:
            The attempt. The caller makes it.
        """
        task = self.task(name, now)
        queue = self._queues[split_task_name(name)[0]]
        return self._begin(queue, task, now)

    # Attempts

    def dispatch(self, queue_name: str, now: int) -> Iterator[Attempt]:
        """Begin all attempts that are due in the queue and within its limits.

        Returns:
            An iterator over the attempts. The caller makes them.

        Raises:
            ApiError: the journal refuses. The task stays due.
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
        """Record the events that the journal refused to record when they happened.

        Raises:
            ApiError: the journal still refuses.
        """
        for name in list(self._late):
            self._late[name]()
            del self._late[name]

    def next_event(self, queue_name: str, now: int) -> int | None:
        """Return the time of the next attempt.

        None means that there is no attempt before another event, such as a new task or the end of
        an attempt.
        """
        queue = self._queues.get(queue_name)
        if queue is None or not self._may_begin(queue):
            return None
        due = self._first(queue, now)
        return None if due is None else max(due, queue.held_until, queue.bucket.next_token(now))

    def finish(
        self, attempt: Attempt, result: int | AttemptResult, now: int, retry_after: int = 0
    ) -> None:
        """Report that an attempt ended. The task is removed, or put back for its next attempt.

        Args:
            attempt: the attempt.
            result: the HTTP status of the response, or the reason why there is no response.
            now: the time of this event.
            retry_after: the wait that the response requested, in nanoseconds. With 429 and 503 the
                whole queue waits, because the service slows down a queue whose handler is
                overloaded. With another status it has no effect.
        """
        queue, task, record = attempt.queue, attempt.task, attempt.record
        queue.running -= 1
        record.answered = isinstance(result, int)
        record.status = result if isinstance(result, int) else result.http_status
        if record.answered:
            record.response_time = now
            task.response_count += 1
            # The count of an HTTP task excludes 5xx responses. The count of an App Engine task
            # includes all responses. Both were captured from production.
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
        # A longer wait than the retention has the same effect, because the task is removed before.
        task.schedule_time = now + min(max(backoff, retry_after), RETENTION)
        self._schedule(queue, task)
        self._record_late(task.name, lambda: self._journal.task_changed(task))

    # Internals

    def _record_late(self, task_name: str, record: Callable[[], None]) -> None:
        """Record an event that cannot be refused. If the journal refuses, keep it for `catch_up`.

        A later event of the same task replaces an earlier one.
        """
        self._late.pop(task_name, None)
        try:
            record()
        except ApiError:
            self._late[task_name] = record

    def _queue_on_demand(self, name: str, now: int) -> Queue:
        """Return a new queue for a task whose queue does not exist. It is not added yet.

        Raises:
            ApiError: NOT_FOUND, queues are not created on demand, or the name is reserved.
        """
        if not self._create_queues or now < self._deleted_queues.get(name, now):
            raise no_queue()
        return _queue(name, QueueConfig(), now)

    def _schedule(self, queue: Queue, task: Task) -> None:
        self._order += 1
        task.order = self._order
        if len(queue.waiting) > 2 * len(queue.tasks) + _FEW:
            # Most entries belong to tasks that no longer wait. Rebuild the heap without them.
            queue.waiting = [
                (other.schedule_time, other.order, other.task_id)
                for other in queue.tasks.values()
                if other.order is not None and other is not task
            ]
            heapq.heapify(queue.waiting)
        heapq.heappush(queue.waiting, (task.schedule_time, self._order, task.task_id))

    def _first(self, queue: Queue, now: int) -> int | None:
        """Return the earliest schedule time of a waiting task; None if no task waits.

        This removes invalid entries from the heap, and tasks after the end of their retention.
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
            queue: the queue of the task.
            task: the task.
            now: the time of this event.
            late: whether to remove the task even if the journal refuses.
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
        # The dictionary keeps the order of insertion, so the oldest name is first. Adding a name
        # drops the names whose reservation has ended.
        while queue.tombstones:
            oldest = next(iter(queue.tombstones))
            if queue.tombstones[oldest] > now and len(queue.tombstones) < MOST_TOMBSTONES:
                break
            del queue.tombstones[oldest]
        queue.tombstones.pop(task.task_id, None)
        queue.tombstones[task.task_id] = now + TASK_TOMBSTONE


@contextmanager
def _undo_if_refused(undo: Callable[[], None]) -> Iterator[None]:
    """A context that calls `undo` if its body raises, for example because the journal refuses."""
    try:
        yield
    except BaseException:
        undo()
        raise


def split_task_name(name: str) -> tuple[str, str]:
    """Split a full task name into the full queue name and the task id.

    Raises:
        ApiError: INVALID_ARGUMENT, the name is not a task name.
    """
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

"""Theory of operation: queues, tasks and attempts, without any input, output or clock.

Each method is an event: what was asked or happened, and the time (`now`, nanoseconds since the
epoch). It changes the state, and answers or raises `ApiError`. Two questions drive everything
else: `dispatch(queue, now)` hands out the attempts that begin now, and `next_event(queue, now)`
tells when to ask again. Whoever drives this (the server, a test, a simulation) makes each attempt
in its own way and reports with `finish(attempt, result, now)`.

A task waits in its queue's heap by schedule time. Dispatching takes it out; a failed attempt puts
it back at a later time; deleting it leaves its entry behind, to be skipped when it comes up.
State is changed in place: at a hundred thousand tasks a copy for every event would be all that
the emulator does.

What is asked for is journaled first: where the journal refuses, nothing has changed. What has
happened all the same (an attempt ended, a task is over age) is told to the journal late, by
`catch_up`, if it refuses at the time.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..core.errors import InvalidNameError
from ..core.names import QueueName, is_task_id
from ..core.retries import RetryPolicy
from .errors import (
    ApiError,
    Status,
    invalid_task_id,
    invalid_task_name,
    no_queue,
    not_found,
    task_gone,
)
from .journal import Forgetful, Journal
from .limits import SECOND, TokenBucket
from .targets import HttpTarget, Target
from .values import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Queue,
    QueueConfig,
    QueueState,
    RateLimits,
    Task,
)

TASK_TOMBSTONE = 24 * 3600 * SECOND
"""How long a task's name stays taken after the task is gone."""

QUEUE_TOMBSTONE = 3 * 24 * 3600 * SECOND
"""How long a deleted queue's name stays taken."""

MOST_TOMBSTONES = 200_000
"""How many names a queue remembers: production's memory is larger, and not on a laptop."""

_FEW = 64

RETENTION = 31 * 24 * 3600 * SECOND
"""How long a task lives at most."""


class Service:
    """All queues of all projects.

    Args:
        new_id: makes the id of a task that was created without one.
        create_queues: whether a task may be created in a queue that does not exist yet.
        journal: is told of every change.
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
        self._journal = journal or Forgetful()
        self._queues: dict[str, Queue] = {}
        self._deleted_queues: dict[str, int] = {}
        self._order = 0
        self._late: dict[str, Callable[[], None]] = {}

    # Queues

    def create_queue(self, name: str, config: QueueConfig, now: int) -> Queue:
        """Make a queue; `name` is valid."""
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
        """Let a deleted queue be made again at once."""
        self._deleted_queues.pop(name, None)

    def queue(self, name: str) -> Queue:
        """The queue of that name."""
        queue = self._queues.get(name)
        if queue is None:
            raise no_queue()
        return queue

    def has_queue(self, name: str) -> bool:
        """Whether there is a queue of that name."""
        return name in self._queues

    def queues(self, parent: str = "") -> list[Queue]:
        """The queues below `projects/P/locations/L`, or all, by name."""
        prefix = f"{parent}/queues/" if parent else ""
        return [queue for name, queue in sorted(self._queues.items()) if name.startswith(prefix)]

    def update_queue(self, name: str, config: QueueConfig, now: int) -> Queue:
        """Change a queue, or make it if it does not exist, as the API does."""
        queue = self._queues.get(name)
        if queue is None:
            return self.create_queue(name, config, now)
        before = queue.config
        queue.config = config
        with _or_back(lambda: setattr(queue, "config", before)):
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
        queue.tasks.clear()  # What is under way shall find nothing to come back to.

    def purge_queue(self, name: str, now: int) -> Queue:
        """Delete all tasks of a queue."""
        queue = self.queue(name)
        before, tasks = queue.purge_time, list(queue.tasks.values())
        queue.purge_time = now
        with _or_back(lambda: setattr(queue, "purge_time", before)), self._journal.together():
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
        with _or_back(lambda: setattr(queue, "state", before)):
            self._journal.queue_changed(queue)
        return queue

    def reset(self, queues: Iterable[str], now: int) -> None:
        """Forget all queues and tasks but for these queues, which begin anew.

        Attempts under way end without consequence.
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

    # What a journal kept

    def restore_queue(self, name: str, config: QueueConfig, now: int) -> Queue:
        """A queue as it was."""
        queue = self._queues[name] = _queue(name, config, now)
        return queue

    def restore_deleted_queue(self, name: str, until: int) -> None:
        """A name of a queue that is still taken."""
        self._deleted_queues[name] = until

    def restore_task(self, task: Task) -> None:
        """A task as it was."""
        queue = self._queues[task.queue_name]
        queue.tasks[task.task_id] = task
        self._schedule(queue, task)

    def restore_tombstone(self, name: str, until: int, now: int) -> None:
        """A name of a task that is still taken."""
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
        """Put a task into a queue. A schedule time that is past means now."""
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
        """The task of that name."""
        queue_name, task_id = split_task_name(name)
        queue = self._queues.get(queue_name)
        task = queue.tasks.get(task_id) if queue else None
        if task is None:
            if queue and now < queue.tombstones.get(task_id, now):
                raise task_gone()
            raise not_found()
        return task

    def tasks(self, queue_name: str) -> list[Task]:
        """The tasks of a queue, by schedule time."""
        tasks = self.queue(queue_name).tasks.values()
        return sorted(tasks, key=lambda task: (task.schedule_time, task.name))

    def delete_task(self, name: str, now: int) -> None:
        """Delete a task; attempts under way run on, but do not bring it back."""
        task = self.task(name, now)
        self._remove(self._queues[split_task_name(name)[0]], task, now)

    def run_task(self, name: str, now: int) -> Attempt:
        """Dispatch a task at once, whatever its queue's state and limits."""
        task = self.task(name, now)
        queue = self._queues[split_task_name(name)[0]]
        return self._begin(queue, task, now)

    # Attempts

    def dispatch(self, queue_name: str, now: int) -> Iterator[Attempt]:
        """Begin every attempt of the queue that is due and within its limits.

        Raises:
            ApiError: the journal refuses; what is due stays due.
        """
        self.catch_up()
        queue = self._queues.get(queue_name)
        while queue is not None:
            due = self._first(queue, now)
            if due is None or max(due, queue.held_until) > now:
                return
            if not self._may_begin(queue) or not queue.bucket.take(now):
                return
            with _or_back(queue.bucket.give_back):
                attempt = self._begin(queue, queue.tasks[queue.waiting[0][2]], now)
            heapq.heappop(queue.waiting)
            yield attempt

    def catch_up(self) -> None:
        """Tell the journal what it refused to be told when it happened.

        Raises:
            ApiError: it still refuses.
        """
        for name in list(self._late):
            self._late[name]()
            del self._late[name]

    def next_event(self, queue_name: str, now: int) -> int | None:
        """When `dispatch` will next have something; None until something else happens."""
        queue = self._queues.get(queue_name)
        if queue is None or not self._may_begin(queue):
            return None
        due = self._first(queue, now)
        return None if due is None else max(due, queue.held_until, queue.bucket.next_token(now))

    def finish(
        self, attempt: Attempt, result: int | AttemptResult, now: int, retry_after: int = 0
    ) -> None:
        """An attempt ended with an HTTP status, or without an answer.

        Args:
            retry_after: nanoseconds that the answer asked to be left alone for. With 429 and 503
                the whole queue is, as the service slows a queue down whose handler says that it
                is too much; with others it means nothing.
        """
        queue, task, record = attempt.queue, attempt.task, attempt.record
        queue.running -= 1
        record.answered = isinstance(result, int)
        record.status = result if isinstance(result, int) else result.http_status
        if record.answered:
            record.response_time = now
            task.response_count += 1
            # HTTP tasks leave 5xx answers out, App Engine counts all, as captured from production.
            counts = record.status < 500 or not isinstance(task.target, HttpTarget)  # noqa: PLR2004
            task.execution_count += counts
        if not record.answered or record.status not in {429, 503}:
            retry_after = 0
        if retry_after:
            queue.held_until = max(queue.held_until, now + retry_after)
        if queue.tasks.get(task.task_id) is not task:
            return  # Deleted, or done by another attempt, while this one ran.
        policy = task.retries or queue.config.retries
        first = task.first_attempt or record
        if 200 <= record.status < 300 or policy.exhausted(  # noqa: PLR2004
            attempts=task.dispatch_count,
            since_first=(now - first.dispatch_time) / SECOND,
        ):
            self._remove(queue, task, now, late=True)
            return
        backoff = round(policy.backoff(task.dispatch_count) * SECOND)
        # No task outlives its retention, however long a wait is asked for.
        task.schedule_time = now + min(max(backoff, retry_after), RETENTION)
        self._schedule(queue, task)
        self._tell_late(task.name, lambda: self._journal.task_changed(task))

    # The inside

    def _tell_late(self, task_name: str, tell: Callable[[], None]) -> None:
        """Tell the journal what has happened already; later, if it refuses now."""
        self._late.pop(task_name, None)
        try:
            tell()
        except ApiError:
            self._late[task_name] = tell

    def _queue_on_demand(self, name: str, now: int) -> Queue:
        """The queue that the first task for it makes."""
        if not self._create_queues or now < self._deleted_queues.get(name, now):
            raise no_queue()
        return _queue(name, QueueConfig(), now)

    def _schedule(self, queue: Queue, task: Task) -> None:
        self._order += 1
        task.order = self._order
        if len(queue.waiting) > 2 * len(queue.tasks) + _FEW:
            # More is left behind than waits: begin anew with what waits.
            queue.waiting = [
                (other.schedule_time, other.order, other.task_id)
                for other in queue.tasks.values()
                if other.order is not None and other is not task
            ]
            heapq.heapify(queue.waiting)
        heapq.heappush(queue.waiting, (task.schedule_time, self._order, task.task_id))

    def _first(self, queue: Queue, now: int) -> int | None:
        """The earliest schedule time of a waiting task; drops what is over age or left behind."""
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

        def back() -> None:
            task.order, task.dispatch_count = order, attempt.retry_count
            task.first_attempt, task.last_attempt = first, previous

        task.order = None
        task.dispatch_count += 1
        task.first_attempt = task.first_attempt or record
        task.last_attempt = record
        with _or_back(back):
            self._journal.task_changed(task)
        self._late.pop(task.name, None)
        queue.running += 1
        return attempt

    def _remove(self, queue: Queue, task: Task, now: int, *, late: bool = False) -> None:
        """Tell the journal that a task goes, and take it away.

        Args:
            late: whether it goes whatever the journal says.
        """
        until = now + TASK_TOMBSTONE
        if late:
            self._tell_late(task.name, lambda: self._journal.task_removed(task, until))
        else:
            self._journal.task_removed(task, until)
            self._late.pop(task.name, None)
        self._forget(queue, task, now)

    def _forget(self, queue: Queue, task: Task, now: int) -> None:
        """Take a task away, and keep its name taken."""
        task.order = None
        queue.tasks.pop(task.task_id, None)
        # Oldest first, as they were inserted: the ones whose time is over go as others come.
        while queue.tombstones:
            oldest = next(iter(queue.tombstones))
            if queue.tombstones[oldest] > now and len(queue.tombstones) < MOST_TOMBSTONES:
                break
            del queue.tombstones[oldest]
        queue.tombstones.pop(task.task_id, None)
        queue.tombstones[task.task_id] = now + TASK_TOMBSTONE


@contextmanager
def _or_back(back: Callable[[], None]) -> Iterator[None]:
    """Undo what was changed for a journal to see, if it refuses."""
    try:
        yield
    except BaseException:
        back()
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

"""Replays of tasks that have ended. A replay enqueues a new task, and links both records."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist

from ...core.errors import CloudTasksError, ServiceUnavailableError
from ...core.failures import FailedTask, FailureSelection
from ...core.lifecycle import Replay, ReplayRefusal
from ...core.ports import ResultStore
from ...core.records import TaskRecord
from ..enqueueing.backend import CloudTasksBackend
from ..results.task_results import recorded_task

REASONS = (CloudTasksError, InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist)
"""The exceptions that are raised for a task that cannot be replayed."""

_PAGE = 500  # failures that one query returns


@attrs.frozen
class Outcome:
    """The result of replaying one task.

    Attributes:
        replayed_as: the id of the new task; empty if there is none.
        error: why there is no new task, or why Cloud Tasks did not accept the new task. In the
            second case the relay sends the new task later. None without an error.
        refusal: why the task was left out; None if it was not left out.
    """

    replayed_as: str = ""
    error: Exception | None = None
    refusal: ReplayRefusal | None = None

    @property
    def unanswered(self) -> bool:
        """Whether there is an error because Cloud Tasks did not answer."""
        return isinstance(self.error, CloudTasksError) and self.error.unanswered


@attrs.define
class Fault:
    """The errors of several tasks that have the same class.

    Attributes:
        example: the class and the message of the first error.
        count: the number of tasks.
    """

    example: str
    count: int = 0


@attrs.define
class Tally:
    """The results of replaying several tasks.

    Attributes:
        made: the ids of the new tasks, by the ids of the tasks that they repeat.
        left_out: the number of tasks that were replayed or deleted by others at the same time.
        failed: the errors of the tasks that were not replayed, by the name of the error's class.
        waiting: the errors of the new tasks that the relay sends later, by the same name.
        silent: whether Cloud Tasks did not answer for the latest task. The caller stops then.
        last: the last task that was handled; None if there is none.
    """

    made: dict[str, str] = attrs.field(factory=dict)
    left_out: int = 0
    failed: dict[str, Fault] = attrs.field(factory=dict)
    waiting: dict[str, Fault] = attrs.field(factory=dict)
    silent: bool = False
    last: FailedTask | None = None

    @property
    def handled(self) -> int:
        """The number of handled tasks, with any result."""
        failed = sum(fault.count for fault in self.failed.values())
        return len(self.made) + self.left_out + failed

    def add(self, task: FailedTask, outcome: Outcome) -> None:
        """Add the result of one more task."""
        self.silent = outcome.unanswered
        if outcome.unanswered and not outcome.replayed_as:
            return  # The task counts as not handled.
        self.last = task
        if outcome.replayed_as:
            self.made[task.task_id] = outcome.replayed_as
        elif outcome.error is None:
            self.left_out += 1
        if outcome.error is not None:
            kinds = self.waiting if outcome.replayed_as else self.failed
            kind = type(outcome.error).__name__
            kinds.setdefault(kind, Fault(f"{kind}: {outcome.error}")).count += 1


def replay_task(record: TaskRecord, *, again: bool = False, unless_silent: bool = False) -> Outcome:
    """Enqueue a task that has ended as a new task.

    Args:
        record: the record of the task.
        again: whether to replay a task that was replayed before.
        unless_silent: whether to raise an error while the circuit breaker is open.

    Raises:
        TaskResultDoesNotExist: the site does not have this task any more.
        InvalidTask: the site cannot enqueue the task any more.
        InvalidTaskBackend: the backend of the task keeps no results any more.
        CloudTasksError: the task cannot be enqueued. There is a subclass for each cause.
    """
    task = recorded_task(record, due=False)
    backend = task.get_backend()
    if not isinstance(backend, CloudTasksBackend):
        raise InvalidTaskBackend(f"The backend {backend.alias!r} is not a CloudTasksBackend.")
    if unless_silent and backend.configuration.queue.is_silent:
        raise ServiceUnavailableError("Cloud Tasks did not answer a moment ago.")
    errors: list[CloudTasksError] = []
    decision = backend.enqueue_replay(task, record, again=again, on_refusal=errors.append)
    if isinstance(decision, Replay):
        return Outcome(decision.copy.task_id, next(iter(errors), None))
    return Outcome(refusal=decision)


def replay_failures(
    store: ResultStore, selection: FailureSelection
) -> Iterator[tuple[FailedTask, Outcome]]:
    """Replay the selected failures one after another, the oldest first.

    Each replay is its own transaction, so the caller may stop after any of them. It should stop if
    Cloud Tasks does not answer, because the calls for the other tasks would wait as long.

    Yields:
        Each task and the result of its replay.
    """
    while places := store.failed_tasks(selection, limit=_PAGE):
        for place in places:
            yield place, _replayed(store, place.task_id, again=selection.replayed)
        selection = attrs.evolve(selection, after=places[-1])


def _replayed(store: ResultStore, task_id: str, *, again: bool) -> Outcome:
    try:
        record = store.get(task_id)
        if record is None:
            return Outcome(refusal=ReplayRefusal.OVERTAKEN)
        return replay_task(record, again=again, unless_silent=True)
    except REASONS as error:
        return Outcome(error=error)

"""Replaying tasks that have ended: each becomes a new task, and both records name the other."""

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
"""What a task that cannot be replayed raises."""

_PAGE = 500  # failures that are looked up at once


@attrs.frozen
class Outcome:
    """What became of one task that was to be replayed.

    Attributes:
        replayed_as: the id of the new task; empty if there is none.
        error: why there is none, or why Cloud Tasks did not take the new task, which then waits
            for the relay.
        refusal: why it was left out; None if it was not.
    """

    replayed_as: str = ""
    error: Exception | None = None
    refusal: ReplayRefusal | None = None

    @property
    def unanswered(self) -> bool:
        """Whether Cloud Tasks did not answer."""
        return isinstance(self.error, CloudTasksError) and self.error.unanswered


@attrs.define
class Fault:
    """What went wrong with several tasks, for the same kind of reason."""

    example: str
    count: int = 0


@attrs.define
class Tally:
    """What became of several tasks.

    Attributes:
        made: the ids of the new tasks, by those of the tasks that they repeat.
        left_out: tasks that were replayed or deleted at the same time.
        failed: kinds of errors of tasks that were not replayed.
        waiting: kinds of errors of tasks that wait for the relay.
        silent: whether Cloud Tasks did not answer, so that the work stopped.
        last: the last task that was handled.
    """

    made: dict[str, str] = attrs.field(factory=dict)
    left_out: int = 0
    failed: dict[str, Fault] = attrs.field(factory=dict)
    waiting: dict[str, Fault] = attrs.field(factory=dict)
    silent: bool = False
    last: FailedTask | None = None

    @property
    def handled(self) -> int:
        """How many tasks were handled, whatever came of it."""
        failed = sum(fault.count for fault in self.failed.values())
        return len(self.made) + self.left_out + failed

    def add(self, task: FailedTask, outcome: Outcome) -> None:
        """Count the outcome of one more task."""
        self.silent = outcome.unanswered
        if outcome.unanswered and not outcome.replayed_as:
            return  # It was not tried.
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
        again: also if it was replayed before.
        unless_silent: not while Cloud Tasks does not answer.

    Raises:
        TaskResultDoesNotExist: the site has no such task any more.
        InvalidTask: the site cannot enqueue it any more.
        InvalidTaskBackend: its backend keeps no results any more.
        CloudTasksError: it cannot be enqueued; each cause has its class.
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
    """Replay the chosen failures one after the other, the oldest first.

    Each is one transaction, so that the caller may stop after any of them. Whoever stops after one
    that was not answered spares the others the same wait.
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

"""Claiming a recorded task, and holding the claim while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from django.tasks.base import TaskError

from ...adapters.heartbeat import Beat
from ...core.deliveries import Adopt, Delivery, Run, receive
from ...core.errors import UnreadableRecordError
from ...core.lifecycle import fail, renew, snooze, succeed
from ...core.outcomes import Busy, Outcome, Unreadable, Unrecorded
from ...core.payload import Json, TaskPayload
from ...core.ports import ResultStore
from ...core.records import AttemptError, State, TaskRecord
from ...core.retry_policy import Again, Over, TaskPolicy, deadline_of
from ...core.scheduling import is_beyond_horizon
from ..configuration import Configuration
from ..operating.relay import send
from ..runtime import get_runtime
from ..signals import send_finished

logger = logging.getLogger("django_tasks_cloud_tasks")

_TRIES = 20  # decisions on a record that others change meanwhile
_RENEWALS = 3  # in the time of a lease: two may fail before it is lost


def claim_task(
    configuration: Configuration,
    store: ResultStore,
    payload: TaskPayload,
    delivery: Delivery,
    worker: str,
    *,
    policy: TaskPolicy,
) -> Lease | Outcome:
    """The lease on a task that was delivered, or why it must not run now.

    Args:
        policy: of the task.
    """
    seconds = deadline_of(policy, configuration.options.dispatch_deadline).total_seconds()
    for _ in range(_TRIES):
        try:
            seen = store.get(payload.task_id)
        except UnreadableRecordError as error:
            logger.error("A task is not run: %s", error)  # noqa: TRY400 - the reason says it all
            return Unreadable(payload.task_id)
        runtime = get_runtime()
        decision = receive(
            payload,
            seen,
            delivery=delivery,
            now=runtime.clock(),
            token=runtime.new_id(),
            worker=worker,
            lease=configuration.options.lease,
            max_attempts=policy.limit,
        )
        if isinstance(decision, Adopt):
            store.add(decision.record)
            continue
        then = decision.record
        if seen and then and then != seen and not store.replace(seen, then):
            continue  # Somebody else was quicker: decide on what they made of it.
        if seen and then and then.final and not seen.final:
            send_finished(then)
        if isinstance(decision, Run):
            return Lease(configuration, store, decision.record, answer_within=seconds)
        if isinstance(decision.outcome, Unrecorded):
            logger.warning(
                "The task %s (%s) was recorded when it was enqueued, but there is no record now. "
                "It was pruned, or it is in another database. The task is not run.",
                payload.task_id,
                payload.task_path,
            )
        return decision.outcome
    # The record keeps changing, or this transaction cannot see how.
    return Busy(payload.task_id, seconds=1.0)


class Lease:
    """The claim on a task that runs: renewed while it is held, and what its end is written with.

    Args:
        answer_within: seconds that Cloud Tasks waits for the answer.

    Attributes:
        record: as it was claimed, or renewed.
    """

    def __init__(
        self,
        configuration: Configuration,
        store: ResultStore,
        record: TaskRecord,
        *,
        answer_within: float,
    ) -> None:
        self.store = store
        self.record = record
        self._duration = configuration.options.lease
        self._beat: Beat | None = None
        now = time.monotonic()
        self._held_until = now + self._duration.total_seconds()
        self._awaited_until = now + answer_within
        self._configuration = configuration
        self._cancel_requested = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Renew the lease while inside, from the process's own thread."""
        seconds = self._duration.total_seconds() / _RENEWALS
        with get_runtime().heartbeat.every(seconds, self._renew) as self._beat:
            yield

    def succeed(self, value: Json, *, now: datetime, note: str = "") -> bool:
        """Write that the task returned `value`; False if the lease is lost, and nothing written."""
        ended = self._end(lambda record: succeed(record, value, now=now, note=note))
        return ended is not None

    def has_succeeded(self) -> bool:
        """Whether this attempt's success is recorded."""
        record = self.store.insist(lambda: self.store.get(self.record.task_id), self._is_worth_it)
        return (
            record is not None
            and record.state is State.SUCCESSFUL
            and record.claim.token == self.record.claim.token
        )

    def fail(
        self, error: TaskError, then: Again | Over, *, now: datetime, note: str = ""
    ) -> TaskRecord | None:
        """Write why the attempt failed, and what follows.

        A Cloud Task that brings the next attempt is sent once that is written.

        Returns:
            None if the lease is lost, and nothing was written.
        """
        reason, timeout = AttemptError(error.exception_class_path, error.traceback), self._timeout
        ended = self._end(
            lambda record: fail(record, reason, now=now, then=then, timeout=timeout, note=note)
        )
        self._send(ended)
        return ended

    def snooze(self, then: Again, *, now: datetime) -> TaskRecord | None:
        """Write that this was no attempt, and when the task is due. As `fail` otherwise."""
        timeout = self._timeout
        ended = self._end(lambda record: snooze(record, then, now=now, timeout=timeout))
        self._send(ended)
        return ended

    @property
    def _timeout(self) -> float:
        return self._configuration.options.enqueue_timeout

    def _send(self, record: TaskRecord | None) -> None:
        """Have Cloud Tasks deliver the next attempt, where the endpoint brings it."""
        if record is None or record.final or record.redelivery.sent:
            return
        if is_beyond_horizon(record.due_at, now=get_runtime().clock()):
            return  # The relay sends it in time.
        try:
            send(self._configuration, self.store, record, unless_silent=True)
        except Exception:
            # The database, which has just had the record: the relay will see to it.
            logger.exception(
                "It could not be recorded whether the task %s was sent.", record.task_id
            )

    def _end(self, ended: Callable[[TaskRecord], TaskRecord]) -> TaskRecord | None:
        """Write the end of the attempt, on what others wrote meanwhile; None if it is not ours.

        It goes on trying while the database is away, as long as nobody else may run the task and
        somebody waits for the answer.
        """
        return self.store.insist(lambda: self._try_to_end(ended), self._is_worth_it)

    def _is_worth_it(self) -> bool:
        return time.monotonic() < min(self._held_until, self._awaited_until)

    def _try_to_end(self, ended: Callable[[TaskRecord], TaskRecord]) -> TaskRecord | None:
        record = self.record
        while True:
            then = ended(record)
            if self.store.replace(record, then):
                return then
            fresh = self.store.get(record.task_id)
            if fresh is None or not self._is_mine(fresh):
                return None
            record = fresh

    def cancel_requested(self) -> bool:
        """Whether somebody wants the task to stop.

        On an event loop it does not wait for the database: the answer is that of the latest look,
        and another look is on its way.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._look()
        else:
            if self._beat is not None:
                get_runtime().heartbeat.hurry(self._beat)
        return self._cancel_requested

    def _look(self) -> None:
        record = self.store.get(self.record.task_id)
        # Without its lease an attempt is in vain, whoever took it.
        self._cancel_requested = record is not None and (
            record.cancel_requested or not self._is_mine(record)
        )

    def _renew(self) -> None:
        record = self.record
        while True:
            began = time.monotonic()
            then = renew(record, now=get_runtime().clock(), lease=self._duration)
            if self.store.renew(record, then):
                self.record = then
                self._held_until = began + self._duration.total_seconds()
                break
            fresh = self.store.get(record.task_id)
            if fresh is None or not self._is_mine(fresh):
                logger.info("The lease on the task %s is over.", record.task_id)
                break
            record = fresh
        if record.payload.takes_context:
            self._look()

    def _is_mine(self, record: TaskRecord) -> bool:
        return record.state is State.RUNNING and record.claim.token == self.record.claim.token

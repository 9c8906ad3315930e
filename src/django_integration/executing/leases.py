"""The lease on a recorded task: claim it, renew it, and write the end of the attempt."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.tasks.base import TaskError

from ...adapters.heartbeat import Beat
from ...core.deliveries import Adopt, Delivery, Run, decide_delivery
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

_TRIES = 20  # decisions, if other processes change the record at the same time
_RENEWALS = 3  # renewals in the time of a lease: two may fail


def claim_task(
    configuration: Configuration,
    store: ResultStore,
    payload: TaskPayload,
    delivery: Delivery,
    worker: str,
    *,
    policy: TaskPolicy,
) -> Lease | Outcome:
    """Claim a delivered task. Return its lease, or the outcome if the task must not run now.

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
        decision = decide_delivery(
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
            continue  # Another process changed the record first: decide again.
        if seen and then and then.final and not seen.final:
            send_finished(then)
        if isinstance(decision, Run):
            ahead = delivery.ahead_of(runtime.clock())
            return Lease(configuration, store, decision.record, answer_within=seconds, ahead=ahead)
        if isinstance(decision.outcome, Unrecorded):
            logger.warning(
                "The task %s (%s) was recorded when it was enqueued, but there is no record now. "
                "It was pruned, or it is in another database. The task is not run.",
                payload.task_id,
                payload.task_path,
            )
        return decision.outcome
    # The record changes all the time, or this transaction cannot see the changes.
    return Busy(payload.task_id, seconds=1.0)


class Lease:
    """The claim of this process on a running task.

    Args:
        answer_within: seconds that Cloud Tasks waits for the answer.
        ahead: by how much the clock of Cloud Tasks is ahead of the clock of this process.

    Attributes:
        record: the record as it was claimed or last renewed.
    """

    def __init__(
        self,
        configuration: Configuration,
        store: ResultStore,
        record: TaskRecord,
        *,
        answer_within: float,
        ahead: timedelta,
    ) -> None:
        self.store = store
        self.record = record
        self._duration = configuration.options.lease
        self._beat: Beat | None = None
        now = time.monotonic()
        self._held_until = now + self._duration.total_seconds()
        self._awaited_until = now + answer_within
        self._configuration = configuration
        self._ahead = ahead
        self._cancel_requested = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Renew the lease inside the context. The heartbeat thread of the process does that."""
        seconds = self._duration.total_seconds() / _RENEWALS
        with get_runtime().heartbeat.every(seconds, self._renew) as self._beat:
            yield

    def succeed(self, value: Json, *, now: datetime, note: str = "") -> bool:
        """Write that the task returned `value`. Return False if the lease is lost."""
        ended = self._end(lambda record: succeed(record, value, now=now, note=note))
        return ended is not None

    def has_succeeded(self) -> bool:
        """Return whether the success of this attempt is recorded."""
        record = self.store.insist(lambda: self.store.get(self.record.task_id), self._is_worth_it)
        return (
            record is not None
            and record.state is State.SUCCESSFUL
            and record.claim.token == self.record.claim.token
        )

    def fail(
        self, error: TaskError, then: Again | Over, *, now: datetime, note: str = ""
    ) -> TaskRecord | None:
        """Write why the attempt failed and what follows. Then send the next Cloud Task, if any.

        Returns:
            The record; None if the lease is lost. Then nothing is written.
        """
        reason, timeout = AttemptError(error.exception_class_path, error.traceback), self._timeout
        ended = self._end(
            lambda record: fail(record, reason, now=now, then=then, timeout=timeout, note=note)
        )
        self._send(ended)
        return ended

    def snooze(self, then: Again, *, now: datetime) -> TaskRecord | None:
        """Write that the task snoozes. Then send the next Cloud Task. Returns like `fail`."""
        timeout = self._timeout
        ended = self._end(lambda record: snooze(record, then, now=now, timeout=timeout))
        self._send(ended)
        return ended

    @property
    def _timeout(self) -> float:
        return self._configuration.options.enqueue_timeout

    def _send(self, record: TaskRecord | None) -> None:
        """Send the Cloud Task for the next attempt, if the endpoint makes it."""
        if record is None or record.final or record.redelivery.sent:
            return
        if is_beyond_horizon(record.due_at, now=get_runtime().clock()):
            return  # The relay sends it when its time is near.
        try:
            send(self._configuration, self.store, record, ahead=self._ahead, unless_silent=True)
        except Exception:
            # The database failed after it stored the record. The relay sends the task.
            logger.exception(
                "It could not be recorded whether the task %s was sent.", record.task_id
            )

    def _end(self, ended: Callable[[TaskRecord], TaskRecord]) -> TaskRecord | None:
        """Write the end of the attempt. Return the record, or None if the lease is lost.

        While the database is away, this tries again until the lease or the dispatch deadline ends.
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
        """Return whether the task was cancelled.

        On an event loop this does not wait for the database. It returns the latest known answer,
        and makes the heartbeat thread read the record soon.
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
        # An attempt that lost its lease cannot write its end, so it should stop too.
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

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
from ...core.lifecycle import fail, renew, succeed
from ...core.outcomes import Busy, Outcome, Unreadable, Unrecorded
from ...core.payload import Json, TaskPayload
from ...core.ports import ResultStore
from ...core.records import AttemptError, State, TaskRecord
from ..configuration import Configuration
from ..runtime import get_runtime

logger = logging.getLogger("django_tasks_cloud_tasks")

_TRIES = 20  # decisions on a record that others change meanwhile
_RENEWALS = 3  # in the time of a lease: two may fail before it is lost


def claim_task(
    configuration: Configuration,
    store: ResultStore,
    payload: TaskPayload,
    delivery: Delivery,
    worker: str,
) -> Lease | Outcome:
    """The lease on a task that was delivered, or why it must not run now."""
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
        )
        if isinstance(decision, Adopt):
            store.add(decision.record)
            continue
        then = decision.record
        if seen and then and then != seen and not store.replace(seen, then):
            continue  # Somebody else was quicker: decide on what they made of it.
        if isinstance(decision, Run):
            return Lease(configuration, store, decision.record)
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

    Attributes:
        record: as it was claimed, or renewed.
    """

    def __init__(
        self, configuration: Configuration, store: ResultStore, record: TaskRecord
    ) -> None:
        self.store = store
        self.record = record
        self._duration = configuration.options.lease
        self._beat: Beat | None = None
        now = time.monotonic()
        self._held_until = now + self._duration.total_seconds()
        self._awaited_until = now + configuration.options.longest_attempt.total_seconds()
        self._cancel_requested = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Renew the lease while inside, from the process's own thread."""
        seconds = self._duration.total_seconds() / _RENEWALS
        with get_runtime().heartbeat.every(seconds, self._renew) as self._beat:
            yield

    def succeed(self, value: Json, *, now: datetime) -> bool:
        """Write that the task returned `value`; False if the lease is lost, and nothing written."""
        return self._end(lambda record: succeed(record, value, now=now)) is not None

    def has_succeeded(self) -> bool:
        """Whether this attempt's success is recorded."""
        record = self.store.insist(lambda: self.store.get(self.record.task_id), self._is_worth_it)
        return (
            record is not None
            and record.state is State.SUCCESSFUL
            and record.claim.token == self.record.claim.token
        )

    def fail(self, error: TaskError, *, final: bool, now: datetime) -> TaskRecord | None:
        """Write why the attempt failed; None if the lease is lost, and nothing written."""
        reason = AttemptError(error.exception_class_path, error.traceback)
        return self._end(lambda record: fail(record, reason, now=now, final=final))

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

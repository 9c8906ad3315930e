"""Claiming a recorded task, and holding the claim while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.tasks.base import TaskError

from ...adapters.heartbeat import Beat
from ...core.deliveries import Delivery
from ...core.errors import UnreadableRecordError
from ...core.names import is_task_id
from ...core.outbox import adopted
from ...core.outcomes import BadPayload, Busy, Duplicate, Outcome, Unreadable, Unrecorded
from ...core.payload import Json, TaskPayload
from ...core.ports import ResultStore
from ...core.records import (
    LONGEST_NAME,
    AttemptError,
    Closed,
    State,
    Taken,
    TaskRecord,
    claim,
    failed,
    renewed,
    succeeded,
)
from ..configuration import Configuration
from ..results.task_results import new_id
from ..runtime import get_runtime

logger = logging.getLogger("django_tasks_cloud_tasks")

_RENEWALS = 3  # in the time of a lease: two may fail before it is lost


def claim_task(
    configuration: Configuration,
    store: ResultStore,
    payload: TaskPayload,
    delivery: Delivery,
    worker: str,
) -> Lease | Outcome:
    """The lease on a task that was delivered, or why it must not run now."""
    while True:
        try:
            record = store.get(payload.task_id)
        except UnreadableRecordError as error:
            logger.error("A task is not run: %s", error)  # noqa: TRY400 - the reason says it all
            return Unreadable(payload.task_id)
        if record is None:
            if payload.recorded:
                logger.warning(
                    "The task %s (%s) was recorded when it was enqueued, and its record is gone: "
                    "pruned, or in another database. It is not run.",
                    payload.task_id,
                    payload.task_path,
                )
                return Unrecorded(payload.task_id)
            if not is_task_id(payload.task_id) or len(payload.task_id) > LONGEST_NAME:
                return BadPayload(("task_id cannot be that of a Cloud Task",))
            # Enqueued before results were kept, or by someone else.
            record = adopted(
                payload, earlier_attempts=delivery.retry_count, now=get_runtime().clock()
            )
            store.add(record)
        if (record.task_path, record.backend) != (payload.task_path, payload.backend):
            return BadPayload(("task_id is that of another task",))
        now, lease = get_runtime().clock(), configuration.options.lease
        decision = claim(record, now=now, token=new_id(), worker=worker, lease=lease)
        changed = decision.record != record
        if changed and not store.replace(record, decision.record):
            continue  # Somebody else was quicker: decide on what they made of it.
        if isinstance(decision, Taken):
            return Busy(payload.task_id, (decision.until - now).total_seconds())
        if isinstance(decision, Closed):
            return Duplicate(payload.task_id, decision.record.state)
        return Lease(configuration, store, decision.record)


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

    def succeed(self, value: Json) -> bool:
        """Write that the task returned `value`; False if the lease is lost, and nothing written."""
        now = get_runtime().clock()
        return self._end(lambda record: succeeded(record, value, now=now)) is not None

    def has_succeeded(self) -> bool:
        """Whether this attempt's success is recorded."""
        record = self.store.insist(lambda: self.store.get(self.record.task_id), self._is_worth_it)
        return (
            record is not None
            and record.state is State.SUCCESSFUL
            and record.token == self.record.token
        )

    def fail(self, error: TaskError, *, final: bool) -> TaskRecord | None:
        """Write why the attempt failed; None if the lease is lost, and nothing written."""
        reason, now = (
            AttemptError(error.exception_class_path, error.traceback),
            get_runtime().clock(),
        )
        return self._end(lambda record: failed(record, reason, now=now, final=final))

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
            then = renewed(record, now=get_runtime().clock(), lease=self._duration)
            if self.store.renew(record, then):
                self.record = then
                self._held_until = began + self._duration.total_seconds()
                break
            fresh = self.store.get(record.task_id)
            if fresh is None or not self._is_mine(fresh):
                logger.info("The lease on the task %s is over.", record.task_id)
                break
            record = fresh
        if record.takes_context:
            self._look()

    def _is_mine(self, record: TaskRecord) -> bool:
        return record.state is State.RUNNING and record.token == self.record.token

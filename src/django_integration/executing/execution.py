"""One attempt at a delivered task, from its claim to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any

import attrs
from asgiref.sync import async_to_sync, sync_to_async
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskResultStatus
from django.tasks.signals import task_finished, task_started

from ...core.deliveries import Delivery
from ...core.errors import CloudTasksError
from ...core.outcomes import (
    AttemptFailed,
    Cancelled,
    EndNotRecorded,
    Failed,
    LeaseLost,
    NextNotCreated,
    NotDue,
    Outcome,
    Snoozed,
    Succeeded,
)
from ...core.payload import Json, TaskPayload
from ...core.ports import ResultStore
from ...core.records import UNKNOWN_WORKER, State
from ...core.retry_policy import ANSWER_TIME, Again, Over, Repeater, deadline_of
from ..exceptions import message_of
from ..registry import SiteBackend
from ..results.task_results import (
    add_error,
    drop_attempt,
    mark_failed,
    mark_ready,
    mark_successful,
    recorded_result,
    running_result,
)
from ..runtime import get_runtime
from ..signals import asend_signal, send_signal
from ..tasks import Cancellation, CloudTaskContext, Retry, Snooze, is_atomic
from ..timezones import to_site
from ..transactions import commit_leftovers, open_transactions, roll_back_leftovers
from .leases import Lease, claim_task
from .next_attempt import NextAttempt
from .threads import in_store_thread, in_used_thread

if TYPE_CHECKING:
    from django.tasks.base import TaskResult

logger = logging.getLogger("django_tasks_cloud_tasks")

_HOST = "/".join(filter(None, (os.environ.get("K_REVISION"), socket.gethostname())))


def worker_id() -> str:
    """Return the name of this process: on Cloud Run the revision, then host and process id."""
    return f"{_HOST}:{os.getpid()}"


def store_of(task: Task[..., Any]) -> ResultStore | None:
    """Return the store with the record of the task, if its backend keeps records."""
    backend = task.get_backend()
    return backend.configuration.results if isinstance(backend, SiteBackend) else None


def runs_on_loop(task: Task[..., Any]) -> bool:
    """Return whether `arun` awaits the task on the loop. An atomic task needs a thread."""
    return iscoroutinefunction(task.func) and not is_atomic(task)


class LeaseLostError(CloudTasksError):
    """Another process claimed the task. This rolls back the transaction of an atomic task."""


class EndNotRecordedError(CloudTasksError):
    """The store could not write the end of the attempt before the lease ended."""


@attrs.frozen
class Execution:
    """One attempt at a task. Call `run` or `arun` once. Times are aware.

    Attributes:
        next_attempt: the number and the policy of this attempt, and what follows it.
        began: when the attempt began.
        lease: the lease on the record of the task, if records are kept.
    """

    task: Task[..., Any]
    result: TaskResult[..., Any]
    backend: type[BaseTaskBackend]
    next_attempt: NextAttempt
    began: datetime
    lease: Lease | None = None
    _atomic: bool = attrs.field(init=False)

    @_atomic.default
    def _default_atomic(self) -> bool:
        return is_atomic(self.task)

    @classmethod
    def begin(
        cls, task: Task[..., Any], payload: TaskPayload, delivery: Delivery, worker: str
    ) -> Execution | Outcome:
        """Prepare an attempt. Its number comes from the record or from the delivery.

        Returns:
            The attempt, or the outcome if the record says that the task must not run.
        """
        backend = task.get_backend()
        if not isinstance(backend, SiteBackend):
            raise TypeError(f"The backend {backend.alias!r} is not a CloudTasksBackend.")
        configuration, now = backend.configuration, get_runtime().clock()
        next_attempt = NextAttempt.of(task, payload, configuration, delivery)
        # A hop is not an attempt. So it travels on without a record, even if RESULTS is set now.
        if configuration.results and not next_attempt.is_early(now):
            lease = claim_task(
                configuration,
                configuration.results,
                payload,
                delivery,
                worker,
                policy=next_attempt.policy,
            )
            if not isinstance(lease, Lease):
                return lease
            next_attempt = attrs.evolve(next_attempt, number=len(lease.record.attempts))
            result = recorded_result(task, lease.record)
            return cls(task, result, type(backend), next_attempt, now, lease)
        result = running_result(
            task,
            task_id=payload.task_id,
            args=list(payload.args),
            kwargs=dict(payload.kwargs),
            enqueued_at=payload.enqueued_at,
            worker_ids=[UNKNOWN_WORKER] * (next_attempt.number - 1) + [worker],
            now=now,
        )
        return cls(task, result, type(backend), next_attempt, now)

    @property
    def _arguments(self) -> list[Any]:
        if not self.task.takes_context:
            return self.result.args
        context = CloudTaskContext(
            task_result=self.result,
            max_attempts=self.next_attempt.policy.limit,
            deadline=to_site(self.began + self._deadline),
            queue_name=self.next_attempt.delivery.queue or self.task.queue_name,
            cloud_task_name=self.next_attempt.delivery.cloud_task_id or None,
            scheduled_for=to_site(self.next_attempt.payload.scheduled_for),
            cancellation=Cancellation(self.lease.cancel_requested if self.lease else None),
            clock=_now,
        )
        return [context, *self.result.args]

    @property
    def _deadline(self) -> timedelta:
        """The time that Cloud Tasks waits for the answer."""
        options = self.next_attempt.configuration.options
        return deadline_of(self.next_attempt.policy, options.dispatch_deadline)

    def run(self) -> Outcome:
        """Run the task in this thread.

        The task runs in its own context. So a language or a time zone that it activates does not
        remain active for the next request of this thread.
        """
        return copy_context().run(self._run)

    def _run(self) -> Outcome:
        if self._is_early:
            return self._travel_on()
        send_signal(task_started, self.backend, self.result)
        try:
            with self._held():
                return self._attempt()
        except LeaseLostError:
            return self._lost()
        except EndNotRecordedError as error:
            return self._unwritten(error)

    def _attempt(self) -> Outcome:
        callers = open_transactions()
        try:
            with self._transaction():
                if self.lease and not self._atomic:
                    self.lease.store.rest()
                value = self._call()
                now = get_runtime().clock()
                kept = mark_successful(self.result, value, now=now)
                if self._atomic:
                    commit_leftovers(open_transactions())
                    self._keep(kept, now)
            commit_leftovers(callers)
        except (KeyboardInterrupt, LeaseLostError):
            roll_back_leftovers(callers)
            raise
        except BaseException as error:
            roll_back_leftovers(callers)
            if not self._committed():
                outcome = self._failed(error)
                # Inside the except block, so that the receiver of Django can log the traceback.
                if self.result.is_finished:
                    send_signal(task_finished, self.backend, self.result)
                return outcome
            logger.exception(
                "The task %s succeeded, but something failed after its commit.", self.result.id
            )
        else:
            if not self._atomic:
                self._keep(kept, now)
        send_signal(task_finished, self.backend, self.result)
        return Succeeded(self.result.id)

    async def arun(self) -> Outcome:
        """Run the task: a coroutine on this loop, a function in a thread.

        An atomic coroutine also runs from a thread, because a transaction of Django belongs to one.
        """
        if not runs_on_loop(self.task):
            return await sync_to_async(self.run)()
        # In its own context, like `run`. Cancelling this coroutine cancels the task.
        loop = asyncio.get_running_loop()
        return await loop.create_task(self._arun(), context=copy_context())

    async def _arun(self) -> Outcome:
        if self._is_early:
            return await sync_to_async(self._travel_on, thread_sensitive=False)()
        await asend_signal(task_started, self.backend, self.result)
        try:
            with self._held():
                return await self._aattempt()
        except LeaseLostError:
            return self._lost()
        except EndNotRecordedError as error:
            return self._unwritten(error)

    async def _aattempt(self) -> Outcome:
        callers = await in_used_thread(open_transactions) or frozenset()
        try:
            value = await self._acall()
            now = get_runtime().clock()
            kept = mark_successful(self.result, value, now=now)
            await in_used_thread(commit_leftovers, callers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            unanswered = _is_cancelled(error)
            await in_used_thread(roll_back_leftovers, callers)
            outcome = await self._afailed(error, unanswered=unanswered)
            if self.result.is_finished:
                await asend_signal(task_finished, self.backend, self.result)
            if unanswered:
                # The client is gone, or the server stops. Cloud Tasks delivers the task again.
                raise
            return outcome
        await self._in_thread_if_leased(self._keep, kept, now)
        await asend_signal(task_finished, self.backend, self.result)
        return Succeeded(self.result.id)

    def _call(self) -> Any:  # noqa: ANN401 - what a task returns
        """Call the function in this thread, and await what it returns."""
        if self._stops_after is not None and iscoroutinefunction(self.task.func):
            return async_to_sync(self._acall)()
        began = time.monotonic()
        value = self.task.call(*self._arguments, **self.result.kwargs)
        while isawaitable(value):
            value = async_to_sync(self._in_time)(value, time.monotonic() - began)
        return value

    async def _acall(self) -> Any:  # noqa: ANN401 - what a task returns
        """Await the coroutine function, until its timeout."""
        return await self._in_time(self.task.acall(*self._arguments, **self.result.kwargs))

    async def _in_time(self, value: Any, elapsed: float = 0.0) -> Any:  # noqa: ANN401 - what a task returns
        """Await what a function returned, until the timeout of the task.

        Args:
            value: the returned awaitable.
            elapsed: seconds since the call of the function.
        """
        left = None if self._stops_after is None else max(self._stops_after - elapsed, 0.0)
        try:
            async with asyncio.timeout(left) as limit:
                while isawaitable(value):
                    value = await value
                return value
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(
                f"The task was stopped after {self._stops_after:g} s: its timeout is "
                f"{self.next_attempt.policy.timeout}, and the last second is for the answer."
            ) from None

    @property
    def _stops_after(self) -> float | None:
        """Seconds after which a coroutine is stopped; None if its policy has no timeout."""
        timeout = self.next_attempt.policy.timeout
        return None if timeout is None else (timeout - ANSWER_TIME).total_seconds()

    def _overran(self, now: datetime) -> str:
        """Return a remark if the attempt took longer than Cloud Tasks waits; else an empty text.

        This also logs the remark.
        """
        took, deadline = now - self.began, self._deadline
        if took <= deadline:
            return ""
        note = (
            f"The attempt took {took.total_seconds():.1f} s. Cloud Tasks waits "
            f"{deadline.total_seconds():g} s, and then delivers the task again. Set the timeout of "
            "the task, or DISPATCH_DEADLINE, to a higher value, up to 30 minutes."
        )
        logger.warning("The task %s (%s): %s", self.result.id, self.task.module_path, note)
        return note

    @property
    def _is_early(self) -> bool:
        return self.lease is None and self.next_attempt.is_early(self.began)

    def _travel_on(self) -> Outcome:
        """Create another Cloud Task, which is delivered later."""
        progress, ahead = self.next_attempt.payload.progress, self._ahead
        made = self._create_next(
            progress.due_at or self.began + ahead, attempts=progress.attempts, now=self.began
        )
        return NotDue(self.result.id) if made else NextNotCreated(self.result.id)

    @property
    def _ahead(self) -> timedelta:
        return self.next_attempt.delivery.ahead_of(self.began)

    def _create_next(self, due_at: datetime, *, attempts: int, now: datetime) -> bool:
        """Create the next Cloud Task of a task without a record. Return whether it exists.

        Args:
            due_at: when it is due, by the clock of Cloud Tasks.
            now: the time by the clock of this process.
        """
        return self.next_attempt.create_next(due_at, attempts=attempts, now=now + self._ahead)

    def _held(self) -> AbstractContextManager[None]:
        return self.lease.held() if self.lease else nullcontext()

    def _transaction(self) -> AbstractContextManager[None]:
        return self.lease.store.atomic() if self.lease and self._atomic else nullcontext()

    def _committed(self) -> bool:
        """Return whether an atomic task is committed although an exception was raised.

        A hook after the commit can raise it, or the answer to the commit was lost.
        """
        finished = self.result.status == TaskResultStatus.SUCCESSFUL
        if not (self.lease and self._atomic and finished):
            return False
        try:
            return self.lease.has_succeeded()
        except Exception as error:
            raise EndNotRecordedError from error

    def _keep(self, value: Json, now: datetime) -> None:
        """Record the success, if records are kept.

        Raises:
            LeaseLostError: another process claimed the task. Nothing is recorded.
            EndNotRecordedError: the store could not write it.
        """
        note = self._overran(now)
        if self.lease is None:
            return
        try:
            mine = self.lease.succeed(value, now=now, note=note)
        except Exception as error:
            if self._atomic:
                raise  # The transaction fails, and the attempt with it.
            raise EndNotRecordedError from error
        if not mine:
            raise LeaseLostError

    async def _afailed(self, error: BaseException, *, unanswered: bool) -> Outcome:
        """Call `_failed`, in a thread if it waits for a database or for Cloud Tasks."""
        failed = partial(self._failed, error, unanswered=unanswered)
        if self.lease:
            return await in_store_thread(self.lease.store, failed)
        if self.next_attempt.by is Repeater.ENDPOINT or isinstance(error, Retry | Snooze):
            return await sync_to_async(failed, thread_sensitive=False)()
        return failed()

    def _failed(self, error: BaseException, *, unanswered: bool = False) -> Outcome:
        """Record the failure, if records are kept, and prepare the next attempt.

        Args:
            unanswered: whether the request is cancelled. Then nobody reads the answer, and Cloud
                Tasks delivers this Cloud Task again.

        Raises:
            LeaseLostError: another process claimed the task. Nothing is recorded.
            EndNotRecordedError: the store could not write it.
        """
        now = get_runtime().clock()
        note = self._overran(now)
        task_error = add_error(self.result, error)
        then = self.next_attempt.after(error, self.result, recorded=self.lease is not None, now=now)
        if isinstance(then, Again) and unanswered:
            then = Again(None, by_queue=True)
        snoozes = isinstance(then, Again) and not then.counted
        if self.lease:
            try:
                if isinstance(then, Again) and snoozes:
                    record = self.lease.snooze(then, now=now)
                else:
                    record = self.lease.fail(task_error, then, now=now, note=note)
            except Exception as fault:
                raise EndNotRecordedError from fault
            if record is None:
                raise LeaseLostError from error
            if record.state is State.CANCELLED:
                mark_failed(self.result, now=now)
                return Cancelled(self.result.id)
        elif isinstance(then, Again) and not then.by_queue:
            counted = self.next_attempt.number - snoozes
            due_at = (then.at or now) + self._ahead
            if not self._create_next(due_at, attempts=counted, now=now):
                mark_ready(self.result)
                return NextNotCreated(self.result.id)
        if isinstance(then, Over):
            mark_failed(self.result, now=now)
            logger.warning(
                "The task %s (%s) has failed. It is not attempted again, because %s.",
                self.result.id,
                self.task.module_path,
                then.reason,
            )
            return Failed(self.result.id, _summary(error), task_error.traceback)
        if snoozes:
            self.result.errors.pop()
            drop_attempt(self.result)
            logger.info("The task %s snoozes until %s.", self.result.id, then.at)
            return Snoozed(self.result.id)
        mark_ready(self.result)
        self._tell_of_failure(error, then)
        return AttemptFailed(
            self.result.id, _summary(error), task_error.traceback, by_queue=then.by_queue
        )

    def _tell_of_failure(self, error: BaseException, then: Again) -> None:
        when = f"at {then.at:%Y-%m-%d %H:%M:%S} UTC" if then.at else "if its queue repeats it"
        logger.warning(
            "The task %s (%s) failed in attempt %d of %d. It is attempted again %s.",
            self.result.id,
            self.task.module_path,
            self.next_attempt.number,
            self.next_attempt.policy.limit,
            when,
            exc_info=error,
        )

    def _lost(self) -> Outcome:
        logger.warning(
            "The task %s ran, but another runner took it over, or its record was deleted. The end "
            "of this attempt is not recorded.",
            self.result.id,
        )
        return LeaseLost(self.result.id)

    def _unwritten(self, error: EndNotRecordedError) -> Outcome:
        logger.error(
            "The task %s ran, but its end could not be written to the database before its lease "
            "ended. Cloud Tasks will deliver it again.",
            self.result.id,
            exc_info=error,
        )
        return EndNotRecorded(self.result.id)

    async def _in_thread_if_leased[**P, R](
        self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call in a thread if records are kept, because the call then uses the database."""
        if self.lease:
            return await in_store_thread(self.lease.store, call, *args, **kwargs)
        return call(*args, **kwargs)


def _now() -> datetime:
    return get_runtime().clock()


def _is_cancelled(error: BaseException) -> bool:
    """Return whether this request was cancelled, and not only something that the task awaited."""
    current = asyncio.current_task()
    return isinstance(error, CancelledError) and current is not None and current.cancelling() > 0


def _summary(error: BaseException) -> str:
    """`Class: message`."""
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__

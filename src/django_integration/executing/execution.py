"""One attempt at a task that was delivered, from its claim to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from datetime import datetime, timedelta
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any

import attrs
from asgiref.sync import async_to_sync, sync_to_async
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskResultStatus
from django.tasks.signals import task_finished, task_started

from ...core.deliveries import Delivery
from ...core.errors import CloudTasksError
from ...core.lifecycle import ends_for_good
from ...core.options import DEFAULT_DISPATCH_DEADLINE
from ...core.outcomes import (
    Cancelled,
    EndNotRecorded,
    Failed,
    LeaseLost,
    Outcome,
    Succeeded,
    Unserializable,
)
from ...core.payload import Json, TaskPayload
from ...core.ports import ResultStore
from ...core.records import State
from ..exceptions import message_of
from ..registry import SiteBackend
from ..results.task_results import mark_failed, mark_successful, recorded_result, running_result
from ..runtime import get_runtime
from ..signals import asend_signal, send_signal
from ..tasks import Cancellation, CloudTaskContext, is_atomic
from ..transactions import commit_leftovers, open_transactions, roll_back_leftovers
from .leases import Lease, claim_task
from .threads import in_store_thread, in_used_thread

if TYPE_CHECKING:
    from django.tasks.base import TaskResult

logger = logging.getLogger("django_tasks_cloud_tasks")

_HOST = "/".join(filter(None, (os.environ.get("K_REVISION"), socket.gethostname())))


def worker_id() -> str:
    """Names this process: host (on Cloud Run the revision as well) and process id."""
    return f"{_HOST}:{os.getpid()}"


def store_of(task: Task[..., Any]) -> ResultStore | None:
    """The store that beginning an attempt at the task asks, if it asks one."""
    backend = task.get_backend()
    return backend.configuration.results if isinstance(backend, SiteBackend) else None


def runs_on_loop(task: Task[..., Any]) -> bool:
    """Whether `arun` awaits the task on the loop: an atomic one's transaction needs a thread."""
    return iscoroutinefunction(task.func) and not is_atomic(task)


class LeaseLostError(CloudTasksError):
    """Another runner took the task over; undoes the transaction of an atomic task."""


class EndNotRecordedError(CloudTasksError):
    """The store did not take how the attempt ended, for as long as it was worth trying."""


@attrs.frozen
class Execution:
    """One attempt at a task: `run` or `arun` it once.

    Attributes:
        lease: on the record of the task, where results are kept.
    """

    task: Task[..., Any]
    result: TaskResult[..., Any]
    backend: type[BaseTaskBackend]
    lease: Lease | None = None
    _atomic: bool = attrs.field(init=False)

    @_atomic.default
    def _default_atomic(self) -> bool:
        return is_atomic(self.task)

    @classmethod
    def begin(
        cls, task: Task[..., Any], payload: TaskPayload, delivery: Delivery, worker: str
    ) -> Execution | Outcome:
        """Prepare an attempt, with the number that the delivery or the record gives it.

        Returns:
            Why the task must not run, where its record says so.
        """
        backend = task.get_backend()
        if isinstance(backend, SiteBackend) and backend.configuration.results:
            configuration, store = backend.configuration, backend.configuration.results
            lease = claim_task(configuration, store, payload, delivery, worker)
            if not isinstance(lease, Lease):
                return lease
            return cls(task, recorded_result(task, lease.record), type(backend), lease)
        result = running_result(
            task,
            task_id=payload.task_id,
            args=list(payload.args),
            kwargs=dict(payload.kwargs),
            enqueued_at=payload.enqueued_at,
            worker_ids=delivery.worker_ids(worker),
            now=get_runtime().clock(),
        )
        return cls(task, result, type(backend))

    @property
    def _arguments(self) -> list[Any]:
        if not self.task.takes_context:
            return self.result.args
        ask = self.lease.cancel_requested if self.lease else None
        context = CloudTaskContext(task_result=self.result, cancellation=Cancellation(ask))
        return [context, *self.result.args]

    def run(self) -> Outcome:
        """Run the task in this thread.

        In a context of its own: the language, the time zone and whatever else Django keeps for a
        thread, and the task changes, is not what the next request of this thread finds.
        """
        return copy_context().run(self._run)

    def _run(self) -> Outcome:
        send_signal(task_started, self.backend, self.result)
        try:
            with self._timed(), self._held():
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
                value = self.task.call(*self._arguments, **self.result.kwargs)
                while isawaitable(value):
                    value = async_to_sync(_await)(value)
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
                # Inside the handler, where Django's receiver finds the traceback to log.
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
        """Run the task: a coroutine on this loop, a function in a thread, to its end.

        An atomic coroutine runs from a thread, too: Django's transactions live in one.
        """
        if not runs_on_loop(self.task):
            return await sync_to_async(self.run)()
        # In a context of its own, as `run`; cancelling this cancels that.
        loop = asyncio.get_running_loop()
        return await loop.create_task(self._arun(), context=copy_context())

    async def _arun(self) -> Outcome:
        await asend_signal(task_started, self.backend, self.result)
        try:
            with self._timed(), self._held():
                return await self._aattempt()
        except LeaseLostError:
            return self._lost()
        except EndNotRecordedError as error:
            return self._unwritten(error)

    async def _aattempt(self) -> Outcome:
        callers = await in_used_thread(open_transactions) or frozenset()
        try:
            value = await self.task.acall(*self._arguments, **self.result.kwargs)
            while isawaitable(value):
                value = await value
            now = get_runtime().clock()
            kept = mark_successful(self.result, value, now=now)
            await in_used_thread(commit_leftovers, callers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            await in_used_thread(roll_back_leftovers, callers)
            outcome = await self._in_thread_if_leased(self._failed, error)
            await asend_signal(task_finished, self.backend, self.result)
            if _is_cancelled(error):
                # The caller is gone, or the server ends: nobody is there to be answered, and
                # Cloud Tasks delivers the task again.
                raise
            return outcome
        await self._in_thread_if_leased(self._keep, kept, now)
        await asend_signal(task_finished, self.backend, self.result)
        return Succeeded(self.result.id)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Tell of an attempt that outlasts what Cloud Tasks waits for: it has come again."""
        began = time.monotonic()
        yield
        took, deadline = time.monotonic() - began, self._deadline()
        if took > deadline.total_seconds():
            logger.warning(
                "The task %s (%s) took %.1f s. Cloud Tasks waits %g s, and then delivers the task "
                "again. Set DISPATCH_DEADLINE to a higher value, up to 30 minutes.",
                self.result.id,
                self.task.module_path,
                took,
                deadline.total_seconds(),
            )

    def _deadline(self) -> timedelta:
        backend = self.task.get_backend()
        if isinstance(backend, SiteBackend):
            return backend.configuration.options.longest_attempt
        return DEFAULT_DISPATCH_DEADLINE

    def _held(self) -> AbstractContextManager[None]:
        return self.lease.held() if self.lease else nullcontext()

    def _transaction(self) -> AbstractContextManager[None]:
        return self.lease.store.atomic() if self.lease and self._atomic else nullcontext()

    def _committed(self) -> bool:
        """Whether an exception came too late: from a hook after the commit of an atomic task.

        Or from a commit whose answer was lost.
        """
        finished = self.result.status == TaskResultStatus.SUCCESSFUL
        if not (self.lease and self._atomic and finished):
            return False
        try:
            return self.lease.has_succeeded()
        except Exception as error:
            raise EndNotRecordedError from error

    def _keep(self, value: Json, now: datetime) -> None:
        """Record the success, where results are kept.

        Raises:
            LeaseLostError: another runner took over; nothing was recorded.
            EndNotRecordedError: the store did not take it.
        """
        if self.lease is None:
            return
        try:
            mine = self.lease.succeed(value, now=now)
        except Exception as error:
            if self._atomic:
                raise  # It fails the transaction, and so the attempt.
            raise EndNotRecordedError from error
        if not mine:
            raise LeaseLostError

    def _failed(self, error: BaseException) -> Outcome:
        """Record the failure, where results are kept; how the attempt ends.

        Raises:
            LeaseLostError: another runner took over; nothing was recorded.
            EndNotRecordedError: the store did not take it.
        """
        now = get_runtime().clock()
        task_error = mark_failed(self.result, error, now=now)
        final = ends_for_good(error)
        if self.lease:
            try:
                record = self.lease.fail(task_error, final=final, now=now)
            except Exception as fault:
                raise EndNotRecordedError from fault
            if record is None:
                raise LeaseLostError from error
            if record.state is State.CANCELLED:
                return Cancelled(self.result.id)
        if final:
            return Unserializable(self.result.id, str(error))
        return Failed(self.result.id, _summary(error), task_error.traceback)

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
        """Call in a thread what asks the database, and in place what does not."""
        if self.lease:
            return await in_store_thread(self.lease.store, call, *args, **kwargs)
        return call(*args, **kwargs)


async def _await(awaitable: Awaitable[Any]) -> Any:  # noqa: ANN401 - what a task returns
    return await awaitable


def _is_cancelled(error: BaseException) -> bool:
    """Whether this request was cancelled, and not just something that the task waited for."""
    current = asyncio.current_task()
    return isinstance(error, CancelledError) and current is not None and current.cancelling() > 0


def _summary(error: BaseException) -> str:
    """`Class: message`."""
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__

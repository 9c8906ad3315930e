"""The backend for `TASKS`: turns a task into a request and has the queue create it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

import attrs
from asgiref.sync import sync_to_async
from django.core.checks import CheckMessage
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import DEFAULT_TASK_PRIORITY
from django.tasks.base import Task as BaseTask
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils.module_loading import import_string

from ...core.backoff import Backoff
from ...core.errors import CloudTasksError, OptionsError
from ...core.lifecycle import Replay, ReplayRefusal, enqueued, replay
from ...core.names import is_queue_id, is_task_id
from ...core.payload import Progress, TaskPayload, is_in_calendar
from ...core.ports import ResultStore
from ...core.records import LONGEST_NAME, TaskRecord
from ...core.requests import TaskRequest, build_task_request
from ...core.scheduling import is_beyond_horizon, queue_for
from ..configuration import Configuration
from ..operating.relay import send
from ..registry import SiteBackend
from ..results.task_results import mark_enqueued, ready_result, recorded_result, recorded_task
from ..runtime import get_runtime
from ..signals import asend_signal, send_signal
from ..signing import sign
from ..tasks import CloudTask, is_atomic, policy_of
from ..timezones import from_site
from ..transactions import after_commit, awaited_transactions

if TYPE_CHECKING:
    from django.tasks.base import Task, TaskResult

logger = logging.getLogger("django_tasks_cloud_tasks")


@attrs.frozen
class _Prepared[R]:
    """A task that is ready to be created."""

    result: R
    request: TaskRequest
    payload: TaskPayload
    enqueued_at: datetime


class Offered:
    """What a backend offers if its OPTIONS say so. On the class, which has none: False."""

    def __init__(self, ask: Callable[[CloudTasksBackend], bool]) -> None:
        self._ask = ask

    def __get__(self, backend: CloudTasksBackend | None, owner: type) -> bool:
        return False if backend is None else self._ask(backend)


class CloudTasksBackend(SiteBackend):
    """Puts tasks into Google Cloud Tasks queues, which call the app back to execute them.

    Nothing is looked up and no connection made before the first task is enqueued.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = Offered(lambda backend: bool(backend.configuration.options.priority_queues))
    supports_get_result = Offered(lambda backend: backend.configuration.options.results is not None)

    task_class = CloudTask

    # Shared by all instances, of which Django makes one a thread: a process is told once.
    _told_of_priority: ClassVar[set[str]] = set()
    _findable: ClassVar[WeakSet[Callable[..., Any]]] = WeakSet()

    def validate_task(self, task: Task[..., Any]) -> None:
        """Refuse what Django refuses, and queue names that Cloud Tasks does not take.

        Raises:
            InvalidTask: the task cannot be executed by this backend.
        """
        try:
            options = self.configuration.options
        except OptionsError:
            # A module with tasks is imported all the same: `check` tells of all faults at once, and
            # `enqueue()` raises.
            return
        if task.run_after is not None and not isinstance(task.run_after, datetime):
            raise InvalidTask(
                f"run_after must be a datetime, not {task.run_after!r}. For a delay write "
                "timezone.now() + timedelta(...)."
            )
        if task.priority != DEFAULT_TASK_PRIORITY and not self.supports_priority:
            # Django refuses what nothing orders. Here it travels along, and is told once.
            orderly = copy(self)
            vars(orderly)["supports_priority"] = True
            BaseTaskBackend.validate_task(orderly, task)
        else:
            super().validate_task(task)
        # What follows from the function alone is not asked again at each enqueue.
        if task.func not in self._findable and (
            inspect.isgeneratorfunction(task.func) or inspect.isasyncgenfunction(task.func)
        ):
            raise InvalidTask(
                f"{task.module_path} is a generator function. A call of it does not run its body. "
                "Return a value instead of using yield."
            )
        thresholds = options.priority_queues
        names = [task.queue_name]
        if thresholds:
            names.append(queue_for(task.queue_name, priority=task.priority, thresholds=thresholds))
        for name in names:
            if not is_queue_id(name):
                raise InvalidTask(
                    f"{name!r} cannot be a Cloud Tasks queue: use 1 to 100 letters, digits and "
                    "hyphens."
                )
        # The options, not the store: tasks are declared while Django still loads its models.
        keeps_results = options.results is not None
        if keeps_results and len(task.module_path) > LONGEST_NAME:
            raise InvalidTask(f"{task.module_path} is too long to be recorded.")
        policy = policy_of(task)
        if policy.max_attempts is not None or isinstance(policy.backoff, Backoff):
            self.note_policy(policy)
        if is_atomic(task) and not keeps_results:
            raise InvalidTask(
                f"{task.module_path} cannot be atomic: the backend {self.alias!r} keeps no "
                "results. Set RESULTS to 'database'."
            )

    def enqueue[**P, R](
        self, task: Task[P, R], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult[P, R]:
        """Put the task into its queue; with ENQUEUE_ON_COMMIT once the transaction is committed.

        What fails after the commit is logged: it cannot be raised without keeping the site's own
        hooks from being called.

        With RESULTS it is recorded in the caller's transaction, and sent once that is committed.
        From then on it is not lost: what Cloud Tasks does not take now, the relay sends later,
        and so what is due beyond its horizon.

        Raises:
            InvalidTask: see `validate_task`.
            TypeError: JSON cannot carry an argument.
            EnqueueError: the task was not created; each cause has its class. With RESULTS only
                what cannot be sent at all: PayloadTooLargeError.
            ConfigurationError: something needed is neither set nor detected.
        """
        configuration = self.configuration
        prepared = self._prepare(configuration, task, args, kwargs)
        if configuration.results:
            record = self._new_record(configuration, prepared)
            self._keep(configuration, configuration.results, prepared, record)
        elif awaited := self._awaited(configuration):
            after_commit(awaited, partial(self._create_late, configuration, prepared))
        else:
            self._create(configuration, prepared)
        return prepared.result

    async def aenqueue[**P, R](
        self, task: Task[P, R], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult[P, R]:
        """`enqueue`, awaited on the running loop.

        No thread is used, with three exceptions: what is looked up first and once (metadata,
        Google credentials), RESULTS and ENQUEUE_ON_COMMIT (Django's transactions
        live in threads) and synchronous receivers that the site itself connected to
        `task_enqueued`.
        """
        configuration = self.configuration
        if configuration.results or configuration.options.enqueue_on_commit:
            return await sync_to_async(self.enqueue)(task, args, kwargs)
        if configuration.may_block:
            await sync_to_async(lambda: configuration.route, thread_sensitive=False)()
        prepared = self._prepare(configuration, task, args, kwargs)
        await configuration.queue.acreate(
            prepared.request, timeout=configuration.options.enqueue_timeout
        )
        mark_enqueued(prepared.result, prepared.enqueued_at)
        await asend_signal(task_enqueued, type(self), prepared.result)
        return prepared.result

    def enqueue_replay(
        self,
        task: Task[..., Any],
        seen: TaskRecord,
        *,
        again: bool,
        on_refusal: Callable[[CloudTasksError], None],
    ) -> Replay | ReplayRefusal:
        """Enqueue a recorded task once more; for `operating.replaying`.

        The new record and the change of the old one are one transaction.

        Args:
            task: as `seen` tells of it.
            again: also if it was replayed before.
            on_refusal: is called after the commit if Cloud Tasks did not take the new task, which
                then waits for the relay.

        Raises:
            InvalidTask: see `validate_task`.
            InvalidTaskBackend: this backend keeps no results.
            EnqueueError: the task cannot be sent at all.
            ConfigurationError: something needed is neither set nor detected.
        """
        configuration = self.configuration
        store = configuration.results
        if store is None:
            raise InvalidTaskBackend(f"The backend {self.alias!r} keeps no results.")
        prepared = self._prepare(configuration, task, seen.payload.args, seen.payload.kwargs)
        copy = self._new_record(configuration, prepared)
        decision = replay(seen, copy, now=prepared.enqueued_at, again=again)
        if isinstance(decision, ReplayRefusal):
            return decision
        with store.atomic():
            # The old record first: whoever comes second waits for its lock, and changes nothing.
            if not store.replace(seen, decision.original):
                return ReplayRefusal.OVERTAKEN
            self._keep(configuration, store, prepared, decision.copy, on_refusal)
        return decision

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """What became of a task of this backend.

        Raises:
            TaskResultDoesNotExist: it is not recorded, or the site has no such task any more.
            NotImplementedError: no results are kept, because RESULTS is not set.
        """
        store = self.configuration.results
        if store is None:
            raise NotImplementedError(
                f"The backend {self.alias!r} keeps no results: set RESULTS to 'database'."
            )
        record = store.get(result_id) if is_task_id(result_id) else None
        if record is None or record.payload.backend != self.alias:
            raise TaskResultDoesNotExist(
                f"The backend {self.alias!r} has no record of a task {result_id!r}."
            )
        return recorded_result(recorded_task(record), record)

    def check(self, **kwargs: Any) -> list[CheckMessage]:  # noqa: ARG002, ANN401 - Django's signature
        """The system checks of this entry of `TASKS`."""
        from ..checks import check_backend
        from ..executing.url_patterns import sees_to_checks

        return [] if sees_to_checks() else check_backend(self)

    def _prepare[**P, R](
        self,
        configuration: Configuration,
        task: Task[P, R],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> _Prepared[TaskResult[P, R]]:
        """Everything about an enqueue but the call, so that what can be wrong is wrong here."""
        self.validate_task(task)
        self._demand_findable(task)
        route = configuration.route
        if task.priority != DEFAULT_TASK_PRIORITY and not route.thresholds:
            self._tell_of_priority()
        runtime = get_runtime()
        now, run_after = runtime.clock(), None
        if task.run_after is not None:
            run_after = from_site(task.run_after)
        if run_after is not None and not is_in_calendar(run_after):
            raise InvalidTask(f"run_after is {run_after}, which some time zones cannot express.")
        progress = Progress()
        if run_after and not configuration.results:
            far = is_beyond_horizon(run_after, now=now)
            progress = Progress(run_after=run_after, due_at=run_after if far else None)
        payload = TaskPayload(
            task_id=runtime.new_id(),
            task_path=task.module_path,
            args=args,
            kwargs=kwargs,
            queue_name=task.queue_name,
            backend=self.alias,
            priority=task.priority,
            takes_context=task.takes_context,
            enqueued_at=now,
            recorded=configuration.results is not None,
            progress=progress,
        )
        body = payload.encode()
        request = build_task_request(
            payload,
            body=body,
            signature=sign(body),
            route=route,
            policy=policy_of(task).over(configuration.options.policy),
            run_after=run_after,
            now=now,
        )
        result = ready_result(task, payload.task_id, *payload.carried(body), alias=self.alias)
        return _Prepared(result, request, payload, now)

    def _demand_findable(self, task: Task[..., Any]) -> None:
        """Refuse a task that no worker could find by its path. Looked up once for each function.

        Raises:
            InvalidTask: with what stands there instead.
        """
        if task.func in self._findable:
            return
        if task.func.__module__ == "__main__":
            raise InvalidTask(
                f"{task.module_path} is in __main__, the program that is running. No worker can "
                "import it. Move it into a module."
            )
        try:
            found = import_string(task.module_path)
        except ImportError:
            found = None
        if not isinstance(found, BaseTask) or found.func is not task.func:
            raise InvalidTask(
                f"No worker can find this task: {task.module_path} "
                f"{'cannot be imported' if found is None else 'is ' + repr(found)[:100]}. "
                "Declare it at the top level of a module, with @task as the outermost decorator, "
                "under the name of its function."
            )
        self._findable.add(task.func)

    @staticmethod
    def _new_record[**P, R](
        configuration: Configuration, prepared: _Prepared[TaskResult[P, R]]
    ) -> TaskRecord:
        result = prepared.result
        return enqueued(
            prepared.payload,
            args=result.args,
            kwargs=result.kwargs,
            run_after=from_site(result.task.run_after),
            now=prepared.enqueued_at,
            timeout=configuration.options.enqueue_timeout,
        )

    def _keep[**P, R](
        self,
        configuration: Configuration,
        store: ResultStore,
        prepared: _Prepared[TaskResult[P, R]],
        record: TaskRecord,
        on_refusal: Callable[[CloudTasksError], None] = lambda _: None,
    ) -> None:
        """Keep the record of a new task, and send the task once that is committed."""
        result, now = prepared.result, prepared.enqueued_at
        store.add(record)

        def committed() -> None:
            if not is_beyond_horizon(record.run_after, now=now):
                try:
                    error = send(configuration, store, record, prepared.request, unless_silent=True)
                    if error is not None:
                        on_refusal(error)
                except Exception:
                    # The database, which has just had the record: the relay will see to it.
                    logger.exception(
                        "It could not be recorded whether the task %s was sent.", record.task_id
                    )
            mark_enqueued(result, now)
            send_signal(task_enqueued, type(self), result)

        store.on_commit(committed)

    def _create[**P, R](
        self, configuration: Configuration, prepared: _Prepared[TaskResult[P, R]]
    ) -> None:
        configuration.queue.create(prepared.request, timeout=configuration.options.enqueue_timeout)
        mark_enqueued(prepared.result, prepared.enqueued_at)
        send_signal(task_enqueued, type(self), prepared.result)

    @staticmethod
    def _awaited(configuration: Configuration) -> list[str]:
        """The transactions that an enqueue waits for, as ENQUEUE_ON_COMMIT says."""
        on_commit = configuration.options.enqueue_on_commit
        if not on_commit:
            return []
        return awaited_transactions(None if on_commit is True else str(on_commit))

    def _create_late[**P, R](
        self, configuration: Configuration, prepared: _Prepared[TaskResult[P, R]]
    ) -> None:
        """Create a task after the commit, when nobody is there to be told of a failure.

        What it raised would keep the other hooks of the same transaction from being called.
        """
        try:
            self._create(configuration, prepared)
        except CloudTasksError:
            logger.exception(
                "The task %s (%s) was not enqueued after the commit.",
                prepared.payload.task_id,
                prepared.payload.task_path,
            )

    def _tell_of_priority(self) -> None:
        if self.alias not in self._told_of_priority:
            self._told_of_priority.add(self.alias)
            logger.warning(
                "A task with a priority was enqueued on the backend %r. The priority has no effect "
                "there, because Cloud Tasks has no priorities. Set PRIORITY_QUEUES to send such "
                "tasks to their own queues. (This is logged once.)",
                self.alias,
            )

"""The backend for `TASKS`. It converts each enqueued task to a request to Cloud Tasks."""

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
from ...core.schedules import Schedule, ScheduleState, Tick
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
    """A task that is checked and encoded, before Cloud Tasks creates it.

    Attributes:
        result: the result that `enqueue` returns.
        request: the request that creates the Cloud Task.
        payload: the payload in the body of the request.
        enqueued_at: when the task is enqueued, as an aware datetime.
    """

    result: R
    request: TaskRequest
    payload: TaskPayload
    enqueued_at: datetime


class Offered:
    """A flag of the backend that depends on its OPTIONS. On the class it is False.

    Args:
        ask: returns the value for a backend.
    """

    def __init__(self, ask: Callable[[CloudTasksBackend], bool]) -> None:
        self._ask = ask

    def __get__(self, backend: CloudTasksBackend | None, owner: type) -> bool:
        return False if backend is None else self._ask(backend)


class CloudTasksBackend(SiteBackend):
    """Creates tasks in queues of Google Cloud Tasks, which call the app back to execute them.

    The backend looks nothing up and opens no connection before the first task is enqueued.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = Offered(lambda backend: bool(backend.configuration.options.priority_queues))
    supports_get_result = Offered(lambda backend: backend.configuration.options.results is not None)

    task_class = CloudTask

    # All instances share these sets, because Django creates an instance for each thread. So a
    # warning is logged once per process, and a function is looked up once.
    _told_of_priority: ClassVar[set[str]] = set()
    _findable: ClassVar[WeakSet[Callable[..., Any]]] = WeakSet()

    def validate_task(self, task: Task[..., Any]) -> None:
        """Refuse a task that this backend cannot execute.

        The checks are those of Django and those of this package, for example whether Cloud Tasks
        accepts the names of the queues. If the options are faulty, nothing is checked.

        Raises:
            InvalidTask: the task cannot be executed by this backend.
        """
        try:
            options = self.configuration.options
        except OptionsError:
            # The import of a module with tasks must not fail. `check` reports all faults of the
            # options at once, and `enqueue()` raises them.
            return
        if task.run_after is not None and not isinstance(task.run_after, datetime):
            raise InvalidTask(
                f"run_after must be a datetime, not {task.run_after!r}. For a delay write "
                "timezone.now() + timedelta(...)."
            )
        if task.priority != DEFAULT_TASK_PRIORITY and not self.supports_priority:
            # Django refuses a priority that has no effect. This backend accepts it, and logs a
            # warning once. So the check of Django gets a copy that supports priorities.
            orderly = copy(self)
            vars(orderly)["supports_priority"] = True
            BaseTaskBackend.validate_task(orderly, task)
        else:
            super().validate_task(task)
        # This check depends only on the function, so it is not repeated at each enqueue.
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
        # This reads the options and not the store, because tasks are declared while Django still
        # loads its models.
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
        """Create the task in its queue, and return its result.

        With ENQUEUE_ON_COMMIT, the task is created after the commit of the open transactions. An
        error after the commit is logged and not raised.

        With RESULTS, the task is recorded in the caller's transaction and sent after its commit.
        After the commit the task is not lost. If Cloud Tasks does not accept it, the relay sends it
        later. The relay also sends a task that is due beyond the horizon of Cloud Tasks.

        Raises:
            InvalidTask: see `validate_task`.
            TypeError: JSON cannot represent an argument.
            EnqueueError: the task was not created. There is a subclass for each cause. With
                RESULTS, only PayloadTooLargeError is raised, because such a task can never be sent.
            ConfigurationError: a necessary value is neither set nor detected.
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
        """Create the task as `enqueue` does, on the running event loop.

        It uses a thread only in three cases:

        - Metadata or Google credentials are looked up for the first time.
        - RESULTS or ENQUEUE_ON_COMMIT is set, because a transaction of Django belongs to a thread.
        - The site has connected its own synchronous receivers to `task_enqueued`.
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
        """Enqueue a recorded task as a new task. `operating.replaying` uses this.

        One transaction writes the new record and changes the old one.

        Args:
            task: the task of the record `seen`.
            seen: the record of the task to repeat.
            again: whether to replay a task that was replayed before.
            on_refusal: called with the error after the commit if Cloud Tasks did not accept the new
                task. The relay sends the new task later.

        Returns:
            The decision with both records, or the reason why the task was not replayed.

        Raises:
            InvalidTask: see `validate_task`.
            InvalidTaskBackend: this backend keeps no results.
            EnqueueError: the task can never be sent.
            ConfigurationError: a necessary value is neither set nor detected.
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
            # The old record is written first. Another process that replays it waits for its lock,
            # and then changes nothing.
            if not store.replace(seen, decision.original):
                return ReplayRefusal.OVERTAKEN
            self._keep(configuration, store, prepared, decision.copy, on_refusal)
        return decision

    def enqueue_tick(
        self,
        task: Task[..., Any],
        schedule: Schedule,
        tick: datetime,
        *,
        seen: ScheduleState | None = None,
        then: ScheduleState | None = None,
    ) -> bool:
        """Enqueue the task of a tick of a schedule. `operating.recurring` calls this.

        With RESULTS, the record of the task and the state of the schedule are written in one
        transaction. Without RESULTS, the name of the Cloud Task prevents a second one.

        Args:
            task: the task, with the queue and the priority of the schedule.
            schedule: the schedule.
            tick: the tick.
            seen: the stored state of the schedule; None if it is new.
            then: the state to store with the task; None without RESULTS.

        Returns:
            Whether it was enqueued. False if another process was faster.

        Raises:
            InvalidTask: see `validate_task`.
            TypeError: an argument cannot be sent as JSON.
            EnqueueError: the task was not enqueued.
            ConfigurationError: a setting is missing.
        """
        configuration = self.configuration
        prepared = self._prepare(
            configuration, task, schedule.args, schedule.kwargs, tick=Tick(schedule.name, tick)
        )
        if configuration.results is None or then is None:
            self._create(configuration, prepared)
            return True
        store = configuration.results
        record = self._new_record(configuration, prepared)
        with store.atomic():
            if not store.replace_schedule(seen, then):
                return False
            self._keep(configuration, store, prepared, record)
        return True

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """Return the result of a task of this backend.

        Raises:
            TaskResultDoesNotExist: there is no record of the task, or the site does not have this
                task any more.
            UnreadableRecordError: the record is damaged, or a newer version wrote it.
            NotImplementedError: the backend keeps no results, because RESULTS is not set.
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
        """Return the messages of the system checks of this entry of `TASKS`.

        There are none if a URL pattern runs these checks (see `executing.url_patterns`).
        """
        from ..checks import check_backend
        from ..executing.url_patterns import sees_to_checks

        return [] if sees_to_checks() else check_backend(self)

    def _prepare[**P, R](
        self,
        configuration: Configuration,
        task: Task[P, R],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        tick: Tick | None = None,
    ) -> _Prepared[TaskResult[P, R]]:
        """Check and encode a task, without creating it.

        Errors in the task, in its arguments and in the configuration are raised here.
        """
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
            task_id=tick.task_id(url=route.url) if tick else runtime.new_id(),
            task_path=task.module_path,
            args=args,
            kwargs=kwargs,
            queue_name=task.queue_name,
            backend=self.alias,
            priority=task.priority,
            takes_context=task.takes_context,
            enqueued_at=now,
            recorded=configuration.results is not None,
            schedule=tick.schedule if tick else "",
            scheduled_for=tick.at if tick else None,
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
        """Refuse a task that a worker cannot import by its path. A function is looked up once.

        Raises:
            InvalidTask: the path does not lead to the task. The message names the object that it
                leads to.
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
        """Store the record of a new task, and send the task after the commit.

        Args:
            on_refusal: called with the error if Cloud Tasks did not accept the task.
        """
        result, now = prepared.result, prepared.enqueued_at
        store.add(record)

        def committed() -> None:
            if not is_beyond_horizon(record.run_after, now=now):
                try:
                    error = send(configuration, store, record, prepared.request, unless_silent=True)
                    if error is not None:
                        on_refusal(error)
                except Exception:
                    # For example, the database failed after the commit. The relay looks at the
                    # record later.
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
        """Return the aliases of the databases whose commits ENQUEUE_ON_COMMIT waits for."""
        on_commit = configuration.options.enqueue_on_commit
        if not on_commit:
            return []
        return awaited_transactions(None if on_commit is True else str(on_commit))

    def _create_late[**P, R](
        self, configuration: Configuration, prepared: _Prepared[TaskResult[P, R]]
    ) -> None:
        """Create a task after the commit. A `CloudTasksError` is logged and not raised.

        No caller can handle the error then, because its transaction is already committed.
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

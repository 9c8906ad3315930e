"""Send recorded tasks to Cloud Tasks. The relay and the process that enqueues a task use this."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import batched

import attrs
from django.db import InterfaceError, OperationalError
from django.tasks.exceptions import TaskResultDoesNotExist

from ...core.errors import (
    CloudTasksError,
    EnqueueError,
    LookUpError,
    ServiceUnavailableError,
    UnreadableRecordError,
)
from ...core.lifecycle import (
    RELAY_LEASE,
    UNREADABLE_WAIT,
    LookUp,
    Reschedule,
    back_off,
    found,
    gone,
    look,
    not_looked_up,
    release,
    retry_delay,
    sent,
    storable,
)
from ...core.names import CloudTaskName
from ...core.options import LostTasks
from ...core.outcomes import Relayed
from ...core.payload import Progress
from ...core.ports import ResultStore
from ...core.records import TaskRecord, UnreadableRecord
from ...core.requests import TaskRequest, build_task_request, queue_of_record
from ...core.retry_policy import TaskPolicy
from ..configuration import Configuration, stores_of
from ..exceptions import message_of
from ..registry import backends
from ..results.task_results import recorded_task
from ..runtime import get_runtime
from ..signals import send_finished
from ..signing import sign
from ..tasks import policy_of

logger = logging.getLogger("django_tasks_cloud_tasks")

BATCH = 100
"""Tasks that a relay takes in hand at once."""

_LONGEST_RUN = 30.0  # seconds that a request may have the relay run
_LOOKED_UP_AT_ONCE = 20  # tasks in one round
_AT_ONCE = 16  # creations under way at the same time


def send(
    configuration: Configuration,
    store: ResultStore,
    record: TaskRecord,
    request: TaskRequest | None = None,
    *,
    ahead: timedelta = timedelta(),
    unless_silent: bool = False,
) -> CloudTasksError | None:
    """Send a recorded task to Cloud Tasks, and record the result.

    Args:
        request: the request for this record, if it exists already.
        ahead: by how much the clock of Cloud Tasks is ahead of the clock of this process.
        unless_silent: whether to leave the task to the relay while the circuit breaker is open.

    Returns:
        The error if Cloud Tasks did not accept the task. It is logged, and the relay tries again.
    """
    if unless_silent and configuration.queue.is_silent:
        message = "Cloud Tasks did not answer recently."
        created: _Created = ServiceUnavailableError(message)
    else:
        created = _create(configuration, record, request, ahead=ahead)
    return _note(store, record, created)


def relay_batch(configurations: Mapping[str, Configuration], *, limit: int = BATCH) -> Relayed:
    """Handle the records that the relay has to look at now, up to `limit` from each store.

    Any number of processes can call this at the same time. Each process takes different records.
    If two processes take the same record, its name prevents a second Cloud Task.

    Args:
        configurations: the configurations of the backends, by alias.
    """
    total, more = Relayed(0, 0), False
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="relay") as pool:
        for store in stores_of(configurations.values()):
            own = {alias: c for alias, c in configurations.items() if c.results is store}
            done = _relay_from(store, own, limit, pool)
            total, more = total.and_then(done), more or done.more
    return attrs.evolve(total, more=more)


def relay_for(aliases: Collection[str]) -> Relayed:
    """Relay for these backends until nothing is due, or for half a minute."""
    configurations = {
        backend.alias: backend.configuration for backend in backends() if backend.alias in aliases
    }
    until = time.monotonic() + _LONGEST_RUN
    total = Relayed(0, 0)
    while True:
        total = total.and_then(relay_batch(configurations))
        if not total.more or time.monotonic() > until:
            return total


def _relay_from(
    store: ResultStore,
    configurations: Mapping[str, Configuration],
    limit: int,
    pool: ThreadPoolExecutor,
) -> Relayed:
    now = get_runtime().clock()
    due = store.due(configurations.keys(), now=now, until=now + RELAY_LEASE, limit=limit)
    ready: list[TaskRecord] = []
    unsure: list[LookUp] = []
    errors: list[CloudTasksError | None] = []
    for record in due:
        if isinstance(record, UnreadableRecord):
            errors.append(_set_aside(store, record.task_id, record.reason, UNREADABLE_WAIT))
            continue
        with _each_for_itself(store, record, errors):
            decision = look(record, now=now)
            if decision.record is not record and not store.replace(record, decision.record):
                continue  # Another process has claimed it.
            if decision.record.final and not record.final:
                send_finished(decision.record)
            if isinstance(decision, LookUp):
                unsure.append(decision)
            elif not isinstance(decision, Reschedule):
                ready.append(decision.record)
    silent = _look_up(store, configurations, unsure, ready, errors)
    for some in batched(ready, _AT_ONCE):
        if silent:
            # Cloud Tasks does not answer, so these calls would only wait.
            for record in some:
                store.replace(record, release(record, now=now))
            continue
        # Only the calls to Cloud Tasks run in threads: the database connection is of this thread.
        answers = list(pool.map(lambda r: _create(configurations[r.payload.backend], r), some))
        for record, created in zip(some, answers, strict=True):
            with _each_for_itself(store, record, errors):
                errors.append(_note(store, record, created))
        silent = any(isinstance(a, CloudTasksError) and a.unanswered for a in answers)
    failed = sum(error is not None for error in errors)
    more = len(due) == limit and not silent
    return Relayed(len(errors) - failed, failed, more)


def _look_up(
    store: ResultStore,
    configurations: Mapping[str, Configuration],
    unsure: Sequence[LookUp],
    ready: list[TaskRecord],
    errors: list[CloudTasksError | None],
) -> bool:
    """Ask Cloud Tasks whether it still has tasks that it should have delivered.

    A call looks up at most 20 tasks, one after the other. The others are looked up later.

    Args:
        ready: receives the records that are to be sent again.

    Returns:
        Whether Cloud Tasks did not answer.
    """
    silent = False
    for number, decision in enumerate(unsure):
        record = decision.record
        with _each_for_itself(store, record, errors):
            if silent or number >= _LOOKED_UP_AT_ONCE:
                store.replace(record, not_looked_up(record, now=get_runtime().clock()))
                continue
            configuration = configurations[record.payload.backend]
            try:
                there = _is_there(configuration, decision)
            except LookUpError as error:
                silent = error.unanswered
                _tell_of_look_up(configuration, record, error)
                store.replace(record, not_looked_up(record, now=get_runtime().clock()))
                continue
            now = get_runtime().clock()
            if there:
                store.replace(record, found(record, now=now))
                continue
            redelivered = configuration.options.lost_tasks is LostTasks.REDELIVER
            limit = _policy(record).over(configuration.options.policy).limit
            after = gone(record, now=now, redelivered=redelivered, max_attempts=limit)
            if not store.replace(record, after):
                continue  # Another process has claimed it.
            logger.error(
                "Cloud Tasks does not have the task %s (%s) any more, after %d of %d attempts. %s",
                record.task_id,
                record.payload.task_path,
                len(record.attempts),
                limit,
                "It is sent again." if redelivered else "It is marked as failed.",
            )
            if after.final:
                send_finished(after)
            else:
                ready.append(after)
    return silent


def _is_there(configuration: Configuration, wanted: LookUp) -> bool:
    """Return whether one of these Cloud Tasks exists.

    Raises:
        LookUpError: Cloud Tasks refused, or did not answer.
    """
    queue = queue_of_record(wanted.record, route=configuration.route)
    timeout = configuration.options.enqueue_timeout
    return any(
        configuration.queue.exists(queue, name, timeout=timeout)
        for name in reversed(wanted.cloud_task_ids)
    )


_told_of_permission: set[str] = set()


def _tell_of_look_up(configuration: Configuration, record: TaskRecord, error: LookUpError) -> None:
    """Log why a task was not looked up. A missing permission is logged once for each project."""
    if error.forbidden:
        project = configuration.route.project
        if project in _told_of_permission:
            return
        _told_of_permission.add(project)
    logger.warning(
        "The task %s has not been delivered, and it is not known whether Cloud Tasks still has it. "
        "%s%s",
        record.task_id,
        error,
        " (This is logged once.)" if error.forbidden else "",
    )


@contextmanager
def _each_for_itself(
    store: ResultStore, record: TaskRecord, errors: list[CloudTasksError | None]
) -> Iterator[None]:
    """Set a record aside if it cannot be handled, so that the rest of the batch is handled.

    An error of the database connection is raised, because it concerns all records.
    """
    try:
        yield
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        logger.exception("The relay cannot handle the task %s.", record.task_id)
        reason = f"{type(error).__name__}: {message_of(error)}"
        errors.append(_set_aside(store, record.task_id, reason, retry_delay(record)))


def _set_aside(store: ResultStore, task_id: str, reason: str, wait: timedelta) -> CloudTasksError:
    """Set a record aside for some time. The reason is recorded and logged."""
    logger.error("The relay leaves the task %s alone for %s: %s", task_id, wait, reason)
    store.set_aside(task_id, storable(reason), until=get_runtime().clock() + wait)
    return UnreadableRecordError(reason)


type _Created = CloudTaskName | CloudTasksError | None
"""The name of a created Cloud Task, if the request names it, or why it was not created."""


def _create(
    configuration: Configuration,
    record: TaskRecord,
    request: TaskRequest | None = None,
    *,
    ahead: timedelta = timedelta(),
) -> _Created:
    try:
        if request is None:
            request = _request(configuration, record, ahead=ahead)
        configuration.queue.create(request, timeout=configuration.options.enqueue_timeout)
    except CloudTasksError as error:
        return error
    except Exception as error:
        # The error concerns this task only, so the rest of the batch continues.
        logger.exception("The task %s could not be sent.", record.task_id)
        return EnqueueError(f"{type(error).__name__}: {message_of(error)}")
    return request.name


def _request(configuration: Configuration, record: TaskRecord, *, ahead: timedelta) -> TaskRequest:
    # The worker uses the progress only if RESULTS was turned off since.
    progress = Progress(attempts=len(record.attempts), number=record.redelivery.count)
    payload = attrs.evolve(record.payload, progress=progress)
    body = payload.encode()
    return build_task_request(
        payload,
        body=body,
        signature=sign(body),
        route=configuration.route,
        policy=_policy(record).over(configuration.options.policy),
        run_after=record.due_at + ahead if record.due_at else None,
        now=get_runtime().clock() + ahead,
        number=record.redelivery.count,
    )


def _policy(record: TaskRecord) -> TaskPolicy:
    """Return the policy of the task; an empty one if the site does not have the task any more."""
    try:
        return policy_of(recorded_task(record, due=False))
    except TaskResultDoesNotExist as error:
        logger.warning("The task is sent without its retry settings. %s", error)
        return TaskPolicy()


def _note(store: ResultStore, record: TaskRecord, created: _Created) -> CloudTasksError | None:
    """Record whether Cloud Tasks accepted a task, unless the record has changed since.

    Returns:
        The error if Cloud Tasks did not accept it.
    """
    if not isinstance(created, CloudTasksError):
        store.replace(record, sent(record, now=get_runtime().clock(), name=created))
        return None
    error = created
    level = logging.WARNING if error.unanswered else logging.ERROR
    logger.log(
        level,
        "The task %s (%s) is recorded and waits for the relay: %s",
        record.task_id,
        record.payload.task_path,
        error,
    )
    store.replace(record, back_off(record, str(error), now=get_runtime().clock()))
    return error

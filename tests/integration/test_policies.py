"""Tests of retry policies on the emulator. The tests move its clock.

Every test runs with and without a record, on the synchronous and on the asynchronous view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.tasks import Task, TaskResultStatus
from django.tasks.signals import task_finished
from django_tasks_cloud_tasks import Discard, Retry, Snooze
from django_tasks_cloud_tasks.adapters.client_version import sends_retry_config
from django_tasks_cloud_tasks.adapters.guarded_queue import GuardedTaskQueue
from django_tasks_cloud_tasks.core.errors import PayloadTooLargeError, ServiceUnavailableError
from django_tasks_cloud_tasks.core.payload import Progress, TaskPayload
from django_tasks_cloud_tasks.core.requests import TaskRequest
from django_tasks_cloud_tasks.django_integration.executing import execution
from django_tasks_cloud_tasks.django_integration.models import StoredTask
from django_tasks_cloud_tasks.django_integration.operating.relay import relay_batch
from django_tasks_cloud_tasks.django_integration.registry import recording_backends
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime
from django_tasks_cloud_tasks.django_integration.testing.contexts import (
    EmulatorInHand,
    emulating,
)
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from pytest_django.live_server_helper import LiveServer

from tests import policy_tasks
from tests.integration.deliveries import PATHS, post_signed
from tests.integration.recording import hearing
from tests.policy_tasks import ANSWERS, ASKED, ATTEMPTS, SCRIPT, SEEN

ERROR = ValueError("no such order")
MINUTE = timedelta(minutes=1)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["stored", "default"], ids=["recorded", "unrecorded"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def emulator(
    request: pytest.FixtureRequest, settings: Any, live_server: LiveServer
) -> Iterator[EmulatorInHand]:
    path = {"TASK_HANDLER_PATH": request.param}
    settings.TASKS = {
        alias: {**entry, "OPTIONS": {**entry["OPTIONS"], **path}}
        for alias, entry in settings.TASKS.items()
    }
    for left in (SCRIPT, SEEN, ATTEMPTS, ASKED, ANSWERS):
        left.clear()
    with emulating(live_server.url) as in_hand:
        yield in_hand


def variants(*names: str) -> pytest.MarkDecorator:
    """Parametrize a test with the function and the coroutine of each of these tasks."""
    both = [name + kind for name in names for kind in ("", "_async")]
    return pytest.mark.parametrize("task", [getattr(policy_tasks, name) for name in both], ids=both)


def statuses(emulator: EmulatorInHand) -> list[int | None]:
    return [attempt.status for attempt in emulator.finished]


def again(task: Task[..., Any]) -> int:
    """Return the status of the response to an attempt after which the task is repeated.

    The status is 500 if the queue repeats the task, and 200 if the endpoint does.
    """
    by_endpoint = task.func.__name__.startswith("data") and not sends_retry_config()
    return 200 if by_endpoint else 500


def row(task_id: str) -> StoredTask:
    found: StoredTask = StoredTask.objects.get(task_id=task_id)
    return found


@variants("plain", "data")
def test_between_attempts_a_task_is_ready_and_in_the_end_it_has_one_end(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    SCRIPT[:] = [ERROR, ERROR, "done"]
    with hearing(task_finished, of=lambda result: (result.status, result.attempts)) as ends:
        result = task.using(backend=backend).enqueue()
        emulator.settle()
        assert ends == []
        if backend == "stored":
            result.refresh()
            assert (result.status, result.is_finished) == (TaskResultStatus.READY, False)
            assert len(result.errors) == 1
        emulator.advance(3600)
    assert ends == [("SUCCESSFUL", 3)]
    assert statuses(emulator) == [again(task), again(task), 200]
    assert ATTEMPTS == [1, 2, 3]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    limit = SEEN[0].max_attempts
    assert [f"failed in attempt {n} of {limit}" in text for n, text in enumerate(warnings, 1)] == [
        True,
        True,
    ]


@variants("data")
def test_a_policy_that_is_data_is_carried_by_the_cloud_task_and_ends_the_task(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str
) -> None:
    SCRIPT[:] = [ERROR] * 3
    with hearing(task_finished, of=lambda result: result.status) as ends:
        result = task.using(backend=backend).enqueue()
        emulator.settle()
        (waiting,) = emulator.waiting()
        if sends_retry_config():
            assert waiting.retries
            assert (waiting.retries.max_attempts, waiting.retries.min_backoff) == (3, 10)
            assert (waiting.retries.max_backoff, waiting.retries.max_doublings) == (300, 3)
        emulator.advance(9)
        assert len(SEEN) == 1
        emulator.advance(1)
        assert len(SEEN) == 2
        emulator.advance(20)
    assert statuses(emulator) == [again(task), again(task), 200]
    assert ends == ["FAILED"]
    assert emulator.waiting() == []
    if backend == "stored":
        result.refresh()
        assert (result.status, len(result.errors)) == (TaskResultStatus.FAILED, 3)
        assert row(result.id).failure == "builtins.ValueError"


@variants("function")
def test_a_function_chooses_each_wait_and_may_give_up(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str
) -> None:
    SCRIPT[:], ANSWERS[:] = [ERROR] * 3, [60, timedelta(hours=2), None]
    with hearing(task_finished, of=lambda result: result.status) as ends:
        result = task.using(backend=backend).enqueue()
        emulator.settle()
        emulator.advance(59)
        assert len(SEEN) == 1
        emulator.advance(1)
        assert len(SEEN) == 2
        emulator.advance(7200)
    assert statuses(emulator) == [200, 200, 200]
    assert [(attempts, errors) for _, attempts, errors in ASKED] == [
        (n, n if backend == "stored" else 1) for n in (1, 2, 3)
    ]
    assert ends == ["FAILED"]
    assert [context.cloud_task_name for context in SEEN] == [
        result.id,
        f"{result.id}-1",
        f"{result.id}-2",
    ]
    assert ATTEMPTS == [1, 2, 3]
    assert emulator.waiting() == []


@variants("function")
@pytest.mark.parametrize("answer", [RuntimeError("no idea"), -1, "soon"])
def test_a_function_that_fails_is_logged_and_the_default_wait_is_used(
    task: Task[..., Any],
    answer: object,
    emulator: EmulatorInHand,
    backend: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    SCRIPT[:], ANSWERS[:] = [ERROR, "done"], [answer]
    task.using(backend=backend).enqueue()
    emulator.settle()
    emulator.advance(1)
    assert len(SEEN) == 2
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "The default wait is used" in error.getMessage()
    assert error.exc_info is not None


@variants("plain")
def test_a_task_chooses_when_it_comes_back_and_it_counts(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str
) -> None:
    def at(_: object) -> None:
        raise Retry(at=get_runtime().clock() + timedelta(hours=1))

    SCRIPT[:] = [Retry(after=90), at, "done"]
    task.using(backend=backend).enqueue()
    emulator.settle()
    emulator.advance(89)
    assert len(SEEN) == 1
    emulator.advance(1)
    assert len(SEEN) == 2
    emulator.advance(3600)
    assert ATTEMPTS == [1, 2, 3]
    assert statuses(emulator) == [200, 200, 200]


@variants("plain")
def test_a_snooze_is_no_failure_and_does_not_count(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    def until(_: object) -> None:
        raise Snooze(until=get_runtime().clock() + timedelta(hours=1))

    SCRIPT[:] = [Snooze(for_=MINUTE), until, ERROR, "done"]
    with hearing(task_finished, of=lambda result: (result.status, result.attempts)) as ends:
        result = task.using(backend=backend).enqueue()
        emulator.settle()
        if backend == "stored":
            result.refresh()
            assert (result.status, result.errors, result.attempts) == ("READY", [], 0)
        emulator.advance(60)
        emulator.advance(3600)
        emulator.advance(3600)
    assert ATTEMPTS == [1, 1, 1, 2]
    assert ends == [("SUCCESSFUL", 2)]
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1, "the failure"


@variants("plain")
def test_a_task_without_a_record_snoozes_for_31_days_and_one_with_a_record_for_ever(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str
) -> None:
    SCRIPT[:] = [Snooze(for_=timedelta(days=10)) for _ in range(5)] + ["done"]
    with hearing(task_finished, of=lambda result: result.status) as ends:
        task.using(backend=backend).enqueue()
        emulator.settle()
        for _ in range(6):
            emulator.advance(10 * 86_400)
    assert (len(SEEN), ends) == ((6, ["SUCCESSFUL"]) if backend == "stored" else (4, ["FAILED"]))


@variants("plain", "function")
def test_a_discarded_task_has_failed_at_once(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    SCRIPT[:] = [Discard("the order was cancelled")]
    with hearing(task_finished, of=lambda result: result.status) as ends:
        result = task.using(backend=backend).enqueue()
        emulator.settle()
    assert (statuses(emulator), ends, emulator.waiting()) == ([200], ["FAILED"], [])
    assert "because the task was discarded" in caplog.text
    if backend == "stored":
        result.refresh()
        assert result.errors[0].exception_class is Discard
        assert "the order was cancelled" in result.errors[0].traceback


@variants("plain")
def test_the_context_tells_the_attempt_its_limit_and_its_deadline(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str
) -> None:
    SCRIPT[:] = ["done"]
    result = task.using(backend=backend, queue_name="mail").enqueue()
    emulator.settle()
    (context,) = SEEN
    assert (context.attempt, context.max_attempts) == (1, 100)
    assert (context.queue_name, context.cloud_task_name) == ("mail", result.id)
    assert context.remaining() == 10 * MINUTE
    assert context.deadline == get_runtime().clock() + 10 * MINUTE


@variants("timed")
def test_the_dispatch_deadline_follows_the_timeout(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str
) -> None:
    later = get_runtime().clock() + MINUTE
    task.using(backend=backend, run_after=later).enqueue()
    (waiting,) = emulator.waiting()
    seconds = 15 if task.func.__name__ == "timed_async" else 120
    assert waiting.deadline == seconds * SECOND


def test_a_function_is_told_of_its_deadline_and_the_record_says_that_it_overran(
    emulator: EmulatorInHand,
    backend: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock of the site moves forward by three minutes while the function runs."""
    runtime = get_runtime()
    began = runtime.clock()

    def takes_long(context: Any) -> str:
        monkeypatch.setattr(runtime, "clock", lambda: began + 3 * MINUTE)
        assert context.remaining() == -MINUTE
        return "done"

    SCRIPT[:] = [takes_long]
    result = policy_tasks.timed.using(backend=backend).enqueue()
    emulator.settle()
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "took 180.0 s. Cloud Tasks waits 120 s" in said
    assert "Set the timeout of the task, or DISPATCH_DEADLINE" in said
    if backend == "stored":
        (attempt,) = row(result.id).record.attempts
        assert "took 180.0 s" in attempt.note


def test_a_coroutine_is_stopped_at_its_timeout(
    emulator: EmulatorInHand, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changed ANSWER_TIME leaves 0.1 s of the timeout of 15 s."""
    monkeypatch.setattr(
        "django_tasks_cloud_tasks.django_integration.executing.execution.ANSWER_TIME",
        timedelta(seconds=14.9),
    )

    def waits(_: object) -> Any:
        return asyncio.Event().wait()

    SCRIPT[:] = [waits]
    result = policy_tasks.timed_async.using(backend=backend).enqueue()
    emulator.settle()
    assert statuses(emulator) == [500]
    if backend == "stored":
        result.refresh()
        (error,) = result.errors
        assert error.exception_class is TimeoutError
        assert "its timeout is 0:00:15" in error.traceback


@variants("plain")
def test_a_task_that_is_due_in_two_years_runs_then_once_and_as_its_first_attempt(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str
) -> None:
    SCRIPT[:] = ["done"]
    due = get_runtime().clock() + timedelta(days=730)
    task.using(backend=backend, run_after=due).enqueue()
    for days in [29] * 25 + [5, -1]:
        if days < 0:
            emulator.advance(60)
            assert SEEN == [], "a minute before"
            emulator.advance(86_400 - 60)
            continue
        emulator.advance(days * 86_400 if days != 5 else 4 * 86_400 - 120)
        relay_batch(recording_backends())
        emulator.settle()
        assert SEEN == []
    emulator.advance(180)
    assert ATTEMPTS == [1]
    assert emulator.waiting() == []


@variants("function")
def test_the_answer_is_503_where_the_next_cloud_task_cannot_be_made(
    task: Task[..., Any],
    emulator: EmulatorInHand,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a record the status is 200, because the relay creates the Cloud Task later."""
    from django_tasks_cloud_tasks.adapters.guarded_queue import GuardedTaskQueue

    SCRIPT[:], ANSWERS[:] = [ERROR, "done"], [5, 5]
    task.using(backend=backend).enqueue()

    def refuse(*_: object, **__: object) -> None:
        raise ServiceUnavailableError("Cloud Tasks does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(GuardedTaskQueue, "create", refuse)
        emulator.settle()
    if backend == "stored":
        assert statuses(emulator) == [200]
        emulator.advance(60)
        relay_batch(recording_backends())
        emulator.settle()
    else:
        assert statuses(emulator) == [503]
        emulator.advance(60)
    assert len(SEEN) == 2
    assert emulator.waiting() == []


@pytest.mark.skipif(not sends_retry_config(), reason="no Cloud Task carries its own limit")
@pytest.mark.parametrize("backend", ["default"], indirect=True)
@pytest.mark.parametrize("emulator", [PATHS["sync"]], indirect=True)
def test_the_last_dispatch_tries_again_to_make_the_next_cloud_task(
    emulator: EmulatorInHand,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    SCRIPT[:] = [Snooze(for_=60), "done"]
    create, refusals = GuardedTaskQueue.create, [ServiceUnavailableError("not now")]

    def refuse_once(queue: GuardedTaskQueue, request: TaskRequest, *, timeout: float) -> None:
        if refusals and request.task_id and request.task_id.endswith("-1"):
            raise refusals.pop()
        create(queue, request, timeout=timeout)

    monkeypatch.setattr(GuardedTaskQueue, "create", refuse_once)
    policy_tasks.once.using(backend=backend).enqueue()
    emulator.settle()
    emulator.advance(60)
    assert (statuses(emulator), refusals) == ([200, 200], [])
    assert "Creating a Cloud Task is tried again in 1 s. not now" in caplog.text


@pytest.mark.parametrize("backend", ["default"], indirect=True)
def test_a_hop_is_delivered_again_although_the_task_has_one_attempt(
    emulator: EmulatorInHand, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SCRIPT[:] = ["done"]
    due = get_runtime().clock() + timedelta(days=60)
    policy_tasks.once.using(backend=backend, run_after=due).enqueue()
    with monkeypatch.context() as away:
        away.setattr(GuardedTaskQueue, "create", refuse)
        emulator.advance(719 * 3600)
    assert statuses(emulator) == [503]
    emulator.advance(31 * 86_400)
    emulator.advance(31 * 86_400)
    assert len(SEEN) == 1


def refuse(*_: object, **__: object) -> None:
    raise ServiceUnavailableError("Cloud Tasks does not answer")


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()], ids=repr)
@variants("function")
def test_whatever_a_backoff_function_raises_the_default_wait_is_used(
    task: Task[..., Any],
    emulator: EmulatorInHand,
    backend: str,
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    SCRIPT[:], ANSWERS[:] = [ERROR, "done"], [error]
    task.using(backend=backend).enqueue()
    emulator.settle()
    emulator.advance(60)
    assert len(SEEN) == 2
    assert "The default wait is used." in caplog.text


@variants("data")
def test_the_log_says_when_the_queue_repeats_a_task_that_retried(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    SCRIPT[:] = [Retry(after=1), ERROR, "done"]
    task.using(backend=backend).enqueue()
    emulator.settle()
    emulator.advance(1)
    failed_at = get_runtime().clock()
    *_, said = [r.getMessage() for r in caplog.records if "attempted again at" in r.getMessage()]
    wait = datetime.fromisoformat(said.split("again at ")[1].removesuffix(" UTC.") + "Z")
    seconds = round((wait - failed_at).total_seconds())
    emulator.advance(seconds - 2)
    assert len(SEEN) == 2, "too early"
    emulator.advance(4)
    assert len(SEEN) == 3, "too late"


@variants("plain")
def test_the_wait_is_right_where_only_the_clock_of_the_emulator_was_moved(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = get_runtime()
    now = runtime.clock()
    monkeypatch.setattr(runtime, "clock", lambda: now)
    emulator.advance(60 * 86_400)
    SCRIPT[:] = [Retry(after=3_600), "done"]
    task.using(backend=backend).enqueue()
    emulator.settle()
    emulator.advance(3_599)
    assert len(SEEN) == 1
    emulator.advance(2)
    assert len(SEEN) == 2


@variants("plain")
def test_a_clock_that_is_ahead_schedules_nothing_beyond_the_horizon(
    task: Task[..., Any], emulator: EmulatorInHand, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = get_runtime()
    right = runtime.clock
    monkeypatch.setattr(runtime, "clock", lambda: right() + timedelta(seconds=1))
    SCRIPT[:] = [Retry(after=timedelta(days=30)), "done"]
    task.using(backend=backend).enqueue()
    emulator.settle()
    assert statuses(emulator) == [200]
    relay_batch(recording_backends())
    for _ in range(2):
        emulator.advance(16 * 86_400)
        relay_batch(recording_backends())
    assert len(SEEN) == 2


@pytest.mark.parametrize("wish", [Snooze(for_=3_600), Retry(after=3_600)], ids=["snooze", "retry"])
@pytest.mark.parametrize("emulator", [PATHS["sync"]], indirect=True)
def test_the_next_cloud_task_of_the_largest_task_fits_too(
    emulator: EmulatorInHand, backend: str, wish: Snooze | Retry
) -> None:
    size, made = 1_048_000, None
    while made is None:
        try:
            made = policy_tasks.takes_data.using(backend=backend).enqueue("x" * size)
        except PayloadTooLargeError as error:
            size -= error.size - error.limit
    SCRIPT[:] = [wish, wish, "done"]
    emulator.settle()
    emulator.advance(3_600)
    emulator.advance(3_600)
    assert (len(SEEN), set(statuses(emulator))) == (3, {200})


@pytest.mark.parametrize("backend", ["default"], indirect=True)
def test_deliveries_that_come_twice_make_one_next_cloud_task_without_names_too(
    emulator: EmulatorInHand, backend: str, settings: Any
) -> None:
    entry = settings.TASKS[backend]
    unnamed = {**entry, "OPTIONS": {**entry["OPTIONS"], "NAME_TASKS": False}}
    settings.TASKS = {**settings.TASKS, backend: unnamed}
    SCRIPT[:], ANSWERS[:] = [ERROR] * 100, [1] * 100
    emulator.chaos("seed=1,duplicate=1,drop=0,refuse=0,delay=0")
    policy_tasks.function.using(backend=backend).enqueue()
    emulator.settle()
    for _ in range(5):
        emulator.advance(2)
    assert len(SEEN) == 8, "4 attempts, each delivered twice"


@pytest.mark.parametrize("emulator", list(PATHS.values()), indirect=True, ids=list(PATHS))
def test_a_coroutine_behind_a_decorator_is_stopped_at_its_timeout_too(
    emulator: EmulatorInHand, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The coroutine is stopped after 0.1 s, although its timeout is 15 s.
    answer_time = f"{execution.__name__}.ANSWER_TIME"
    monkeypatch.setattr(answer_time, timedelta(seconds=14.9))
    policy_tasks.wrapped.using(backend=backend).enqueue()
    emulator.settle()
    assert statuses(emulator) == [500]


@pytest.mark.parametrize("emulator", [PATHS["sync"]], indirect=True)
def test_a_task_snoozes_every_second_for_years(emulator: EmulatorInHand, backend: str) -> None:
    progress = Progress(number=80_000_000)
    payload = TaskPayload(
        task_id="poller",
        task_path="tests.policy_tasks.plain",
        args=[],
        kwargs={},
        backend=backend,
        enqueued_at=get_runtime().clock(),
        progress=progress,
    )
    SCRIPT[:] = [Snooze(for_=1), "done"]
    headers = {"X-CloudTasks-TaskName": "poller-80000000"}
    assert post_signed(PATHS["sync"], payload.encode(), headers=headers).status_code == 200
    emulator.advance(2)
    assert len(SEEN) == 2

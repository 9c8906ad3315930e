"""Enqueueing over real gRPC, to a real emulator or to a server that fails on demand."""

import asyncio
import dataclasses
import json
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.tasks import TaskResultStatus, task, task_backends
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_enqueued
from django.test import override_settings
from django.utils import timezone
from django_tasks_cloud_tasks import (
    CloudTasksBackend,
    ConfigurationError,
    EnqueueError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QueueNotFoundError,
    ServiceUnavailableError,
)
from django_tasks_cloud_tasks.adapters.cloud_tasks import GrpcTaskQueue
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.core.names import QueueName
from django_tasks_cloud_tasks.core.payload import Progress
from django_tasks_cloud_tasks.core.requests import TaskRequest
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, get_runtime, use_runtime
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.testing import CapturedTasks, EmulatorInHand
from google.cloud.tasks_v2.types import CreateTaskRequest
from pytest_django import DjangoDbBlocker

from tests import tasks
from tests.models import Mark

OPTIONS = {
    "CLOUD_TASKS_PROJECT": "test-project",
    "CLOUD_TASKS_LOCATION": "europe-west1",
    "TASK_HANDLER_HOST": "http://127.0.0.1:1",
}


def with_options(**options: Any) -> override_settings:
    backend = "django_tasks_cloud_tasks.CloudTasksBackend"
    return override_settings(
        TASKS={"default": {"BACKEND": backend, "QUEUES": [], "OPTIONS": OPTIONS | options}}
    )


# From the enqueueing to the execution, with the emulator


@pytest.mark.django_db(transaction=True)
def test_an_enqueued_task_is_delivered_and_run(
    cloud_tasks_emulator: EmulatorInHand, ran: list[object]
) -> None:
    heard = []

    def hear(sender: type, task_result: Any, **_: object) -> None:
        heard.append((sender.__name__, task_result.id, task_result.enqueued_at is not None))

    task_enqueued.connect(hear)
    try:
        result = tasks.add.enqueue(1, b=2)
    finally:
        task_enqueued.disconnect(hear)
    cloud_tasks_emulator.settle()
    assert ran == [("add", 1, 2)]
    assert result.status is TaskResultStatus.READY
    assert (result.args, result.kwargs, result.backend) == ([1], {"b": 2}, "default")
    assert result.enqueued_at is not None
    assert heard == [("CloudTasksBackend", result.id, True)]
    (attempt,) = cloud_tasks_emulator.finished
    assert attempt.task.endswith(f"/queues/default/tasks/{result.id}")
    assert (attempt.number, attempt.status) == (1, 200)


@pytest.mark.django_db(transaction=True)
def test_a_failing_task_is_retried_and_knows_its_attempt(
    cloud_tasks_emulator: EmulatorInHand, ran: list[object]
) -> None:
    tasks.fails_twice.enqueue()
    cloud_tasks_emulator.settle()
    assert ran == [1]
    cloud_tasks_emulator.advance(0.1)
    assert ran == [1, 2]
    cloud_tasks_emulator.advance(0.19)
    assert ran == [1, 2]
    cloud_tasks_emulator.advance(0.01)
    assert ran == [1, 2, 3]
    assert cloud_tasks_emulator.waiting() == []


@pytest.mark.django_db(transaction=True)
def test_a_delayed_task_runs_when_it_is_due(
    cloud_tasks_emulator: EmulatorInHand, ran: list[object]
) -> None:
    tomorrow = timezone.now() + timedelta(days=1)
    tasks.add.using(run_after=tomorrow).enqueue(1, 2)
    cloud_tasks_emulator.advance(86_000)
    assert ran == []
    (waiting,) = cloud_tasks_emulator.waiting()
    assert abs(waiting.schedule_time / 1e9 - tomorrow.timestamp()) < 0.000_002
    cloud_tasks_emulator.advance(500)
    assert ran == [("add", 1, 2)]


@pytest.mark.django_db(transaction=True)
def test_a_task_of_a_backend_with_an_account_carries_a_token_that_the_view_requires(
    cloud_tasks_emulator: EmulatorInHand, ran: list[object], settings: Any
) -> None:
    account = {"OIDC_SERVICE_ACCOUNT_EMAIL": "tasks@test-project.iam.gserviceaccount.com"}
    options = settings.TASKS["default"]["OPTIONS"] | account
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": options}}
    tasks.add.enqueue(1, 2)
    cloud_tasks_emulator.settle()
    assert ran == [("add", 1, 2)]
    (waiting,) = cloud_tasks_emulator.finished
    assert waiting.status == 200


@pytest.mark.django_db(transaction=True)
async def test_aenqueue_uses_no_thread(cloud_tasks_emulator: EmulatorInHand) -> None:
    await tasks.add.aenqueue(0, 0)
    before = {thread.name for thread in threading.enumerate()}
    results = await asyncio.gather(*(tasks.add.aenqueue(n, n) for n in range(20)))
    borrowed = {thread.name for thread in threading.enumerate()} - before
    # Event loops name their threads asyncio_N; the loop of the emulator in this process has some.
    assert asyncio.get_running_loop()._default_executor is None  # type: ignore[attr-defined]
    assert not any(name.startswith("ThreadPool") for name in borrowed), borrowed
    assert len({result.id for result in results}) == 20
    assert all(result.enqueued_at for result in results)


def test_each_event_loop_has_its_own_channel(cloud_tasks: CapturedTasks) -> None:
    with BackgroundEmulator(lambda: Emulator(create_queues=True)) as emulator:
        runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
        with use_runtime(runtime), with_options(EMULATOR_HOST=emulator.address):
            ids = {asyncio.run(tasks.add.aenqueue(1, 1)).id for _ in range(3)}
    assert len(ids) == 3


# The contents of the request


def test_priority_chooses_the_queue(cloud_tasks: CapturedTasks) -> None:
    with with_options(PRIORITY_QUEUES={50: "{queue}-urgent", -50: "{queue}-bulk"}):
        for priority in (60, 0, -60):
            tasks.add.using(priority=priority).enqueue(1, 1)
    assert [task.request.queue.queue for task in cloud_tasks.pending] == [
        "default-urgent",
        "default",
        "default-bulk",
    ]
    assert [task.payload.priority for task in cloud_tasks.pending] == [60, 0, -60]
    assert {task.payload.queue_name for task in cloud_tasks.pending} == {"default"}


def test_a_priority_without_priority_queues_is_logged_once(
    cloud_tasks: CapturedTasks, caplog: pytest.LogCaptureFixture
) -> None:
    from django_tasks_cloud_tasks import CloudTasksBackend

    CloudTasksBackend._told_of_priority.clear()
    for _ in range(3):
        tasks.add.using(priority=5).enqueue(1, 1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "PRIORITY_QUEUES" in caplog.text
    assert [task.payload.priority for task in cloud_tasks.pending] == [5, 5, 5]


@pytest.mark.parametrize("value", [object(), {1}, b"\xff", float("nan"), datetime(2026, 1, 1)])  # noqa: DTZ001
def test_an_argument_that_is_not_json_raises_a_type_error_and_is_not_sent(
    cloud_tasks: CapturedTasks, value: object
) -> None:
    with pytest.raises(TypeError, match=r"The arguments of tests\.tasks\.echo"):
        tasks.echo.enqueue(value)
    with pytest.raises(TypeError):
        asyncio.run(tasks.echo.aenqueue(value=value))
    assert cloud_tasks.pending == []


def test_a_task_that_is_too_large_is_refused_before_anything_is_sent(
    cloud_tasks: CapturedTasks,
) -> None:
    with pytest.raises(PayloadTooLargeError, match="1,048,569 is the limit") as raised:
        tasks.echo.enqueue("x" * 1_048_569)
    assert raised.value.size > raised.value.limit == 1_048_569
    tasks.echo.enqueue("x" * 1_047_000)
    assert len(cloud_tasks.pending) == 1


def test_a_task_that_is_due_in_two_years_is_scheduled_as_far_as_cloud_tasks_takes_it(
    cloud_tasks: CapturedTasks,
) -> None:
    due = timezone.now() + timedelta(days=730)
    tasks.add.using(run_after=due).enqueue(1, 1)
    (task,) = cloud_tasks.pending
    assert task.request.schedule_time
    ahead = task.request.schedule_time - timezone.now()
    assert timedelta(hours=718) < ahead < timedelta(hours=720)
    assert task.payload.progress == Progress(run_after=due, due_at=due)


def test_a_queue_name_that_cloud_tasks_refuses_makes_a_task_invalid() -> None:
    with pytest.raises(InvalidTask, match="'my_queue' cannot be a Cloud Tasks queue"):
        tasks.add.using(queue_name="my_queue")


def test_a_naive_time_is_in_the_time_zone_of_the_site(
    cloud_tasks: CapturedTasks, settings: Any
) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Tokyo"
    later = timezone.now() + timedelta(hours=1)
    result = tasks.add.using(run_after=later).enqueue(1, 1)
    assert result.enqueued_at is not None
    assert timezone.is_naive(result.enqueued_at)
    assert abs(result.enqueued_at + timedelta(hours=1) - later) < timedelta(seconds=60)
    (task,) = cloud_tasks.pending
    assert task.request.schedule_time == timezone.make_aware(later)


# Transactions


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("awaited", [False, True])
def test_a_rollback_leaves_no_task_that_is_enqueued_on_commit(
    cloud_tasks: CapturedTasks, awaited: bool
) -> None:
    from asgiref.sync import async_to_sync

    enqueue: Any = async_to_sync(tasks.add.aenqueue) if awaited else tasks.add.enqueue
    with with_options(ENQUEUE_ON_COMMIT=True):
        with transaction.atomic():
            enqueue(1, 1)
            transaction.set_rollback(True)
        assert cloud_tasks.pending == []
        with transaction.atomic():
            result: Any = enqueue(2, 2)
            assert cloud_tasks.pending == []
            assert not result.enqueued_at
            with pytest.raises(TypeError):
                enqueue(object(), 1)
        assert [task.payload.args for task in cloud_tasks.pending] == [[2, 2]]
        assert result.enqueued_at is not None
        enqueue(3, 3)
        assert len(cloud_tasks.pending) == 2, "outside of a transaction at once"


@pytest.mark.django_db(transaction=True)
def test_a_failed_enqueue_on_commit_is_logged_and_does_not_stop_the_others(
    cloud_tasks: CapturedTasks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, called = cloud_tasks._queue.create, []

    def refuse_one(request: Any, **more: Any) -> None:
        if b"[1,1]" in request.body:
            raise QueueNotFoundError("The queue does not exist")
        create(request, **more)

    monkeypatch.setattr(cloud_tasks._queue, "create", refuse_one)
    with with_options(ENQUEUE_ON_COMMIT=True):
        with transaction.atomic():
            lost = tasks.add.enqueue(1, 1)
            transaction.on_commit(lambda: called.append("the site's own"))
            tasks.add.enqueue(2, 2)
        assert called == ["the site's own"]
        assert [task.payload.args for task in cloud_tasks.pending] == [[2, 2]]
        (told,) = [r for r in caplog.records if r.levelname == "ERROR"]
        assert lost.id in told.getMessage()
        with pytest.raises(QueueNotFoundError):
            tasks.add.enqueue(1, 1)


@pytest.mark.parametrize("option", [True, "sqlite-file"])
def test_a_task_is_enqueued_on_commit_of_the_configured_database(
    cloud_tasks: CapturedTasks,
    sqlite_file: str,
    option: object,
    django_db_blocker: DjangoDbBlocker,
) -> None:
    with django_db_blocker.unblock(), with_options(ENQUEUE_ON_COMMIT=option):
        with transaction.atomic(using=sqlite_file):
            tasks.add.enqueue(1, 1)
            with transaction.atomic(using="default"):
                tasks.add.enqueue(2, 2)
            assert cloud_tasks.pending == [], "the other transaction is still open"
        assert len(cloud_tasks.pending) == 2
        with transaction.atomic(using=sqlite_file):
            with transaction.atomic(using="default"):
                tasks.add.enqueue(3, 3)
            transaction.set_rollback(True, using=sqlite_file)
        assert len(cloud_tasks.pending) == 2, "what is rolled back leaves no task"
        with transaction.atomic(using="default"):
            tasks.add.enqueue(4, 4)
            assert len(cloud_tasks.pending) == (2 if option is True else 3)
        assert len(cloud_tasks.pending) == 3


@pytest.mark.django_db(transaction=True)
def test_a_task_is_enqueued_immediately_by_default(cloud_tasks: CapturedTasks) -> None:
    with transaction.atomic():
        tasks.add.enqueue(1, 1)
        assert len(cloud_tasks.pending) == 1


# Failures of the service


class Failing(grpc.GenericRpcHandler):
    """A server whose CreateTask answers with the next of `answers`. None creates the task."""

    def __init__(self) -> None:
        self.answers: list[grpc.StatusCode | None] = []
        self.created: set[str] = set()
        self.calls = 0
        self.metadata: dict[str, str] = {}

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        message = CreateTaskRequest.pb()
        return grpc.unary_unary_rpc_method_handler(
            self._create, message.FromString, lambda task: task.SerializeToString()
        )

    def _create(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls += 1
        self.metadata = {k: str(v) for k, v in context.invocation_metadata()}
        name = request.task.name
        answer = self.answers.pop(0) if self.answers else None
        if name and name in self.created:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists")
        if answer is None or answer is grpc.StatusCode.ABORTED:
            self.created.add(name or f"unnamed-{self.calls}")
        if answer is not None:
            context.abort(answer, "as told")
        return request.task


@pytest.fixture
def failing() -> Iterator[Failing]:
    handler = Failing()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
    with use_runtime(runtime), with_options(EMULATOR_HOST=f"127.0.0.1:{port}", ENQUEUE_TIMEOUT=5):
        yield handler
    server.stop(None).wait()


def both_ways(call: Callable[[Any], Any]) -> list[Any]:
    """Call with `enqueue`, and with `aenqueue` in a new event loop."""
    return [call(tasks.add.enqueue), call(lambda *a: asyncio.run(tasks.add.aenqueue(*a)))]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    ],
)
def test_a_creation_that_fails_temporarily_is_repeated(
    failing: Failing, code: grpc.StatusCode
) -> None:
    def enqueue(how: Any) -> None:
        failing.answers = [code, code]
        how(1, 1)

    both_ways(enqueue)
    assert failing.calls == 6
    assert len(failing.created) == 2


def test_a_creation_with_a_lost_answer_creates_one_task(failing: Failing) -> None:
    def enqueue(how: Any) -> str:
        # The task is created; the answer says that it is not.
        failing.answers = [grpc.StatusCode.ABORTED]
        return str(how(1, 1).id)

    ids = both_ways(enqueue)
    assert failing.calls == 4
    assert {name.rpartition("/")[2] for name in failing.created} == set(ids)


def test_a_request_has_the_routing_header_of_its_queue(failing: Failing) -> None:
    both_ways(lambda how: how(1, 1))
    assert failing.metadata["x-goog-request-params"] == (
        "parent=projects%2Ftest-project%2Flocations%2Feurope-west1%2Fqueues%2Fdefault"
    )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, QueueNotFoundError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
        (grpc.StatusCode.UNAUTHENTICATED, PermissionDeniedError),
        (grpc.StatusCode.INVALID_ARGUMENT, EnqueueError),
    ],
)
def test_a_creation_that_fails_permanently_is_not_repeated(
    failing: Failing, code: grpc.StatusCode, error: type[EnqueueError]
) -> None:
    def enqueue(how: Any) -> None:
        failing.answers = [code]
        with pytest.raises(error) as raised:
            how(1, 1)
        assert isinstance(raised.value.__cause__, grpc.RpcError)

    both_ways(enqueue)
    assert failing.calls == 2


def test_the_error_for_a_missing_queue_says_how_to_create_it() -> None:
    with BackgroundEmulator() as emulator:
        runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
        with (
            use_runtime(runtime),
            with_options(EMULATOR_HOST=emulator.address),
            pytest.raises(QueueNotFoundError, match="Start the emulator with --queue"),
        ):
            tasks.add.enqueue(1, 1)


class Elapsing:
    """A clock that only sleeping moves forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


PLAIN = TaskRequest(
    queue=QueueName("p", "l", "q"), task_id="1", url="http://a/", headers={}, body=b"{}"
)


def test_an_emulator_that_is_not_running_is_reported_immediately() -> None:
    queue = GrpcTaskQueue("127.0.0.1:1", sleep=lambda _: pytest.fail("it waits"))
    for create in (queue.create, async_to_sync(queue.acreate)):
        with pytest.raises(ServiceUnavailableError, match="cloudtasks_emulator --port 1"):
            create(PLAIN, timeout=600)


def test_an_emulator_whose_name_is_unknown_is_reported_immediately() -> None:
    queue = GrpcTaskQueue("name.invalid:443", sleep=lambda _: pytest.fail("it waits"))
    with pytest.raises(ServiceUnavailableError, match=r"No emulator listens at name\.invalid:443"):
        queue.create(PLAIN, timeout=600)
    queue.close()


def test_a_service_that_hangs_up_is_tried_until_the_time_is_up() -> None:
    clock = Elapsing()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        queue = GrpcTaskQueue(address, clock=clock, sleep=clock.sleep)
        with pytest.raises(ServiceUnavailableError, match="within 10 s"):
            queue.create(PLAIN, timeout=10)
        queue.close()
        server.shutdown(socket.SHUT_RDWR)
    assert 8 <= clock.now <= 10


def test_the_error_for_missing_credentials_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "HOME"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    queue = GrpcTaskQueue()
    request = TaskRequest(
        queue=QueueName("p", "l", "q"), task_id="1", url="http://a/", headers={}, body=b"{}"
    )
    with pytest.raises(PermissionDeniedError, match="gcloud auth application-default login"):
        queue.create(request, timeout=10)
    with pytest.raises(PermissionDeniedError):
        asyncio.run(queue.acreate(request, timeout=10))


def test_the_error_for_a_missing_setting_names_every_source() -> None:
    runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
    backend = "django_tasks_cloud_tasks.CloudTasksBackend"
    with (
        use_runtime(runtime),
        override_settings(TASKS={"default": {"BACKEND": backend}}),
        pytest.raises(ConfigurationError, match="metadata server") as raised,
    ):
        tasks.add.enqueue(1, 1)
    assert "No Google Cloud project found" in str(raised.value)


# Processes and threads


def test_threads_share_one_channel(failing: Failing) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: tasks.add.enqueue(n, n), range(64)))
    assert len({result.id for result in results}) == 64
    queues = get_runtime()._queues
    assert len(queues) == 1


FORKING = """
import os, sys
import django
from django.conf import settings
settings.configure(SECRET_KEY="x", TASKS={"default": {
    "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
    "OPTIONS": {"CLOUD_TASKS_PROJECT": "p", "CLOUD_TASKS_LOCATION": "l",
                "TASK_HANDLER_HOST": "http://a", "EMULATOR_HOST": sys.argv[1]}}})
django.setup()
from tests.tasks import add
add.enqueue(1, 1)
for _ in range(3):
    child = os.fork()
    if not child:
        add.enqueue(2, 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    add.enqueue(3, 3)
print("parent done")
"""


def test_a_forked_process_enqueues_tasks(tmp_path: Any) -> None:
    import subprocess
    import sys

    with BackgroundEmulator(lambda: Emulator(create_queues=True)) as emulator:
        done = subprocess.run(
            [sys.executable, "-c", FORKING, emulator.address],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=os.getcwd(),  # noqa: PTH109 - the tests' own folder
            env=os.environ | {"PYTHONPATH": os.getcwd()},  # noqa: PTH109
        )
        assert done.stdout == "parent done\n", done.stderr
        names = [queue.name for queue in emulator.emulator.service.queues()]
        assert len(emulator.emulator.service.tasks(names[0])) == 7


def test_the_body_of_a_task_has_the_wire_format(cloud_tasks: CapturedTasks) -> None:
    result = tasks.which_attempt.using(priority=3).enqueue()
    (task,) = cloud_tasks.pending
    document = json.loads(task.request.body)
    assert datetime.fromisoformat(document.pop("enqueued_at")) == result.enqueued_at
    assert document == {
        "task_id": result.id,
        "task_path": "tests.tasks.which_attempt",
        "args": [],
        "kwargs": {},
        "queue_name": "default",
        "backend": "default",
        "priority": 3,
        "takes_context": True,
    }
    assert task.request.url == "http://testserver/cloudtasks/execute/"


# Tasks that a worker could not find.


def _send() -> None:
    """A function whose task has a different name."""


send = task(_send)


class Letters:
    @staticmethod
    @task
    def post() -> None:
        """A task that is an attribute of a class."""


def logged(declared: Any) -> Any:
    def wrapper(*args: Any) -> Any:
        return declared.enqueue(*args)

    return wrapper


@task
def printed() -> None:
    """A task that another decorator hides."""


hidden, printed = printed, logged(printed)


@pytest.mark.parametrize(
    "declared",
    [send, Letters.post, hidden, task(lambda: None)],
    ids=["another name", "a static method", "hidden", "a lambda"],
)
def test_a_task_that_no_worker_could_find_is_refused(
    cloud_tasks: CapturedTasks, declared: Any
) -> None:
    for enqueue in (declared.enqueue, async_to_sync(declared.aenqueue)):
        with pytest.raises(InvalidTask, match="No worker can find this task: tests"):
            enqueue()
    assert cloud_tasks.pending == []


def test_a_task_of_the_main_module_is_refused(cloud_tasks: CapturedTasks) -> None:
    declared = task(_send)
    main = dataclasses.replace(declared, func=_in_main)
    with pytest.raises(InvalidTask, match="Move it into a module"):
        main.enqueue()


def _in_main() -> None:
    """A function that seems to be declared in the main module."""


_in_main.__module__ = "__main__"


def generates() -> Iterator[int]:
    yield 1


async def generates_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [generates, generates_async])
def test_a_generator_function_is_refused_as_a_task(function: Callable[[], object]) -> None:
    with pytest.raises(InvalidTask, match="is a generator"):
        task(function)


def test_a_queue_name_that_becomes_too_long_by_its_priority_is_refused(
    cloud_tasks: CapturedTasks,
) -> None:
    with (
        with_options(PRIORITY_QUEUES={50: "{queue}-urgent"}),
        pytest.raises(InvalidTask, match="cannot be a Cloud Tasks queue"),
    ):
        tasks.add.using(queue_name="q" * 100, priority=60).enqueue(1, 2)


# Sites with USE_TZ = False.


@pytest.mark.parametrize("activated", [None, "Pacific/Auckland", "America/Los_Angeles"])
def test_a_naive_time_is_independent_of_the_activated_time_zone(
    cloud_tasks: CapturedTasks, activated: str | None
) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
        due = datetime(2030, 1, 1, 12)  # noqa: DTZ001 - naive is the point
        with timezone.override(activated), pytest.MonkeyPatch.context() as patch:
            patch.setattr(get_runtime(), "clock", lambda: datetime(2029, 12, 31, tzinfo=UTC))
            result = tasks.add.using(run_after=due).enqueue(1, 2)
        (pending,) = cloud_tasks.pending
        assert pending.request.schedule_time == datetime(2030, 1, 1, 11, tzinfo=UTC)
        assert result.enqueued_at == datetime(2029, 12, 31, 1)  # noqa: DTZ001 - naive is the point


def test_the_error_for_a_delay_in_place_of_a_time_says_what_to_write(
    cloud_tasks: CapturedTasks,
) -> None:
    delay: Any = timedelta(minutes=5)
    with pytest.raises(InvalidTask, match=r"For a delay write timezone\.now\(\) \+ timedelta"):
        tasks.add.using(run_after=delay)


def test_the_error_for_a_model_instance_says_to_pass_its_pk(cloud_tasks: CapturedTasks) -> None:
    with pytest.raises(TypeError, match=r"has the type Mark\. Pass its primary key"):
        tasks.add.enqueue(Mark(name="a"), 1)  # type: ignore[arg-type]  # that is the fault


def offered() -> tuple[bool, bool]:
    backend = task_backends["default"]
    return backend.supports_priority, backend.supports_get_result


def test_the_features_of_a_backend_depend_on_its_options() -> None:
    assert not CloudTasksBackend.supports_priority
    assert not CloudTasksBackend.supports_get_result
    with with_options():
        assert offered() == (False, False)
    with with_options(PRIORITY_QUEUES={50: "urgent"}, RESULTS="database"):
        assert offered() == (True, True)


@pytest.mark.parametrize("priority", [101, -101, 0.5])
def test_an_invalid_priority_is_refused_without_priority_queues(priority: Any) -> None:
    with pytest.raises(InvalidTask, match="priority"):
        tasks.add.using(priority=priority)

"""The emulator's API over real gRPC, with the official client."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.ways_in.grpc_protocol import PREFACE
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcAsyncIOTransport
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.grpc_calls import client_over, framed, send_call
from tests.integration.http_calls import connect
from tests.integration.refusals import LOCATION, QUEUE, START, refusal, refused

FULL = tasks_v2.Task.View.FULL


def http(url: str = "http://127.0.0.1:1/", **more: Any) -> dict[str, Any]:
    return {"http_request": {"url": url} | more.pop("request", {})} | more


def test_a_new_queue_has_the_defaults_of_the_service(client: Any) -> None:
    queue = client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    assert tasks_v2.Queue.to_dict(queue) == tasks_v2.Queue.to_dict(
        tasks_v2.Queue(
            name=QUEUE,
            rate_limits={
                "max_dispatches_per_second": 500,
                "max_burst_size": 100,
                "max_concurrent_dispatches": 1000,
            },
            retry_config={
                "max_attempts": 100,
                "max_doublings": 16,
                "min_backoff": Duration(nanos=100_000_000),
                "max_backoff": Duration(seconds=3600),
            },
            state=tasks_v2.Queue.State.RUNNING,
        )
    )
    assert client.get_queue(name=QUEUE) == queue


def test_queues_are_listed_in_pages(client: Any) -> None:
    names = [f"{LOCATION}/queues/q{number}" for number in range(5)]
    for name in names:
        client.create_queue(parent=LOCATION, queue={"name": name})
    client.create_queue(
        parent="projects/p/locations/other", queue={"name": "projects/p/locations/other/queues/x"}
    )
    pages = client.list_queues(request={"parent": LOCATION, "page_size": 2}).pages
    assert [[queue.name for queue in page.queues] for page in pages] == [
        names[:2],
        names[2:4],
        names[4:],
    ]


def test_an_update_changes_what_its_mask_names(client: Any, queue: str) -> None:
    changed = client.update_queue(
        queue={
            "name": queue,
            "rate_limits": {"max_dispatches_per_second": 5, "max_concurrent_dispatches": 7},
            "retry_config": {"max_doublings": 0, "max_attempts": 3},
        },
        update_mask=FieldMask(
            paths=["rate_limits.max_dispatches_per_second", "retry_config.max_doublings"]
        ),
    )
    assert changed.rate_limits.max_dispatches_per_second == 5
    assert changed.rate_limits.max_burst_size == 10
    assert changed.rate_limits.max_concurrent_dispatches == 1000
    assert changed.retry_config.max_doublings == 0
    assert changed.retry_config.max_attempts == 100
    made = client.update_queue(queue={"name": f"{LOCATION}/queues/new"})
    assert made.name == f"{LOCATION}/queues/new"


def test_a_queue_is_paused_resumed_purged_and_deleted(client: Any, queue: str) -> None:
    client.create_task(parent=queue, task=http())
    assert client.get_queue(name=queue).state == tasks_v2.Queue.State.PAUSED
    assert len(list(client.list_tasks(parent=queue))) == 1
    purged = client.purge_queue(name=queue)
    assert purged.purge_time.timestamp() == START / SECOND
    assert list(client.list_tasks(parent=queue)) == []
    assert client.resume_queue(name=queue).state == tasks_v2.Queue.State.RUNNING
    client.delete_queue(name=queue)
    assert refusal(lambda: client.get_queue(name=queue))[0] == "NOT_FOUND"


def test_a_task_is_shown_as_the_service_shows_it(client: Any, queue: str) -> None:
    headers = {"X-Mixed-Case": "preserve-me", "content-type": "application/json"}
    sent = http(
        "http://example.com/x",
        request={
            "headers": headers,
            "body": b'{"hello":"world"}',
            "oidc_token": {"service_account_email": "tasks@p"},
        },
        name=f"{queue}/tasks/the-task",
        dispatch_deadline=Duration(seconds=30),
    )
    basic = client.create_task(parent=queue, task=sent)
    full = client.get_task(request={"name": basic.name, "response_view": FULL})
    assert full.http_request.headers == {"User-Agent": "Google-Cloud-Tasks", **headers}
    assert full.http_request.body == b'{"hello":"world"}'
    assert full.http_request.http_method == tasks_v2.HttpMethod.POST
    assert full.http_request.oidc_token.audience == "http://example.com/x"
    assert full.view == FULL
    assert (basic.http_request.body, basic.view) == (b"", tasks_v2.Task.View.BASIC)
    assert basic.http_request.headers == full.http_request.headers
    assert basic.schedule_time.timestamp() == basic.create_time.timestamp() == START / SECOND
    assert full.dispatch_deadline.total_seconds() == 30
    assert (full.dispatch_count, full.response_count) == (0, 0)


def test_a_task_without_a_name_gets_one(client: Any, queue: str) -> None:
    names = {client.create_task(parent=queue, task=http()).name for _ in range(10)}
    assert len(names) == 10
    assert all(name.startswith(f"{queue}/tasks/") for name in names)
    page = client.list_tasks(request={"parent": queue, "page_size": 4})
    assert {task.name for task in page} == names


# These are the exact words of production.
GONE = (
    "The task no longer exists, though a task with this name existed recently. The task either "
    "successfully completed or was deleted."
)
NO_QUEUE = (
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue "
    "to initialize."
)
NOWHERE = f"{LOCATION}/queues/nowhere"
LIMITS, RETRIES = "rate_limits", "retry_config"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {RETRIES: {"min_backoff": Duration(seconds=9), "max_backoff": Duration(seconds=8)}},
            "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.",
        ),
        (
            {LIMITS: {"max_concurrent_dispatches": -1}},
            "RateLimits.maxConcurrentDispatches cannot be negative.",
        ),
        (
            {LIMITS: {"max_concurrent_dispatches": 5001}},
            "RateLimits.maxConcurrentDispatches must be less than or equal to 5000.",
        ),
        (
            {RETRIES: {"max_attempts": -2}},
            "RetryConfig.maxAttempts must be greater or equal to -1.",
        ),
        ({RETRIES: {"max_doublings": -1}}, "RetryConfig.maxDoublings cannot be negative."),
        (
            {RETRIES: {"min_backoff": Duration(seconds=-1)}},
            "RetryConfig.minBackoff cannot be negative.",
        ),
        (
            {LIMITS: {"max_dispatches_per_second": -1}},
            "RateLimits.maxDispatchesPerSecond cannot be negative.",
        ),
        (
            {LIMITS: {"max_dispatches_per_second": 501}},
            "RateLimits.maxDispatchesPerSecond must be less than or equal to 500.",
        ),
    ],
)
def test_an_invalid_queue_is_refused(client: Any, config: dict[str, Any], message: str) -> None:
    wanted = {"name": QUEUE} | config
    assert refusal(lambda: client.create_queue(parent=LOCATION, queue=wanted)) == (
        "INVALID_ARGUMENT",
        message,
    )


def test_a_burst_size_is_output_only(client: Any) -> None:
    wanted = {"name": QUEUE, "rate_limits": {"max_burst_size": -1}}
    made = client.create_queue(parent=LOCATION, queue=wanted)
    assert made.rate_limits.max_burst_size == 100


def test_an_invalid_name_is_refused(client: Any, queue: str) -> None:
    reference = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues"

    def link(description: str, url: str) -> list[dict[str, Any]]:
        links = [{"description": description, "url": reference + url}]
        return [{"@type": "type.googleapis.com/google.rpc.Help", "links": links}]

    bad_queue = {"name": "not-a-valid-queue-name"}
    error = refused(lambda: client.create_queue(parent=LOCATION, queue=bad_queue))
    assert error["message"] == (
        "Queue name must be formatted: "
        '"projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'
    )
    assert error["details"] == link("Definition of queue name", "#Queue.FIELDS.name")
    named = http(name=f"{queue}/tasks/not a valid id")
    error = refused(lambda: client.create_task(parent=queue, task=named))
    assert error["message"] == (
        'Task ID "not a valid id" can contain only letters ([A-Za-z]), numbers ([0-9]), '
        "hyphens (-), or underscores (_). Task ID must between 1 and 500 characters."
    )
    assert error["details"] == link("Definition of task ID", ".tasks#Task.FIELDS.name")
    other = http(name=f"{queue}-other/tasks/t")
    assert refusal(lambda: client.create_task(parent=queue, task=other)) == (
        "INVALID_ARGUMENT",
        f"The queue name from request ('{queue}') must be the same as the queue name in the "
        f"named task ('{queue}-other').",
    )


def test_a_missing_queue_or_task_is_not_found(client: Any, queue: str) -> None:
    for call in (client.get_queue, client.pause_queue, client.resume_queue, client.purge_queue):
        assert refusal(partial(call, name=NOWHERE)) == ("NOT_FOUND", NO_QUEUE)
    assert refusal(lambda: client.delete_queue(name=NOWHERE)) == (
        "NOT_FOUND",
        "Requested entity was not found.",
    )
    assert refusal(lambda: client.create_task(parent=NOWHERE, task=http())) == (
        "NOT_FOUND",
        NO_QUEUE,
    )
    for call in (client.get_task, client.delete_task, client.run_task):
        assert refusal(partial(call, name=f"{queue}/tasks/nothing")) == (
            "NOT_FOUND",
            "Requested entity was not found.",
        )


def test_the_name_of_a_deleted_queue_or_task_stays_in_use(client: Any, queue: str) -> None:
    assert refusal(lambda: client.create_queue(parent=LOCATION, queue={"name": queue})) == (
        "ALREADY_EXISTS",
        "Queue already exists",
    )
    task = client.create_task(parent=queue, task=http(name=f"{queue}/tasks/t"))
    again = http(name=task.name)
    exists = ("ALREADY_EXISTS", "Requested entity already exists")
    assert refusal(lambda: client.create_task(parent=queue, task=again)) == exists
    client.delete_task(name=task.name)
    assert refusal(lambda: client.create_task(parent=queue, task=again)) == exists
    assert refusal(lambda: client.get_task(name=task.name)) == ("NOT_FOUND", GONE)
    client.delete_queue(name=queue)
    assert refusal(lambda: client.create_queue(parent=LOCATION, queue={"name": queue})) == (
        "FAILED_PRECONDITION",
        "The queue cannot be created because a queue with this name existed too recently.",
    )
    assert refusal(lambda: client.create_task(parent=queue, task=http())) == (
        "NOT_FOUND",
        NO_QUEUE,
    )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (http(""), "HttpRequest.url is required."),
        (http("example.com/path"), "HttpTarget.url must start with 'http://' or 'https://'."),
        (http("ftp://example.com/"), "HttpTarget.url must start with 'http://' or 'https://'."),
        (
            http(dispatch_deadline=Duration(seconds=14)),
            "Task.dispatchDeadline must be between [15s, 30m].",
        ),
        (
            http(dispatch_deadline=Duration(seconds=31 * 60)),
            "Task.dispatchDeadline must be between [15s, 30m].",
        ),
        (
            http(schedule_time=Timestamp(seconds=4_102_444_800)),
            "The Task.scheduleTime, 2099-12-31T16:00:00-08:00, is too far in the future. "
            "Schedule time must be no more than 720h in the future.",
        ),
        (
            http(request={"http_method": 2, "body": b"x"}),
            "HTTP method must be POST, PUT or PATCH when HttpRequest.body is set.",
        ),
    ],
)
def test_an_invalid_task_is_refused(
    client: Any, queue: str, task: dict[str, Any], message: str
) -> None:
    assert refusal(lambda: client.create_task(parent=queue, task=task)) == (
        "INVALID_ARGUMENT",
        message,
    )


def test_a_bad_escape_in_a_url_is_accepted(client: Any, queue: str) -> None:
    made = client.create_task(parent=queue, task=http("http://example.com/%zz"))
    assert made.http_request.url == "http://example.com/%zz"


def test_the_asynchronous_client_creates_and_lists_tasks(emulator: BackgroundEmulator) -> None:
    async def use() -> list[str]:
        async with grpc.aio.insecure_channel(emulator.address) as channel:
            transport = CloudTasksGrpcAsyncIOTransport(channel=channel)
            client: Any = tasks_v2.CloudTasksAsyncClient(transport=transport)
            await client.create_queue(parent=LOCATION, queue={"name": QUEUE})
            await client.pause_queue(name=QUEUE)
            await asyncio.gather(
                *(client.create_task(parent=QUEUE, task=http()) for _ in range(100))
            )
            return [task.name async for task in await client.list_tasks(parent=QUEUE)]

    assert len(set(asyncio.run(use()))) == 100


def test_many_threads_create_tasks_over_one_connection(client: Any, queue: str) -> None:
    with ThreadPoolExecutor(32) as pool:
        made = list(
            pool.map(lambda _: client.create_task(parent=queue, task=http()).name, range(500))
        )
    assert len(set(made)) == 500


def test_large_messages_are_received_and_sent(
    client: Any, queue: str, emulator: BackgroundEmulator
) -> None:
    body = bytes(1_000_000)
    for _ in range(3):
        client.create_task(parent=queue, task=http(request={"body": body}))
    request = {"parent": queue, "response_view": FULL}
    assert [task.http_request.body for task in client.list_tasks(request=request)] == [body] * 3
    with grpc.insecure_channel(emulator.address) as channel:
        call: Any = channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/CreateTask")
        with pytest.raises(grpc.RpcError) as raised:
            call(bytes(5_000_000))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.get_queue(name=queue).name == queue


def test_an_invalid_call_is_refused(emulator: BackgroundEmulator) -> None:
    with grpc.insecure_channel(emulator.address) as channel:
        for method, request, code in (
            ("/google.cloud.tasks.v2.CloudTasks/Fly", b"", grpc.StatusCode.UNIMPLEMENTED),
            ("/google.cloud.tasks.v2.CloudTasks/GetQueue", b"\xff", grpc.StatusCode.INTERNAL),
        ):
            call: Any = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError) as raised:
                call(request)
            assert raised.value.code() is code


def test_http_and_grpc_share_the_port_and_malformed_input_does_no_harm(
    emulator: BackgroundEmulator, client: Any
) -> None:
    def exchange(*parts: bytes) -> bytes:
        with connect(emulator.address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(65536):
                answer += more
            return answer

    request = b"GET /oauth2/v1/certs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert b"BEGIN CERTIFICATE" in exchange(request)
    assert b"BEGIN CERTIFICATE" in exchange(b"G", b"ET", request[3:])
    assert b"404" in exchange(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    for rubbish in (
        b"",
        b"PRI * HT",
        b"\x00\xff" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"x" * 99,
    ):
        exchange(rubbish)
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})


def test_http_2_that_is_not_grpc_is_refused(emulator: BackgroundEmulator) -> None:
    from h2.connection import H2Connection
    from h2.events import ResponseReceived

    connection = H2Connection()
    connection.initiate_connection()
    connection.send_headers(
        1,
        [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x")],
        end_stream=True,
    )
    with connect(emulator.address) as raw:
        raw.sendall(connection.data_to_send())
        while True:
            for event in connection.receive_data(raw.recv(65536)):
                if isinstance(event, ResponseReceived):
                    assert "415" in str(event.headers)
                    return


def test_a_call_that_is_cancelled_immediately_is_not_executed_and_affects_no_other(
    client: Any, queue: str, emulator: BackgroundEmulator
) -> None:
    from h2.connection import H2Connection
    from h2.events import StreamEnded

    request = tasks_v2.CreateTaskRequest(parent=queue, task=http())
    connection = H2Connection()
    connection.initiate_connection()
    for stream in (1, 3):
        send_call(connection, stream, "CreateTask", framed(request))
    connection.reset_stream(1)
    with connect(emulator.address) as raw:
        raw.sendall(connection.data_to_send())
        ended: list[StreamEnded] = []
        while not ended:
            answer = raw.recv(65536)
            assert answer, "the connection was closed"
            ended = [e for e in connection.receive_data(answer) if isinstance(e, StreamEnded)]
    assert [event.stream_id for event in ended] == [3]
    assert len(list(client.list_tasks(parent=queue))) == 1


def test_oversized_messages_do_not_block_the_connection(
    emulator: BackgroundEmulator,
) -> None:
    with grpc.insecure_channel(emulator.address) as channel:
        call: Any = channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/CreateTask")
        message = bytes(4_300_000)
        for _ in range(40):
            with pytest.raises(grpc.RpcError) as raised:
                call(message, timeout=20)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", ["bad/tasks/x", f"{LOCATION}/queues/q_q/tasks/x", "x", ""])
def test_an_invalid_task_name_is_refused(grpc_client: Any, name: str) -> None:
    client = grpc_client
    for call in (client.get_task, client.delete_task, client.run_task):
        assert refusal(partial(call, name=name))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("path", ["nonsense", "retry_config.nonsense", "rate_limits..x"])
def test_an_update_mask_with_an_unknown_field_is_refused(
    client: Any, queue: str, path: str
) -> None:
    mask = FieldMask(paths=[path])
    code, message = refusal(lambda: client.update_queue(queue={"name": queue}, update_mask=mask))
    assert (code, path in message) == ("INVALID_ARGUMENT", True)


def test_an_update_of_another_field_keeps_zero_doublings(client: Any, queue: str) -> None:
    for path, config in (
        ("retry_config.max_doublings", {"retry_config": {"max_doublings": 0}}),
        ("rate_limits.max_dispatches_per_second", {LIMITS: {"max_dispatches_per_second": 5}}),
    ):
        changed = client.update_queue(
            queue={"name": queue} | config, update_mask=FieldMask(paths=[path])
        )
        assert changed.retry_config.max_doublings == 0


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 1e-310])
def test_an_invalid_rate_is_refused_and_a_tiny_rate_is_accepted(client: Any, rate: float) -> None:
    wanted = {"name": QUEUE, "rate_limits": {"max_dispatches_per_second": rate}}
    if rate == 1e-310:
        client.create_queue(parent=LOCATION, queue=wanted)
        for _ in range(12):
            client.create_task(parent=QUEUE, task=http())
    else:
        call = refusal(lambda: client.create_queue(parent=LOCATION, queue=wanted))
        assert call[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("seconds", [10**15, 2**63 - 1, -1])
def test_an_invalid_schedule_time_is_refused(grpc_client: Any, seconds: int) -> None:
    client, queue = grpc_client, QUEUE
    task = http(schedule_time=Timestamp(seconds=seconds))
    raw = tasks_v2.CreateTaskRequest.pb()(parent=queue)
    raw.task.http_request.url = task["http_request"]["url"]
    raw.task.schedule_time.CopyFrom(task["schedule_time"])
    assert refusal(lambda: client.create_task(request=raw))[0] == "INVALID_ARGUMENT"


def test_a_listing_skips_no_task_while_tasks_are_deleted(client: Any, queue: str) -> None:
    for _ in range(40):
        client.create_task(parent=queue, task=http())
    for task in client.list_tasks(request={"parent": queue, "page_size": 10}):
        client.delete_task(name=task.name)
    assert list(client.list_tasks(parent=queue)) == []
    listed = {"parent": queue, "page_token": "rubbish"}
    assert refusal(lambda: client.list_tasks(request=listed))[0] == "INVALID_ARGUMENT"


def test_a_page_is_never_too_large_for_the_client(client: Any, queue: str) -> None:
    for _ in range(10):
        client.create_task(parent=queue, task=http(request={"body": bytes(1_000_000)}))
    pages = list(client.list_tasks(request={"parent": queue, "response_view": FULL}).pages)
    assert [len(page.tasks) for page in pages] == [3, 3, 3, 1]


@pytest.mark.parametrize(
    "request_fields",
    [
        {"body": bytes(1_048_570)},
        {"headers": {"X-Long": "x" * 82_000}},
        {"headers": {"bad name": "x"}},
        {"headers": {"": "x"}},
        {"headers": {"X": "a\nb"}},
    ],
    ids=["body", "headers", "space", "empty", "line break"],
)
def test_a_task_that_production_would_not_store_is_refused(
    client: Any, queue: str, request_fields: dict[str, Any]
) -> None:
    task = http(request=request_fields)
    assert refusal(lambda: client.create_task(parent=queue, task=task))[0] == "INVALID_ARGUMENT"


def test_headers_that_only_the_service_may_set_are_removed(client: Any, queue: str) -> None:
    headers = {
        "host": "evil",
        "Content-Length": "999",
        "user-agent": "me",
        "X-CloudTasks-TaskName": "x",
        "X-Kept": "kept",
    }
    made = client.create_task(parent=queue, task=http(request={"headers": headers}))
    assert made.http_request.headers == {"User-Agent": "Google-Cloud-Tasks", "X-Kept": "kept"}


def test_an_internal_error_of_the_emulator_fails_only_one_call(
    client: Any, emulator: BackgroundEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError

    emulator.emulator.service.queue = break_down  # type: ignore[method-assign,assignment]  # the fault
    assert refusal(lambda: client.get_queue(name=QUEUE)) == (
        "INTERNAL",
        "Internal error encountered.",
    )
    assert "ZeroDivisionError" in caplog.text
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})


def test_an_emulator_that_stops_under_load_logs_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(8) as pool:
        with (
            BackgroundEmulator(lambda: Emulator(create_queues=True)) as running,
            grpc.insecure_channel(running.address) as channel,
        ):
            client = client_over(channel)
            client.create_task(parent=QUEUE, task=http())

            def flood(_: int) -> None:
                for _ in range(50):
                    try:
                        client.create_task(parent=QUEUE, task=http(), timeout=5)
                    except (GoogleAPICallError, ValueError):
                        return

            floods = [pool.submit(flood, n) for n in range(8)]
        for future in floods:
            future.result(30)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_stopping_emulator_closes_connections_that_sent_no_request() -> None:
    with BackgroundEmulator() as running:
        silent = connect(running.address)
        silent.sendall(PREFACE[:2])
        # The emulator answers only after it has accepted both connections.
        with grpc.insecure_channel(running.address) as channel:
            grpc.channel_ready_future(channel).result(10)
    with silent:
        assert silent.recv(1) == b""

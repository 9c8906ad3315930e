"""The captures of production, replayed over gRPC and over REST."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from google.cloud import tasks_v2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.http_servers import Recorder, recorder
from tests.integration.refusals import LOCATION, QUEUE, START, refused

CAPTURES = Path(__file__).resolve().parents[1] / "captures"
FULL = tasks_v2.Task.View.FULL


def capture(name: str) -> dict[str, Any]:
    return {case["name"]: case for case in json.loads((CAPTURES / name).read_text())}


ERRORS, STORED, DISPATCH = (capture(f"{n}.json") for n in ("errors", "stored", "dispatch"))


# Errors

type Call = Callable[[Any], object]
HTTP = {"http_request": {"url": "http://example.com/"}}


def create_queue(**config: Any) -> Call:
    return lambda c: c.create_queue(parent=LOCATION, queue={"name": QUEUE} | config)


def create_task(**task: Any) -> Call:
    return lambda c: c.create_task(parent=QUEUE, task=HTTP | task)


def after(*calls: Call) -> Call:
    """Return a function that makes these calls in order, and returns the result of the last."""

    def run(client: Any) -> object:
        for call in calls[:-1]:
            call(client)
        return calls[-1](client)

    return run


def by_name(method: str, name: str = QUEUE) -> Call:
    return lambda c: getattr(c, method)(name=name)


def url(text: str) -> Call:
    return after(MADE, create_task(http_request={"url": text}))


def deadline(seconds: int, **target: Any) -> Call:
    return after(MADE, create_task(dispatch_deadline=Duration(seconds=seconds), **target))


MADE, DELETED = create_queue(), by_name("delete_queue")
TASK = f"{QUEUE}/tasks/t"
APP_ENGINE = {"http_request": None, "app_engine_http_request": {"relative_uri": "/"}}
NOTHING = f"{QUEUE}/tasks/nothing"

SITUATIONS: dict[str, Call] = {
    "queue/create/already-exists": after(MADE, MADE),
    "queue/create/backoff-order": create_queue(
        retry_config={"min_backoff": Duration(seconds=9), "max_backoff": Duration(seconds=8)}
    ),
    "queue/create/burst-negative": create_queue(rate_limits={"max_burst_size": -1}),
    "queue/create/concurrent-negative": create_queue(rate_limits={"max_concurrent_dispatches": -1}),
    "queue/create/concurrent-too-high": create_queue(
        rate_limits={"max_concurrent_dispatches": 5001}
    ),
    "queue/create/invalid-name": create_queue(name="not-a-valid-queue-name"),
    "queue/create/max-attempts-below-minus-one": create_queue(retry_config={"max_attempts": -2}),
    "queue/create/max-doublings-negative": create_queue(retry_config={"max_doublings": -1}),
    "queue/create/min-backoff-negative": create_queue(
        retry_config={"min_backoff": Duration(seconds=-1)}
    ),
    "queue/create/rate-negative": create_queue(rate_limits={"max_dispatches_per_second": -1}),
    "queue/create/rate-too-high": create_queue(rate_limits={"max_dispatches_per_second": 501}),
    "queue/create/recently-deleted": after(MADE, DELETED, MADE),
    "queue/delete/not-found": DELETED,
    "queue/get/not-found": by_name("get_queue"),
    "queue/get/recently-deleted": after(MADE, DELETED, by_name("get_queue")),
    "queue/pause/not-found": by_name("pause_queue"),
    "queue/purge/not-found": by_name("purge_queue"),
    "queue/resume/not-found": by_name("resume_queue"),
    "task/create/already-exists": after(MADE, create_task(name=TASK), create_task(name=TASK)),
    "task/create/appengine-deadline-one-hour": deadline(3600, **APP_ENGINE),
    "task/create/appengine-deadline-too-long": deadline(25 * 3600, **APP_ENGINE),
    "task/create/deadline-too-long": deadline(31 * 60),
    "task/create/deadline-too-short": deadline(14),
    "task/create/invalid-name": after(MADE, create_task(name=f"{QUEUE}/tasks/not a valid id")),
    "task/create/invalid-url-bad-escape": url("http://example.com/%zz"),
    "task/create/invalid-url-empty": url(""),
    "task/create/invalid-url-no-scheme": url("example.com/path"),
    "task/create/invalid-url-non-http-scheme": url("ftp://example.com/"),
    "task/create/queue-mismatch": after(MADE, create_task(name=f"{QUEUE}-other/tasks/t")),
    "task/create/queue-not-found": create_task(),
    "task/create/queue-recently-deleted": after(MADE, DELETED, create_task()),
    "task/create/schedule-too-far": after(
        MADE, create_task(schedule_time=Timestamp(seconds=4_102_444_800))
    ),
    "task/delete/not-found": after(MADE, by_name("delete_task", NOTHING)),
    "task/get/not-found": after(MADE, by_name("get_task", NOTHING)),
    "task/get/recently-deleted": after(
        MADE,
        by_name("pause_queue"),
        create_task(name=TASK),
        by_name("delete_task", TASK),
        by_name("get_task", TASK),
    ),
    "task/run/not-found": after(MADE, by_name("run_task", NOTHING)),
}


def test_every_captured_error_except_the_one_of_iam_is_replayed() -> None:
    assert set(SITUATIONS) == set(ERRORS) - {"queue/create/invalid-parent"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_an_error_has_the_words_that_production_uses(client: Any, name: str) -> None:
    captured = ERRORS[name]
    if captured["code"] == "OK":
        SITUATIONS[name](client)
        return
    error = refused(lambda: SITUATIONS[name](client))
    assert error["status"] == captured["code"]
    assert error["message"] == captured["message"].replace("{queue_path}", QUEUE)
    if "help" in captured:
        (detail,) = error["details"]
        assert detail == {
            "@type": "type.googleapis.com/google.rpc.Help",
            "links": [captured["help"]],
        }
    else:
        assert "details" not in error


# Stored tasks


@pytest.mark.parametrize("name", STORED)
def test_a_stored_task_has_the_headers_and_body_that_production_shows(
    client: Any, name: str
) -> None:
    captured = STORED[name]
    kind = "app_engine_http_request" if name.startswith("appengine") else "http_request"
    body = base64.b64decode(captured["sent_body_base64"])
    request = {"headers": captured["sent_headers"], "body": body}
    request |= {"relative_uri": "/"} if kind.startswith("app") else {"url": "http://example.com/"}
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    client.pause_queue(name=QUEUE)
    created = client.create_task(
        request={"parent": QUEUE, "task": {kind: request}, "response_view": FULL}
    )
    shown = {
        "create_full": created,
        "get_basic": client.get_task(name=created.name),
        "get_full": client.get_task(request={"name": created.name, "response_view": FULL}),
    }
    for view, task in shown.items():
        stored = getattr(task, kind)
        assert dict(stored.headers) == captured[view]["headers"], view
        expected = captured[view]["body_base64"]
        assert stored.body == (base64.b64decode(expected) if expected else b""), view


@pytest.mark.parametrize("name", ["named", "unnamed"])
def test_a_task_is_limited_to_the_size_that_production_allows(client: Any, name: str) -> None:
    """A stored form of 1,048,569 bytes is accepted; one byte more is refused."""
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    client.pause_queue(name=QUEUE)

    def create(size: int, number: int) -> Any:
        named = {"name": f"{QUEUE}/tasks/{number:020}"} if name == "named" else {}
        task = {"http_request": {"url": "http://example.com/", "body": bytes(size)}} | named
        request = {"parent": QUEUE, "task": task, "response_view": FULL}
        return client.create_task(request=request)

    def stored_size(task: Any) -> int:
        return int(tasks_v2.Task.pb(task).ByteSize())

    fits = 1_048_569 - stored_size(create(1_000_000, 1)) + 1_000_000
    task = create(fits, 2)
    # Times and generated ids vary by a byte or two; the stored form never exceeds the limit.
    assert 1_048_566 <= stored_size(task) <= 1_048_569
    error = refused(lambda: create(fits + 4, 3))
    assert error["status"] == "INVALID_ARGUMENT"


# Dispatched requests


@pytest.fixture(params=DISPATCH)
def captured(request: pytest.FixtureRequest) -> Any:
    return DISPATCH[request.param]


@pytest.fixture
def handler(captured: Any) -> Iterator[Recorder]:
    with recorder([attempt["handler_answered"] for attempt in captured["attempts"]]) as made:
        yield made


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> Iterator[BackgroundEmulator]:
    """An emulator that sends App Engine tasks to the handler of the test, if there is one."""
    has_handler = "handler" in request.fixturenames
    address = request.getfixturevalue("handler").address if has_handler else None
    with BackgroundEmulator(
        lambda: Emulator(clock=ManualClock(START), app_engine=address)
    ) as running:
        yield running


def test_each_attempt_has_the_headers_of_the_captured_attempt(
    captured: Any, handler: Recorder, client: Any, emulator: BackgroundEmulator
) -> None:
    http = captured["name"].startswith("http")
    target = (
        {"http_request": {"url": f"http://{handler.address}/"}}
        if http
        else {"app_engine_http_request": {"relative_uri": "/"}}
    )
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    client.pause_queue(name=QUEUE)
    client.create_task(parent=QUEUE, task={"name": TASK} | target)
    # The API allows no deadline below 15 s, so the test sets a shorter one on the stored task.
    emulator.emulator.service.task(TASK, START).deadline = SECOND // 2
    client.resume_queue(name=QUEUE)
    emulator.call(emulator.emulator.advance(3600))
    assert len(handler.requests) == len(captured["attempts"])
    eta = emulator.emulator.service
    assert eta.tasks(QUEUE) == [], "the last answer was 200"
    values = {"{queue}": "q", "{task}": "t"}
    for headers, attempt in zip(handler.requests, captured["attempts"], strict=True):
        sent = dict(headers)
        expected = {name: values.get(value, value) for name, value in attempt["headers"].items()}
        shown = {name: sent.get(name) for name in expected}
        for name in expected:
            if name.endswith("TaskETA"):
                assert float(shown.pop(name) or "nan") >= START / SECOND
        assert shown == {n: v for n, v in expected.items() if not n.endswith("TaskETA")}
        assert set(sent) - set(expected) <= {"Host", "Content-Length", "Content-Type"}

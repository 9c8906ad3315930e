"""Hostile input and tasks. They must not stop the endpoint or bypass its authorization.

The endpoint logs them.
"""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import AsyncRequestFactory, Client, override_settings
from django.urls import resolve as resolve_url
from django_tasks_cloud_tasks.django_integration.signing import sign
from django_tasks_cloud_tasks.testing import CapturedTasks
from hypothesis import example, given
from hypothesis import strategies as st

from tests import gate, tasks
from tests.integration.deliveries import PATHS, body_of, post_signed

STATUSES = {200, 400, 401, 403, 404, 405, 500}


@pytest.fixture(autouse=True)
def _captured(cloud_tasks: CapturedTasks) -> None:
    """Use the fixture, so that the test calls no external system."""


def post(
    path: str, body: bytes, signature: str | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    response = post_signed(path, body, signature, headers)
    assert response["Content-Type"] == "application/json"
    return response.status_code, json.loads(response.content)


both = pytest.mark.parametrize("path", list(PATHS.values()), ids=list(PATHS))


# Hostile tasks


@both
@pytest.mark.parametrize("kind", tasks.HOSTILE)
@pytest.mark.parametrize("task", ["raises", "raises_async"])
def test_any_exception_fails_only_the_task_that_raises_it(
    path: str, kind: str, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, document = post(path, body_of(f"tests.tasks.{task}", kind))
    assert (status, document["status"], document["task_id"]) == (500, "error", "an-id")
    assert "traceback" not in document
    (told,) = [r for r in caplog.records if "failed in attempt 1 of 100" in r.getMessage()]
    assert (told.levelno, told.exc_info is not None) == (logging.WARNING, True)


@both
def test_a_cancelled_error_inside_a_task_fails_the_task(path: str) -> None:
    status, document = post(path, body_of("tests.tasks.awaits_what_it_cancelled"))
    assert (status, document["error"]) == (500, "CancelledError")


@both
@pytest.mark.parametrize("task", ["returns_a_set", "returns_the_unreadable"])
def test_a_return_value_that_cannot_be_stored_is_logged(
    path: str, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, document = post(path, body_of(f"tests.tasks.{task}"))
    assert (status, document["status"]) == (200, "failed")
    (told,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert told.exc_info is not None
    assert "cannot be kept as JSON" in str(told.exc_info[1])


# Hostile modules


@both
@pytest.mark.parametrize("module", ["exits_at_import", "raises_at_import", "no_such_module"])
def test_a_task_in_a_module_that_cannot_be_imported_is_unknown_and_logged_once(
    path: str, module: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, document = post(path, body_of(f"tests.{module}.task"))
    assert (status, document["status"]) == (404, "error")
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert module in told[0].getMessage()


@both
def test_a_delivery_waits_for_a_module_that_another_thread_imports(path: str) -> None:
    sys.modules.pop("tests.slow_import", None)
    gate.importing.clear()
    gate.go_on.clear()
    answers: list[int] = []

    def deliver() -> None:
        answers.append(post(path, body_of("tests.slow_import.late"))[0])

    threads = [threading.Thread(target=deliver) for _ in range(3)]
    threads[0].start()
    assert gate.importing.wait(30)
    for thread in threads[1:]:
        thread.start()
    # The other deliveries find a half imported module; after the release all find the task.
    threading.Timer(0.2, gate.go_on.set).start()
    for thread in threads:
        thread.join(30)
    assert answers == [200, 200, 200]


# Authorization


@both
def test_a_caller_of_one_backend_cannot_run_tasks_of_another(
    path: str, settings: Any, ran: list[object]
) -> None:
    options = settings.TASKS["default"]["OPTIONS"] | {"AUTHENTICATION": "none"}
    opened = settings.TASKS["default"] | {"OPTIONS": options}
    settings.TASKS = settings.TASKS | {"default": opened}
    for backend in ("default", "closed"):
        body = body_of("tests.closed_tasks.declared_closed", backend=backend)
        assert post(path, body, signature="wrong")[0] == 401
    assert ran == []
    assert post(path, body_of("tests.closed_tasks.declared_closed", backend="default"))[0] == 200
    assert post(path, body_of("tests.tasks.add", 1, 2), signature="wrong")[0] == 200


@both
def test_a_backend_with_faulty_options_refuses_only_its_own_tasks(
    path: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = {"BACKEND": settings.TASKS["closed"]["BACKEND"], "OPTIONS": {"AUTHENTIKATION": "x"}}
    settings.TASKS = {"default": settings.TASKS["default"], "closed": faulty}
    assert post(path, body_of("tests.tasks.add", 1, 2))[0] == 200
    assert post(path, body_of("tests.tasks.add", 1, 2, backend="closed"))[0] == 404
    assert "No task of the backend 'closed' can be executed" in caplog.text
    settings.TASKS = {"default": faulty}
    assert post(path, body_of("tests.tasks.add", 1, 2))[0] == 401


@both
@pytest.mark.parametrize("header", ["Origin", "Sec-Fetch-Site"])
def test_a_web_page_cannot_run_tasks_under_debug(
    path: str, header: str, settings: Any, ran: list[object]
) -> None:
    settings.DEBUG = True
    body = body_of("tests.tasks.add", 1, 2)
    sent = Client().post(path, body, content_type="text/plain", headers={header: "cross-site"})
    assert sent.status_code == 401
    assert ran == []
    assert Client().post(path, body, content_type="application/json").status_code == 200


# Bodies


@both
def test_a_body_over_the_size_limit_of_the_site_is_refused(
    path: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    body = body_of("tests.tasks.echo", "x" * 1000)
    assert post(path, body)[0] == 401
    assert "too large" in caplog.text
    options = settings.TASKS["default"]["OPTIONS"] | {"AUTHENTICATION": "none"}
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": options}}
    assert post(path, body)[0] == 400


class ReadsPost:
    """A middleware that reads `request.POST`."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        assert request.POST is not None
        return self.get_response(request)


@both
def test_a_delivery_whose_body_a_middleware_has_read_is_executed(path: str) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.ReadsPost"]):
        assert Client().post(path, {"file": "x"}).status_code == 401
        assert post(path, body_of("tests.tasks.add", 1, 2))[0] == 200


@both
@pytest.mark.parametrize("field", ["task_id", "task_path", "queue_name", "backend"], ids=str)
@pytest.mark.parametrize("text", ["x\nERROR forged", "a." * 600 + "b", "\ud800", ""], ids=repr)
def test_texts_that_could_forge_or_flood_the_log_are_refused(
    path: str, field: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    document = {"task_id": "1", "task_path": "tests.tasks.add", "args": [1, 2], "kwargs": {}}
    status, answer = post(path, json.dumps(document | {field: text}).encode())
    assert status == 400
    assert answer["faults"] == [f"{field} must be 1 to 1000 printable characters"]
    assert "forged" not in caplog.text
    assert len(caplog.text) < 1000


@both
def test_a_number_that_no_float_can_hold_is_refused(path: str, ran: list[object]) -> None:
    body = b'{"task_id": "1", "task_path": "tests.tasks.echo", "args": [1e999], "kwargs": {}}'
    assert post(path, body)[0] == 400
    assert ran == []


@both
@given(body=st.binary(max_size=300) | st.text(max_size=300).map(lambda t: json.dumps(t).encode()))
@example(body=b"")
@example(body=b"[" * 50_000)
def test_any_body_signed_or_not_is_answered_in_json(path: str, body: bytes) -> None:
    assert post(path, body)[0] in {400, 404}
    assert post(path, body, signature="x")[0] == 401


header_texts = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
)


@both
@given(
    headers=st.dictionaries(
        st.sampled_from(
            ["Authorization", "X-CloudTasks-TaskRetryCount", "X-CloudTasks-QueueName", "Origin"]
        ),
        header_texts,
    ),
    signature=st.none() | header_texts,
)
def test_any_headers_are_answered_in_json(
    path: str, headers: dict[str, str], signature: str | None
) -> None:
    body = body_of("tests.tasks.add", 1, 2)
    status, _ = post(path, body, signature, **headers)
    assert status == (200 if signature is None else 401)


# Transactions and disconnections


@pytest.mark.parametrize("path", list(PATHS.values()))
def test_the_views_run_outside_of_atomic_requests(path: str) -> None:
    view: Any = resolve_url(path).func
    assert "default" in view._non_atomic_requests
    assert view.csrf_exempt
    assert view.login_required is False


def test_a_coroutine_task_fails_when_its_caller_disconnects(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leave() -> None:
        body = body_of("tests.tasks.waits_for_ever")
        request = AsyncRequestFactory().post(
            PATHS["async"],
            body,
            content_type="application/json",
            headers={"X-Django-Tasks-Signature": sign(body)},
        )
        answering = asyncio.ensure_future(resolve_url(PATHS["async"]).func(request))
        await asyncio.wait_for(tasks.waiting().wait(), 10)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering

    asyncio.run(leave())
    assert "failed in attempt 1 of 100" in caplog.text


@pytest.fixture(autouse=True)
def _no_gate_left_shut() -> Iterator[None]:
    yield
    gate.go_on.set()

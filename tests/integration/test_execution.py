"""The endpoint: authorization, execution and responses. Both views pass the same tests."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from django.conf import LazySettings
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from django_tasks_cloud_tasks import AsyncExecuteTaskView, ExecuteTaskView
from django_tasks_cloud_tasks.core.outcomes import Outcome
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime
from django_tasks_cloud_tasks.django_integration.signing import sign

from tests import tasks
from tests.integration.deliveries import PATHS, body_of, post_signed

pytestmark = pytest.mark.usefixtures("cloud_tasks")

type Deliver = Callable[..., HttpResponse]


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def deliver(request: pytest.FixtureRequest) -> Deliver:
    def _deliver(
        path: str = "tests.tasks.add",
        *args: Any,
        body: bytes | None = None,
        signature: str | None = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> HttpResponse:
        sent = body_of(path, *args, **more) if body is None else body
        return post_signed(request.param, sent, signature, headers)

    return _deliver


def answer(response: HttpResponse) -> Any:
    return response.status_code, json.loads(response.content)


def test_a_task_runs_and_its_success_is_answered(deliver: Deliver) -> None:
    assert answer(deliver("tests.tasks.add", 1, 2)) == (
        200,
        {"status": "success", "task_id": "an-id"},
    )
    assert tasks.ran == [("add", 1, 2)]


def test_a_coroutine_task_runs(deliver: Deliver) -> None:
    assert deliver("tests.tasks.add_async", 1, 2).status_code == 200
    assert tasks.ran == [("add_async", 1, 2)]


def test_a_task_that_raises_is_answered_with_its_error_and_without_its_traceback(
    deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    status, document = answer(deliver("tests.tasks.fails", "no such order"))
    assert (status, document) == (
        500,
        {"status": "error", "task_id": "an-id", "error": "ValueError: no such order"},
    )
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.name == "django_tasks_cloud_tasks"
    assert said.levelno == logging.WARNING, "it is not over"
    assert "failed in attempt 1 of 100. It is attempted again if its queue" in said.getMessage()
    assert said.exc_info is not None


def test_the_last_attempt_is_answered_200_and_ends_the_task(
    deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    response = deliver(
        "tests.tasks.fails", "no such order", headers={"X-CloudTasks-TaskRetryCount": "99"}
    )
    assert answer(response) == (
        200,
        {"status": "failed", "task_id": "an-id", "error": "ValueError: no such order"},
    )
    (said,) = [r.getMessage() for r in caplog.records if r.name == "django_tasks_cloud_tasks"]
    assert "It is not attempted again, because it was attempt 100 of 100" in said
    (error,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (error.name, error.exc_info is not None) == ("django.tasks", True), "by Django's signal"


def test_the_answer_has_the_traceback_under_debug(deliver: Deliver, settings: LazySettings) -> None:
    settings.DEBUG = True
    _, document = answer(deliver("tests.tasks.fails", "no such order"))
    assert "raise ValueError(message)" in document["traceback"]


def test_a_return_value_that_is_not_json_fails_the_task_permanently(
    deliver: Deliver,
) -> None:
    status, document = answer(deliver("tests.tasks.returns_a_set"))
    assert status == 200
    assert document["status"] == "failed"
    assert "set" in document["error"]


def test_the_context_knows_the_attempt(deliver: Deliver) -> None:
    deliver("tests.tasks.which_attempt", headers={"X-CloudTasks-TaskRetryCount": "4"})
    assert tasks.ran == [5]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tests.tasks.not_a_task", "is no task"),
        ("tests.tasks.nowhere", "has no 'nowhere'"),
        ("tests.no_such_module.add", "No module named"),
        ("os.system", "is no task"),
    ],
)
def test_a_function_that_is_not_a_task_is_never_called(
    deliver: Deliver, path: str, reason: str
) -> None:
    status, document = answer(deliver(path, "echo"))
    assert status == 404
    assert reason in document["error"]
    assert tasks.ran == []


def test_a_task_of_an_unknown_backend_is_refused_as_unknown(deliver: Deliver) -> None:
    status, document = answer(deliver("tests.tasks.add", 1, 2, backend="elsewhere"))
    assert (status, "'elsewhere'" in document["error"]) == (404, True)


def test_the_answer_lists_every_fault_of_an_invalid_body(deliver: Deliver) -> None:
    body = b'{"task_id": 7, "task_path": "no", "args": {}}'
    status, document = answer(deliver(body=body))
    assert status == 400
    assert document["faults"] == [
        "task_id must be a string, not a whole number",
        "task_path must be a dotted path such as 'shop.tasks.send_receipt'",
        "args must be an array, not an object",
        "kwargs is missing",
    ]


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete", "options", "head"])
@pytest.mark.parametrize("path", list(PATHS.values()))
def test_methods_other_than_post_are_refused(method: str, path: str) -> None:
    response = getattr(Client(), method)(path)
    assert response.status_code == 405
    assert response["Allow"] == "POST"


@pytest.mark.parametrize("signature", ["", "wrong", sign(b"another body")])
def test_a_request_without_the_right_signature_runs_nothing_and_learns_nothing(
    deliver: Deliver, signature: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, document = answer(deliver("tests.tasks.add", 1, 2, signature=signature))
    assert (status, document) == (401, {"status": "error", "error": "Unauthorized"})
    assert tasks.ran == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "payload signature" in caplog.text


def test_no_module_is_imported_before_the_caller_is_authorized(deliver: Deliver) -> None:
    import sys

    sys.modules.pop("tests.imported_by_nobody", None)
    assert deliver("tests.imported_by_nobody.task", signature="wrong").status_code == 401
    assert "tests.imported_by_nobody" not in sys.modules


def test_a_signature_with_a_former_key_is_accepted(
    deliver: Deliver, settings: LazySettings
) -> None:
    body = json.dumps(
        {"task_id": "an-id", "task_path": "tests.tasks.add", "args": [1, 2], "kwargs": {}}
    ).encode()
    made_before = sign(body)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
    assert deliver(body=body, signature=made_before).status_code == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert deliver(body=body, signature=made_before).status_code == 401


def test_debug_admits_a_request_without_proof_and_refuses_one_with_a_wrong_proof(
    settings: LazySettings,
) -> None:
    settings.DEBUG = True
    body = json.dumps(
        {"task_id": "an-id", "task_path": "tests.tasks.add", "args": [1, 2], "kwargs": {}}
    )

    def post(**headers: str) -> int:
        return (
            Client()
            .post(
                "/cloudtasks/execute/", data=body, content_type="application/json", headers=headers
            )
            .status_code
        )

    assert post() == 200
    assert post(**{"X-Django-Tasks-Signature": "wrong"}) == 401
    assert post(Authorization="Bearer wrong") == 401


@pytest.mark.parametrize("base", [ExecuteTaskView, AsyncExecuteTaskView])
def test_a_site_wraps_the_execution_of_every_task(base: Any, settings: Any) -> None:
    around: list[str] = []

    if base is ExecuteTaskView:

        class Own(ExecuteTaskView):
            def execute(self, request: HttpRequest) -> Outcome:
                around.append("before")
                outcome = super().execute(request)
                around.append(type(outcome).__name__)
                return outcome

        view = Own.as_view()
    else:

        class OwnAsync(AsyncExecuteTaskView):
            async def execute(self, request: HttpRequest) -> Outcome:
                around.append("before")
                outcome = await super().execute(request)
                around.append(type(outcome).__name__)
                return outcome

        view = OwnAsync.as_view()
    urls = type("urls", (), {"urlpatterns": [path("own/", view)]})
    settings.ROOT_URLCONF = urls
    body = json.dumps(
        {"task_id": "1", "task_path": "tests.tasks.add", "args": [1, 2], "kwargs": {}}
    ).encode()
    signed = {"X-Django-Tasks-Signature": sign(body)}
    answered: Any = Client().post("/own/", body, content_type="application/json", headers=signed)
    assert answered.status_code == 200
    assert around == ["before", "Succeeded"]


def test_an_attempt_that_exceeds_its_deadline_is_logged_with_the_option_that_sets_it(
    deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock makes every task last longer than the ten minutes that Cloud Tasks waits."""
    moments = (datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=601) * n for n in count())
    with use_runtime(Runtime(environ={}, clock=moments.__next__)):
        assert deliver("tests.tasks.add", 1, 2).status_code == 200
    (said,) = [r.getMessage() for r in caplog.records if r.name == "django_tasks_cloud_tasks"]
    assert "took 601.0 s. Cloud Tasks waits 600 s" in said
    assert "Set the timeout of the task, or DISPATCH_DEADLINE, to a higher value" in said

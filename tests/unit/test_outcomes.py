"""What to answer."""

import pytest
from django_tasks_cloud_tasks.core.outcomes import (
    BadPayload,
    Failed,
    Forbidden,
    Outcome,
    Succeeded,
    Unauthenticated,
    UnknownTask,
    Unserializable,
    WrongMethod,
    decide,
)

FAILED = Failed("an-id", "ValueError: no", "Traceback ...")


@pytest.mark.parametrize(
    ("outcome", "status", "document"),
    [
        (Succeeded("an-id"), 200, {"status": "success", "task_id": "an-id"}),
        (FAILED, 500, {"status": "error", "task_id": "an-id", "error": "ValueError: no"}),
        (
            Unserializable("an-id", "no"),
            200,
            {"status": "error", "task_id": "an-id", "error": "no"},
        ),
        (
            BadPayload(("a", "b")),
            400,
            {"status": "error", "error": "The body is no task.", "faults": ["a", "b"]},
        ),
        (UnknownTask("an-id", "no"), 404, {"status": "error", "error": "no", "task_id": "an-id"}),
        (Unauthenticated(), 401, {"status": "error", "error": "Unauthorized"}),
        (Forbidden(), 403, {"status": "error", "error": "Forbidden"}),
        (WrongMethod(), 405, {"status": "error", "error": "Method not allowed"}),
    ],
)
def test_answers(outcome: Outcome, status: int, document: dict[str, object]) -> None:
    answer = decide(outcome, debug=False)
    assert (answer.status, answer.document) == (status, document)


def test_a_traceback_is_told_under_debug_only() -> None:
    assert decide(FAILED, debug=True).document["traceback"] == "Traceback ..."
    assert "traceback" not in decide(FAILED, debug=False).document


def test_refusals_say_what_http_demands_of_them() -> None:
    assert decide(Unauthenticated(), debug=False).headers == {"WWW-Authenticate": "Bearer"}
    assert decide(WrongMethod(), debug=False).headers == {"Allow": "POST"}

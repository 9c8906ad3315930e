"""The answer to each outcome."""

import pytest
from django_tasks_cloud_tasks.core.outcomes import (
    AttemptFailed,
    AttemptsUsedUp,
    BadPayload,
    Busy,
    Cancelled,
    Duplicate,
    Failed,
    Forbidden,
    LeaseLost,
    NextNotCreated,
    NotDue,
    Outcome,
    Relayed,
    Snoozed,
    Succeeded,
    Superseded,
    Unauthenticated,
    UnknownTask,
    Unrecorded,
    WrongMethod,
    response_to,
)
from django_tasks_cloud_tasks.core.records import State

AGAIN = AttemptFailed("an-id", "ValueError: no", "Traceback ...")
MADE = AttemptFailed("an-id", "ValueError: no", "Traceback ...", by_queue=False)
FAILED = Failed("an-id", "ValueError: no", "Traceback ...")


@pytest.mark.parametrize(
    ("outcome", "status", "document"),
    [
        (Succeeded("an-id"), 200, {"status": "success", "task_id": "an-id"}),
        (AGAIN, 500, {"status": "error", "task_id": "an-id", "error": "ValueError: no"}),
        (MADE, 200, {"status": "error", "task_id": "an-id", "error": "ValueError: no"}),
        (FAILED, 200, {"status": "failed", "task_id": "an-id", "error": "ValueError: no"}),
        (
            AttemptsUsedUp("an-id", 5),
            200,
            {
                "status": "failed",
                "task_id": "an-id",
                "error": "The workers of all 5 attempts died.",
            },
        ),
        (Snoozed("an-id"), 200, {"status": "snoozed", "task_id": "an-id"}),
        (NotDue("an-id"), 200, {"status": "snoozed", "task_id": "an-id"}),
        (Superseded("an-id"), 200, {"status": "superseded", "task_id": "an-id"}),
        (
            NextNotCreated("an-id"),
            503,
            {
                "status": "error",
                "error": "Another Cloud Task is needed for this task, and Cloud Tasks did not "
                "take it.",
                "task_id": "an-id",
            },
        ),
        (
            BadPayload(("a", "b")),
            400,
            {"status": "error", "error": "The body is not a task.", "faults": ["a", "b"]},
        ),
        (UnknownTask("an-id", "no"), 404, {"status": "error", "error": "no", "task_id": "an-id"}),
        (
            Duplicate("an-id", State.SUCCESSFUL),
            200,
            {"status": "duplicate", "task_id": "an-id", "ended": "SUCCESSFUL"},
        ),
        (Cancelled("an-id"), 200, {"status": "cancelled", "task_id": "an-id"}),
        (
            Busy("an-id", 0.2),
            409,
            {
                "status": "error",
                "error": "Another attempt is running, for at least 1 s more.",
                "task_id": "an-id",
            },
        ),
        (
            LeaseLost("an-id"),
            409,
            {
                "status": "error",
                "error": "Another attempt took over. The end of this one is not recorded.",
                "task_id": "an-id",
            },
        ),
        (
            Unrecorded("an-id"),
            404,
            {"status": "error", "error": "The record of this task is gone.", "task_id": "an-id"},
        ),
        (Relayed(3, 0), 200, {"status": "success", "sent": 3, "failed": 0}),
        (Relayed(3, 1), 503, {"status": "error", "sent": 3, "failed": 1}),
        (Unauthenticated(), 401, {"status": "error", "error": "Unauthorized"}),
        (Forbidden(), 403, {"status": "error", "error": "Forbidden"}),
        (WrongMethod(), 405, {"status": "error", "error": "Method not allowed"}),
    ],
)
def test_each_outcome_has_its_status_and_document(
    outcome: Outcome, status: int, document: dict[str, object]
) -> None:
    answer = response_to(outcome, debug=False)
    assert (answer.status, answer.document) == (status, document)


def test_the_answer_has_a_traceback_only_under_debug() -> None:
    for outcome in (AGAIN, MADE, FAILED):
        assert response_to(outcome, debug=True).document["traceback"] == "Traceback ..."
        assert "traceback" not in response_to(outcome, debug=False).document


def test_refusals_have_the_headers_that_http_requires() -> None:
    assert response_to(Unauthenticated(), debug=False).headers == {"WWW-Authenticate": "Bearer"}
    assert response_to(WrongMethod(), debug=False).headers == {"Allow": "POST"}


def test_the_answer_to_a_duplicate_says_when_to_retry() -> None:
    assert response_to(Busy("an-id", 40.2), debug=False).headers == {"Retry-After": "41"}

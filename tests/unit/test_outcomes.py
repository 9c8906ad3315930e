"""What to answer."""

import pytest
from django_tasks_cloud_tasks.core.outcomes import (
    BadPayload,
    Busy,
    Cancelled,
    Duplicate,
    Failed,
    Forbidden,
    LeaseLost,
    Outcome,
    Relayed,
    Succeeded,
    Unauthenticated,
    UnknownTask,
    Unrecorded,
    Unserializable,
    WrongMethod,
    decide,
)
from django_tasks_cloud_tasks.core.records import State

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
                "error": "Another attempt runs, for 1 s at least.",
                "task_id": "an-id",
            },
        ),
        (
            LeaseLost("an-id"),
            409,
            {
                "status": "error",
                "error": "Another attempt took over; this one's end is not recorded.",
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
def test_answers(outcome: Outcome, status: int, document: dict[str, object]) -> None:
    answer = decide(outcome, debug=False)
    assert (answer.status, answer.document) == (status, document)


def test_a_traceback_is_told_under_debug_only() -> None:
    assert decide(FAILED, debug=True).document["traceback"] == "Traceback ..."
    assert "traceback" not in decide(FAILED, debug=False).document


def test_refusals_say_what_http_demands_of_them() -> None:
    assert decide(Unauthenticated(), debug=False).headers == {"WWW-Authenticate": "Bearer"}
    assert decide(WrongMethod(), debug=False).headers == {"Allow": "POST"}


def test_who_is_sent_away_is_told_for_how_long() -> None:
    assert decide(Busy("an-id", 40.2), debug=False).headers == {"Retry-After": "41"}

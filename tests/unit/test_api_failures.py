"""Decisions after failed calls of the Cloud Tasks API."""

import attrs
import grpc
import pytest
from django_tasks_cloud_tasks.core import errors
from django_tasks_cloud_tasks.core.api_failures import (
    Call,
    Code,
    Control,
    Done,
    Failure,
    GiveUp,
    NextStep,
    Repeat,
    Reply,
    Sleep,
    Told,
    TryAgain,
    after_failed_control,
    after_failure,
    attempt_timeout,
    calling,
)
from django_tasks_cloud_tasks.core.errors import (
    CancelError,
    ControlError,
    EnqueueError,
    RunNowError,
)
from django_tasks_cloud_tasks.core.names import QueueName
from django_tasks_cloud_tasks.core.requests import OidcIdentity, TaskRequest
from hypothesis import given
from hypothesis import strategies as st

TRANSIENT = [
    *(Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.INTERNAL),
    *(Code.CANCELLED, Code.UNKNOWN, Code.RESOURCE_EXHAUSTED),
]
RECONNECTED = [Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.CANCELLED, Code.UNKNOWN]


def request(*, named: bool = True, oidc: OidcIdentity | None = None) -> TaskRequest:
    return TaskRequest(
        queue=QueueName("shop", "europe-west1", "mail"),
        task_id="an-id" if named else None,
        url="https://a.b/",
        headers={},
        body=b"",
        oidc=oidc,
    )


def failure(
    code: Code,
    attempt: int = 1,
    elapsed: float = 0.0,
    *,
    details: str = "why",
    retry_after: float = 0.0,
) -> Failure:
    reply = Reply(code=code, status=code.name, details=details, retry_after=retry_after)
    return Failure(reply=reply, attempt=attempt, elapsed=elapsed)


def decide(
    failed: Failure, of: TaskRequest | None = None, jitter: float = 1.0
) -> NextStep[EnqueueError]:
    return after_failure(failed, request=of or request(), timeout=10, jitter=jitter)


@pytest.mark.parametrize("code", TRANSIENT)
def test_what_may_pass_is_tried_again_later_and_later(code: Code) -> None:
    fresh = code in RECONNECTED
    assert [decide(failure(code, attempt)) for attempt in (1, 2, 3)] == [
        TryAgain(0.1, reconnect=fresh),
        TryAgain(0.2, reconnect=fresh),
        TryAgain(0.4, reconnect=fresh),
    ]
    assert decide(failure(code), jitter=0) == TryAgain(0.05, reconnect=fresh)


def test_an_attempt_that_runs_out_of_time_does_not_hide_why_the_others_failed() -> None:
    first = failure(Code.CANCELLED, details="reset")
    second = attrs.evolve(failure(Code.DEADLINE_EXCEEDED, 2), before=first)
    last = attrs.evolve(failure(Code.DEADLINE_EXCEEDED, 3, elapsed=10), before=second)
    decision = decide(last)
    assert isinstance(decision, GiveUp)
    assert "(DEADLINE_EXCEEDED: why; before that CANCELLED: reset)" in str(decision.error)


def test_every_status_of_grpc_is_one_of_those_that_were_thought_of() -> None:
    assert {code.name for code in grpc.StatusCode} - {"OK"} == {code.name for code in Code} - {
        "OTHER"
    }
    refused = {code for code in Code if code.repeat is Repeat.NEVER}
    assert refused == set(Code) - set(TRANSIENT)
    assert {code for code in Code if code.repeat is Repeat.RECONNECTED} == set(RECONNECTED)


def test_the_service_is_left_alone_for_as_long_as_it_asks() -> None:
    asked = failure(Code.RESOURCE_EXHAUSTED, retry_after=3.0)
    assert decide(asked) == TryAgain(3.0)
    decision = decide(failure(Code.RESOURCE_EXHAUSTED, retry_after=60.0))
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, errors.ServiceUnavailableError)
    assert "asks to wait 60 s before the next try" in str(decision.error)


@pytest.mark.parametrize("code", TRANSIENT)
def test_until_the_time_is_up(code: Code) -> None:
    decision = decide(failure(code, attempt=7, elapsed=9.5))
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, errors.ServiceUnavailableError)
    assert "within 10 s (7 attempts)" in str(decision.error)
    assert "ENQUEUE_TIMEOUT" in str(decision.error)


def test_already_exists_on_a_repetition_means_that_it_worked() -> None:
    assert decide(failure(Code.ALREADY_EXISTS, attempt=2)) == Done()


def test_already_exists_at_once_is_an_error() -> None:
    for of, attempt in ((request(), 1), (request(named=False), 2)):
        decision = decide(failure(Code.ALREADY_EXISTS, attempt), of)
        assert isinstance(decision, GiveUp)
        assert isinstance(decision.error, errors.TaskRejectedError)


@pytest.mark.parametrize(
    ("code", "kind", "mend"),
    [
        (
            Code.NOT_FOUND,
            errors.QueueNotFoundError,
            "gcloud tasks queues create mail --location=europe-west1 --project=shop",
        ),
        (Code.PERMISSION_DENIED, errors.PermissionDeniedError, "roles/cloudtasks.enqueuer"),
        (Code.UNAUTHENTICATED, errors.PermissionDeniedError, "roles/cloudtasks.enqueuer"),
        (Code.OTHER, errors.TaskRejectedError, "why"),
    ],
)
def test_what_will_not_pass_says_what_to_do(
    code: Code, kind: type[errors.EnqueueError], mend: str
) -> None:
    decision = decide(failure(code))
    assert isinstance(decision, GiveUp)
    assert type(decision.error) is kind
    assert mend in str(decision.error)
    assert "projects/shop/locations/europe-west1/queues/mail" in str(decision.error)


def test_a_task_with_a_token_needs_a_role_on_its_account() -> None:
    oidc = OidcIdentity(service_account_email="tasks@shop", audience="https://a.b")
    decision = decide(failure(Code.PERMISSION_DENIED), request(oidc=oidc))
    assert isinstance(decision, GiveUp)
    assert "roles/iam.serviceAccountUser on tasks@shop" in str(decision.error)


def test_names_of_codes() -> None:
    assert Code.named("ABORTED") is Code.ABORTED
    assert Code.named("A_NEW_ONE") is Code.OTHER


@given(st.floats(0.001, 3600))
def test_an_attempt_leaves_room_for_another_and_is_never_longer_than_what_is_left(
    remaining: float,
) -> None:
    timeout = attempt_timeout(remaining=remaining)
    assert 0 < timeout <= remaining
    assert remaining <= 2 or timeout == remaining / 2


def test_what_is_recorded_may_exist_already() -> None:
    taken = failure(Code.ALREADY_EXISTS)
    assert decide(taken, attrs.evolve(request(), may_exist=True)) == Done()


NAME = "projects/p/locations/l/queues/q/tasks/t"


def control(failed: Failure, of: Control = Control.DELETE) -> NextStep[ControlError]:
    return after_failed_control(failed, control=of, name=NAME, timeout=10, jitter=1.0)


def test_a_task_that_is_not_there_is_missing() -> None:
    assert control(failure(Code.NOT_FOUND)) == Done(found=False)
    assert control(failure(Code.NOT_FOUND, attempt=2), Control.RUN) == Done(found=False)


def test_a_deletion_whose_answer_was_lost_has_deleted() -> None:
    assert control(failure(Code.NOT_FOUND, attempt=2)) == Done()


def test_a_control_says_how_long_the_service_asks_to_be_left_alone() -> None:
    decision = control(failure(Code.RESOURCE_EXHAUSTED, retry_after=60.0))
    assert isinstance(decision, GiveUp)
    assert "asks to wait 60 s before the next try" in str(decision.error)


@pytest.mark.parametrize("code", [Code.CANCELLED, Code.UNKNOWN])
def test_a_task_without_a_name_is_not_made_twice_by_what_may_have_made_it(code: Code) -> None:
    decision = decide(failure(code), request(named=False))
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, errors.ServiceUnavailableError)


@pytest.mark.parametrize("code", TRANSIENT)
def test_a_control_that_may_pass_is_tried_again_while_there_is_time(code: Code) -> None:
    assert control(failure(code, attempt=2)) == TryAgain(0.2, reconnect=code in RECONNECTED)
    decision = control(failure(code, elapsed=9.95))
    assert isinstance(decision, GiveUp)
    assert decision.error.unanswered


@pytest.mark.parametrize(
    ("of", "error", "role"),
    [
        (Control.DELETE, CancelError, "roles/cloudtasks.taskDeleter"),
        (Control.RUN, RunNowError, "roles/cloudtasks.taskRunner"),
    ],
)
def test_a_refused_control_names_the_task_and_the_role(
    of: Control, error: type[Exception], role: str
) -> None:
    decision = control(failure(Code.PERMISSION_DENIED), of)
    assert isinstance(decision, GiveUp)
    assert type(decision.error) is error
    assert NAME in str(decision.error)
    assert role in str(decision.error)


# A call with its repetitions.


def test_a_call_is_made_and_repeated_as_it_is_decided() -> None:
    flow = calling(decide, timeout=10)
    lost = Reply(code=Code.DEADLINE_EXCEEDED, status="DEADLINE_EXCEEDED", details="why")
    assert next(flow) == Call(timeout=5.0)
    assert flow.send(Told(5.0, lost)) == Sleep(0.1, reconnect=True)
    assert flow.send(Told(5.0)) == Call(timeout=2.5)
    busy = Reply(code=Code.UNAVAILABLE, status="UNAVAILABLE", details="why")
    assert flow.send(Told(6.0, busy)) == Sleep(0.2)
    assert flow.send(Told(7.0)) == Call(timeout=1.5)
    with pytest.raises(StopIteration) as end:
        flow.send(Told(7.1))
    assert end.value.value is True


def test_a_call_that_is_given_up_raises_what_was_decided() -> None:
    flow = calling(decide, timeout=10)
    next(flow)
    refused = Reply(code=Code.INVALID_ARGUMENT, status="INVALID_ARGUMENT", details="why")
    with pytest.raises(EnqueueError, match="INVALID_ARGUMENT: why"):
        flow.send(Told(0.1, refused))


def test_a_call_for_what_is_not_there_says_so() -> None:
    flow = calling(control, timeout=10)
    next(flow)
    gone = Reply(code=Code.NOT_FOUND, status="NOT_FOUND", details="why")
    with pytest.raises(StopIteration) as end:
        flow.send(Told(0.1, gone))
    assert end.value.value is False

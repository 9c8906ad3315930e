"""Building the request, and computing its size as the service does."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tasks_cloud_tasks.core.backoff import Backoff
from django_tasks_cloud_tasks.core.errors import InvalidNameError, PayloadTooLargeError
from django_tasks_cloud_tasks.core.names import QueueName
from django_tasks_cloud_tasks.core.payload import PROGRESS_SIZE, TaskPayload
from django_tasks_cloud_tasks.core.requests import (
    MAX_STORED_SIZE,
    OidcIdentity,
    Route,
    TaskRequest,
    build_task_request,
    stored_size,
)
from django_tasks_cloud_tasks.core.retry_policy import RetrySettings, TaskPolicy
from google.cloud.tasks_v2.types import Task
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OIDC = OidcIdentity(service_account_email="tasks@p.iam.gserviceaccount.com", audience="https://a.b")


NOTHING_SAID = TaskPolicy()


def route(**changes: Any) -> Route:
    known = {"project": "p", "location": "l", "url": "https://a.b/cloudtasks/execute/"}
    return Route(**known | changes)


def build(
    where: Route,
    body: bytes = b"{}",
    run_after: datetime | None = None,
    policy: TaskPolicy = NOTHING_SAID,
    number: int = 0,
    **fields: Any,
) -> TaskRequest:
    payload = TaskPayload(task_id="an-id", task_path="a.b", args=[], kwargs={}, **fields)
    return build_task_request(
        payload,
        body=body,
        signature="signed",
        route=where,
        policy=policy,
        run_after=run_after,
        now=NOW,
        number=number,
    )


def test_a_request_has_everything_that_the_route_specifies() -> None:
    deadline, later = timedelta(minutes=5), NOW + timedelta(hours=1)
    request = build(
        route(oidc=OIDC, dispatch_deadline=deadline, thresholds={1: "{queue}-urgent"}),
        queue_name="mail",
        priority=1,
        run_after=later,
    )
    assert request == TaskRequest(
        queue=QueueName("p", "l", "mail-urgent"),
        task_id="an-id",
        url="https://a.b/cloudtasks/execute/",
        headers={"Content-Type": "application/json", "X-Django-Tasks-Signature": "signed"},
        body=b"{}",
        schedule_time=later,
        dispatch_deadline=deadline,
        oidc=OIDC,
    )


def test_a_policy_that_is_data_travels_with_the_request() -> None:
    backoff = Backoff(10, 300, 3)
    policy = TaskPolicy(max_attempts=5, backoff=backoff, timeout=timedelta(minutes=2))
    request = build(route(dispatch_deadline=timedelta(minutes=5)), policy=policy)
    assert request.retry == RetrySettings(5, backoff)
    assert request.dispatch_deadline == timedelta(minutes=2)
    assert build(route(sends_retry_config=False), policy=policy).retry is None
    assert build(route()).retry is None


def test_a_cloud_task_that_follows_another_has_another_name_and_may_exist() -> None:
    request = build(route(), number=2)
    assert (request.task_id, request.may_exist) == ("an-id-2", True)
    assert build(route()).may_exist is False


def test_a_request_for_an_unnamed_task_has_no_task_id() -> None:
    assert build(route(name_tasks=False)).task_id is None


def test_an_impossible_queue_name_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        build(route(), queue_name="a_b")


def as_stored(request: TaskRequest) -> int:
    """Return the size of the real message with all fields that the service adds."""
    task = Task.pb()(
        name=f"{request.queue}/tasks/{request.task_id}",
        http_request={
            "url": request.url,
            "http_method": 1,
            "headers": {"User-Agent": "Google-Cloud-Tasks", **request.headers},
            "body": request.body,
        },
        schedule_time=Timestamp(seconds=1_767_225_600, nanos=999_999_999),
        create_time=Timestamp(seconds=1_767_225_600, nanos=999_999_999),
        dispatch_deadline=Duration(seconds=600),
        view=2,
    )
    if request.oidc:
        task.http_request.oidc_token.service_account_email = request.oidc.service_account_email
        task.http_request.oidc_token.audience = request.oidc.audience
    return int(task.ByteSize())


@given(
    st.integers(1, 2_000_000).map(bytes) | st.sampled_from([127, 128, 16383, 16384]).map(bytes),
    st.sampled_from([None, OIDC]),
    st.dictionaries(st.text(min_size=1, max_size=40), st.text(max_size=300), max_size=4),
    st.text("az09-_", min_size=1, max_size=500),
)
def test_the_computed_size_equals_the_size_of_the_real_message(
    body: bytes, oidc: OidcIdentity | None, headers: dict[str, str], task_id: str
) -> None:
    request = TaskRequest(
        queue=QueueName("project", "europe-west1", "default"),
        task_id=task_id,
        url="https://app.example.com/cloudtasks/execute/",
        headers={k: v for k, v in headers.items() if k != "User-Agent"},
        body=body,
        oidc=oidc,
    )
    assert stored_size(request) == as_stored(request)


def largest_body(where: Route) -> int:
    most = MAX_STORED_SIZE - PROGRESS_SIZE
    return most - stored_size(build(where, b"x" * 1_000_000)) + 1_000_000


@pytest.mark.parametrize("oidc", [None, OIDC])
def test_the_largest_body_is_accepted_and_one_byte_more_is_refused(
    oidc: OidcIdentity | None,
) -> None:
    where = route(oidc=oidc)
    size = largest_body(where)
    assert stored_size(build(where, b"x" * size)) == MAX_STORED_SIZE - PROGRESS_SIZE
    with pytest.raises(PayloadTooLargeError) as raised:
        build(where, b"x" * (size + 1))
    assert "1,048,570 bytes" in str(raised.value)
    assert "1,048,569 is the limit" in str(raised.value)
    assert (raised.value.size, raised.value.limit) == (MAX_STORED_SIZE + 1, MAX_STORED_SIZE)

"""Batches, IAM, locations, CMEK, buffered tasks and overrides, over gRPC and REST."""

from typing import Any

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.state.targets import UriOverride, overridden_url
from google.cloud import tasks_v2
from google.iam.v1.policy_pb2 import Policy
from google.protobuf.duration_pb2 import Duration

from tests.integration.http_calls import ask
from tests.integration.refusals import LOCATION, START, refusal

BATCHES = pytest.mark.skipif(
    not hasattr(tasks_v2, "BatchCreateTasksRequest"),
    reason="this version of google-cloud-tasks has no batches and no retry_config of tasks",
)
OVERRIDES = pytest.mark.skipif(
    not hasattr(tasks_v2.Queue(), "http_target"),
    reason="this version of google-cloud-tasks has no http_target of queues",
)
CMEK = pytest.mark.skipif(
    not hasattr(tasks_v2, "CmekConfig"), reason="this version of google-cloud-tasks has no CMEK"
)
PLAIN = {"Content-Type": "text/plain"}
URL = {"http_request": {"url": "http://127.0.0.1:1/"}}


@BATCHES
def test_a_batch_is_created_once_for_its_request_id(client: Any, queue: str) -> None:
    requests = [{"parent": queue, "task": URL | {"name": f"{queue}/tasks/t{n}"}} for n in range(3)]
    requests.append({"parent": queue, "task": {"http_request": {"url": "nowhere"}}})
    request = {"parent": queue, "requests": requests, "request_id": "once"}
    first = client.batch_create_tasks(request=request)
    assert [task.name for task in first.result().tasks] == [f"{queue}/tasks/t{n}" for n in range(3)]
    assert first.metadata.state == tasks_v2.BatchCreateTasksMetadata.State.PARTIALLY_SUCCEEDED
    assert first.metadata.failed_requests[3].message.startswith("HttpTarget.url must start")
    second = client.batch_create_tasks(request=request)
    assert second.operation.name == first.operation.name
    assert len(list(client.list_tasks(parent=queue))) == 3
    kept = client.get_operation({"name": first.operation.name})
    assert kept.done
    too_many = {"parent": queue, "requests": requests * 26}
    assert refusal(lambda: client.batch_create_tasks(request=too_many))[0] == "INVALID_ARGUMENT"


@BATCHES
def test_a_batch_of_tasks_is_deleted(client: Any, queue: str) -> None:
    names = [client.create_task(parent=queue, task=URL).name for _ in range(3)]
    done = client.batch_delete_tasks(request={"parent": queue, "names": names[:2]})
    assert done.metadata.state == tasks_v2.BatchDeleteTasksMetadata.State.SUCCEEDED
    assert [task.name for task in client.list_tasks(parent=queue)] == names[2:]
    failed = client.batch_delete_tasks(request={"parent": queue, "names": names[:2]})
    assert failed.operation.error.code == 10
    assert "None of the requests succeeded" in failed.operation.error.message


@BATCHES
def test_the_retry_policy_of_a_task_overrides_that_of_its_queue(
    client: Any, queue: str, emulator: BackgroundEmulator
) -> None:
    config = {"max_attempts": 2, "min_backoff": Duration(seconds=30)}
    task = client.create_task(parent=queue, task=URL | {"retry_config": config})
    assert task.retry_config.max_attempts == 2
    client.resume_queue(name=queue)
    emulator.call(emulator.emulator.advance(29))
    assert len(emulator.emulator.finished) == 1
    emulator.call(emulator.emulator.advance(3600))
    assert len(emulator.emulator.finished) == 2


def test_the_iam_policy_of_a_queue_is_stored(client: Any, queue: str) -> None:
    assert list(client.get_iam_policy({"resource": queue}).bindings) == []
    policy = Policy(bindings=[{"role": "roles/cloudtasks.enqueuer", "members": ["user:a@b.c"]}])
    client.set_iam_policy({"resource": queue, "policy": policy})
    kept = client.get_iam_policy({"resource": queue})
    assert [binding.role for binding in kept.bindings] == ["roles/cloudtasks.enqueuer"]
    asked = {"resource": queue, "permissions": ["cloudtasks.tasks.create"]}
    assert list(client.test_iam_permissions(asked).permissions) == ["cloudtasks.tasks.create"]


def test_locations_are_listed_and_found(client: Any, queue: str) -> None:
    listed = client.list_locations({"name": "projects/p"}).locations
    assert {"l", "europe-west1"} <= {location.location_id for location in listed}
    found = client.get_location({"name": LOCATION})
    assert (found.name, found.location_id) == (LOCATION, "l")


@CMEK
def test_the_encryption_key_is_stored(client: Any) -> None:
    name = f"{LOCATION}/cmekConfig"
    assert client.get_cmek_config(name=name).kms_key == ""
    client.update_cmek_config(cmek_config={"name": name, "kms_key": "projects/p/key"})
    assert client.get_cmek_config(name=name).kms_key == "projects/p/key"


@OVERRIDES
def test_a_queue_overrides_the_urls_of_its_tasks(
    client: Any, queue: str, emulator: BackgroundEmulator
) -> None:
    override = {
        "uri_override": {
            "scheme": "HTTP",
            "host": "example.net",
            "port": 8080,
            "path_override": {"path": "/work"},
            "query_override": {"query_params": "a=1"},
        },
        "http_method": "PUT",
        "header_overrides": [{"header": {"key": "x-shop", "value": "two"}}],
        "oidc_token": {"service_account_email": "tasks@p", "audience": "aud"},
    }
    client.update_queue(queue={"name": queue, "http_target": override})
    shown = client.get_queue(name=queue).http_target
    assert (shown.uri_override.host, shown.uri_override.port) == ("example.net", 8080)
    assert shown.header_overrides[0].header.key == "x-shop"
    task = {"http_request": {"url": "https://shop.example.com/x?y=2", "headers": {"X-Shop": "one"}}}
    name = client.create_task(parent=queue, task=task).name
    attempt = emulator.emulator.service.run_task(name, START)
    target: Any = attempt.target()
    assert target.url == "http://example.net:8080/work?a=1"
    assert (target.method, dict(target.headers)) == ("PUT", {"x-shop": "two"})
    assert (target.token.email, target.token.audience) == ("tasks@p", "aud")


@pytest.mark.parametrize(
    ("url", "override", "result"),
    [
        ("http://a/b", UriOverride(scheme="https"), "https://a/b"),
        ("http://a:1/b", UriOverride(host="c"), "http://c:1/b"),
        ("http://a:1/b", UriOverride(port=0), "http://a/b"),
        ("http://a:1/b?c=d", UriOverride(path="", query=""), "http://a:1"),
        ("http://a/b", UriOverride(path="/z", query="q=1", always=False), "http://a/b?q=1"),
        ("", UriOverride(host="a", path="/b"), "https://a/b"),
    ],
)
def test_parts_of_a_url_are_overridden(url: str, override: UriOverride, result: str) -> None:
    assert overridden_url(url, override) == result


@OVERRIDES
def test_a_buffered_task_is_created_from_the_body_of_the_request(
    client: Any, queue: str, emulator: BackgroundEmulator
) -> None:
    refused = ask(emulator.address, "POST", f"/v2/{queue}/tasks:buffer", b"hello", **PLAIN)
    assert (refused.status, refused.document["error"]["status"]) == (400, "INVALID_ARGUMENT")
    client.update_queue(
        queue={"name": queue, "http_target": {"uri_override": {"host": "example.net"}}}
    )
    for path in ("tasks:buffer", "tasks/:buffer", "tasks/mine:buffer"):
        answer = ask(emulator.address, "POST", f"/v2/{queue}/{path}", b"hello", **PLAIN)
        assert answer.status == 200
        task = client.get_task(
            request={"name": answer.document["task"]["name"], "response_view": 2}
        )
        assert task.http_request.body == b"hello"
        assert task.http_request.headers["Content-Type"] == "text/plain"
    assert answer.document["task"]["name"] == f"{queue}/tasks/mine"


def test_an_unknown_method_is_not_found(emulator: BackgroundEmulator) -> None:
    unknown = ask(emulator.address, "POST", "/v2/projects/p/nonsense", b"", **PLAIN)
    assert unknown.status == 404
    assert unknown.document["error"]["code"] == 404
    path = f"/v2/{LOCATION}/queues"
    refused = ask(emulator.address, "POST", path, b"{no json", **PLAIN)
    assert (refused.status, refused.document["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_an_oauth_token_is_stored_and_sent(
    client: Any, queue: str, emulator: BackgroundEmulator
) -> None:
    task = {"http_request": {"url": "http://a/", "oauth_token": {"service_account_email": "x@y"}}}
    made = client.create_task(parent=queue, task=task)
    scope = "https://www.googleapis.com/auth/cloud-platform"
    assert made.http_request.oauth_token.scope == scope
    token: Any = emulator.emulator.service.run_task(made.name, START).target()
    assert emulator.emulator._issuer.issue(token.token).startswith("ya29.")


def test_a_retry_after_header_delays_the_whole_queue(
    emulator: BackgroundEmulator, queue: str
) -> None:
    service = emulator.emulator.service
    service.set_state(queue, type(service.queue(queue).state).RUNNING)
    from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget

    for task_id in ("a", "b"):
        service.create_task(
            queue,
            task_id,
            HttpTarget(url="http://a/"),
            schedule_time=START + (0 if task_id == "a" else SECOND),
            deadline=SECOND,
            now=START,
        )
    (attempt,) = service.dispatch(queue, START)
    service.finish(attempt, 503, START, retry_after=10 * SECOND)
    assert list(service.dispatch(queue, START + 9 * SECOND)) == []
    assert service.next_event(queue, START) == START + 10 * SECOND
    due = [attempt.task.task_id for attempt in service.dispatch(queue, START + 10 * SECOND)]
    assert sorted(due) == ["a", "b"]

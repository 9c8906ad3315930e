"""The request that creates a task: built from a payload and the resolved configuration."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache

import attrs

from .errors import PayloadTooLargeError
from .names import QueueName, cloud_task_id
from .payload import TaskPayload
from .retry_policy import RetrySettings, TaskPolicy, retry_settings
from .scheduling import queue_for, schedule_time

MAX_STORED_SIZE = 1_048_569
"""Bytes that a task may have as Cloud Tasks stores it, measured against production."""

SIGNATURE_HEADER = "X-Django-Tasks-Signature"
"""Carries the signature of the body, made with the site's SECRET_KEY."""


@attrs.frozen(kw_only=True)
class OidcIdentity:
    """The identity token that Cloud Tasks adds to each dispatch."""

    service_account_email: str
    audience: str


@attrs.frozen(kw_only=True)
class Route:
    """Where the tasks of a backend go: its configuration, resolved.

    Attributes:
        project, location: of the queues.
        url: of the view that executes tasks.
        oidc: the identity to prove there, or None.
        dispatch_deadline: how long an attempt may take; None for Cloud Tasks' 10 minutes.
        thresholds: `PRIORITY_QUEUES`.
        name_tasks: whether a task is created under its own id, so that creating it twice
            makes one.
        sends_retry_config: whether the client can send the retry settings of one task.
    """

    project: str
    location: str
    url: str
    oidc: OidcIdentity | None = None
    dispatch_deadline: timedelta | None = None
    thresholds: Mapping[int, str] = attrs.field(factory=dict)
    name_tasks: bool = True
    sends_retry_config: bool = True


@attrs.frozen(kw_only=True)
class TaskRequest:
    """One HTTP task to create. Times are aware.

    Attributes:
        retry: the retry settings of the task; None for those of its queue.
        may_exist: whether somebody else may have created it already, which is as good.
    """

    queue: QueueName
    task_id: str | None
    url: str
    headers: Mapping[str, str]
    body: bytes
    schedule_time: datetime | None = None
    dispatch_deadline: timedelta | None = None
    oidc: OidcIdentity | None = None
    retry: RetrySettings | None = None
    may_exist: bool = False


def build_task_request(
    payload: TaskPayload,
    *,
    body: bytes,
    signature: str,
    route: Route,
    policy: TaskPolicy,
    run_after: datetime | None,
    now: datetime,
    number: int = 0,
) -> TaskRequest:
    """The request that puts a task into its queue.

    Args:
        body: the encoded payload.
        signature: made for `body`.
        policy: of the task, completed by the defaults of its backend.
        number: of the Cloud Task; 0 is the first that is made for the task.

    Raises:
        PayloadTooLargeError: Cloud Tasks would refuse it for its size.
        InvalidNameError: the queue's name is none.
    """
    request = TaskRequest(
        queue=queue_of(payload.queue_name, priority=payload.priority, route=route),
        task_id=cloud_task_id(payload.task_id, number) if route.name_tasks else None,
        url=route.url,
        headers={"Content-Type": "application/json", SIGNATURE_HEADER: signature},
        body=body,
        schedule_time=schedule_time(run_after, now=now) if run_after else None,
        dispatch_deadline=policy.timeout or route.dispatch_deadline,
        oidc=route.oidc,
        retry=retry_settings(policy, sends_retry_config=route.sends_retry_config),
        # A Cloud Task that follows another is made again when the answer to that one is lost.
        may_exist=payload.recorded or number > 0,
    )
    # Everything but the body is small: the API takes 2,083 characters of URL, 80 KB of headers.
    size = stored_size(request) if len(body) > MAX_STORED_SIZE - _HEADROOM else 0
    if size > MAX_STORED_SIZE:
        raise PayloadTooLargeError(
            f"The task {payload.task_path} takes {size:,} bytes as Cloud Tasks stores it "
            f"({len(body):,} of them are its arguments), and {MAX_STORED_SIZE:,} is the limit. "
            "Store large data elsewhere and pass a reference to it.",
            size=size,
            limit=MAX_STORED_SIZE,
        )
    return request


def queue_of(queue_name: str, *, priority: int, route: Route) -> QueueName:
    """The Cloud Tasks queue for a task of that Django queue and priority.

    Raises:
        InvalidNameError: the queue's name is none.
    """
    queue = queue_name
    if route.thresholds:
        queue = queue_for(queue_name, priority=priority, thresholds=route.thresholds)
    return _queue_name(route.project, route.location, queue)


# The pattern of a name is checked once for each queue, not once for each task.
_queue_name = lru_cache(maxsize=1000)(QueueName)

# What the service adds to every task: name (up to 500 characters of id), create and schedule
# time, deadline, view, method and its own User-Agent header.
_USER_AGENT = ("User-Agent", "Google-Cloud-Tasks")
_TIMESTAMP_SIZE = 2 + 6 + 6  # tag and length, seconds, nanoseconds
_DEADLINE_SIZE = 2 + 3
_ENUM_SIZE = 2
# Tag and length of the message and of its three durations, which have up to 5 bytes of seconds and
# 5 of nanoseconds, and two numbers of up to 10 bytes each, as a negative one has.
_RETRY_SIZE = 2 + 3 * (2 + 6 + 6) + 2 * 11
_GENERATED_ID_SIZE = 20
_HEADROOM = 100_000


def stored_size(request: TaskRequest) -> int:
    """Bytes of the task as Cloud Tasks stores it: its protocol buffer, server defaults applied.

    Counted by the rules of the wire format, at the largest where the service chooses (fractions
    of seconds, a generated id): never below what it will be, and a few bytes above at most.
    """
    id_size = len(request.task_id) if request.task_id else _GENERATED_ID_SIZE
    http = _field(len(request.url.encode())) + _ENUM_SIZE + _field(len(request.body))
    for name, value in (_USER_AGENT, *request.headers.items()):
        http += _field(_field(len(name.encode())) + _field(len(value.encode())))
    if request.oidc:
        http += _field(
            _field(len(request.oidc.service_account_email.encode()))
            + _field(len(request.oidc.audience.encode()))
        )
    retry_size = _RETRY_SIZE if request.retry else 0
    name_size = len(str(request.queue)) + len("/tasks/") + id_size
    return (
        _field(name_size)
        + _field(http)
        + 2 * _TIMESTAMP_SIZE
        + _DEADLINE_SIZE
        + _ENUM_SIZE
        + retry_size
    )


def _field(length: int) -> int:
    """Size of a field of `length` bytes: tag, length as a varint of 7 bits a byte, content."""
    return 1 + max(1, (length.bit_length() + 6) // 7) + length

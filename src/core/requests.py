"""The request that creates a Cloud Task, and the size of the Cloud Task."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache

import attrs

from .errors import PayloadTooLargeError
from .names import CloudTaskName, QueueName, cloud_task_id
from .payload import PROGRESS_SIZE, TaskPayload
from .records import TaskRecord
from .retry_policy import RetrySettings, TaskPolicy, retry_settings
from .scheduling import queue_for, schedule_time

MAX_STORED_SIZE = 1_048_569
"""The maximum size of a task in bytes, as Cloud Tasks stores it. Measured on production."""

SIGNATURE_HEADER = "X-Django-Tasks-Signature"
"""The header with the signature of the body, made with the site's SECRET_KEY."""


@attrs.frozen(kw_only=True)
class OidcIdentity:
    """The service account and the audience of the token that Cloud Tasks adds to each dispatch."""

    service_account_email: str
    audience: str


@attrs.frozen(kw_only=True)
class Route:
    """The queues and the URL for the tasks of a backend.

    Attributes:
        project, location: the project and the location of the queues.
        url: the URL of the view that executes tasks.
        oidc: the token that each dispatch carries; None without one.
        dispatch_deadline: how long an attempt can take; None for the 10 minutes of Cloud Tasks.
        thresholds: the option PRIORITY_QUEUES.
        name_tasks: whether a Cloud Task is named after the task's id, so that a repeated creation
            does not create a second one.
        sends_retry_config: whether the client can send the retry settings of a single task.
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
    """The request to create one Cloud Task. All times are aware.

    Attributes:
        queue: the queue.
        task_id: the id of the Cloud Task; None if Cloud Tasks chooses it.
        url, headers, body: the HTTP request that Cloud Tasks sends.
        schedule_time: when the Cloud Task is due; None for at once.
        dispatch_deadline: how long an attempt can take; None for the 10 minutes of Cloud Tasks.
        oidc: the token that each dispatch carries; None without one.
        retry: the retry settings of the Cloud Task; None for those of its queue.
        may_exist: whether the Cloud Task may already exist. ALREADY_EXISTS then counts as success.
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

    @property
    def name(self) -> CloudTaskName | None:
        """The name of the Cloud Task; None if Cloud Tasks chooses its id."""
        queue = self.queue
        if self.task_id is None:
            return None
        return CloudTaskName(queue.queue, self.task_id, queue.project, queue.location)


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
    """Build the request that creates a Cloud Task for a task.

    Args:
        payload: the payload of the task.
        body: the encoded payload.
        signature: the signature of `body`.
        route: the queues and the URL.
        policy: the policy of the task, with the defaults of its backend.
        run_after: when the task is due, as an aware datetime; None for at once.
        now: the current time, as an aware datetime.
        number: the number of the Cloud Task; 0 is the first for this task.

    Raises:
        PayloadTooLargeError: the task is larger than Cloud Tasks allows.
        InvalidNameError: the queue's name is not valid.
    """
    request = TaskRequest(
        queue=queue_of(payload.queue_name, priority=payload.priority, route=route),
        # The endpoint can be called twice for the same Cloud Task or the same tick. The name
        # ensures that the Cloud Task that follows is created only once.
        task_id=(
            cloud_task_id(payload.task_id, number)
            if route.name_tasks or number or payload.scheduled_for
            else None
        ),
        url=route.url,
        headers={"Content-Type": "application/json", SIGNATURE_HEADER: signature},
        body=body,
        schedule_time=schedule_time(run_after, now=now) if run_after else None,
        dispatch_deadline=policy.timeout or route.dispatch_deadline,
        oidc=route.oidc,
        # A hop runs no attempt, so the limit of the attempts does not apply to its deliveries.
        retry=(
            None
            if payload.progress.due_at
            else retry_settings(policy, sends_retry_config=route.sends_retry_config)
        ),
        # If the response to the previous Cloud Task is lost, its repetition creates this one again.
        may_exist=payload.recorded or number > 0 or payload.scheduled_for is not None,
    )
    # Everything except the body is small: Cloud Tasks allows a URL of 2,083 characters and headers
    # of 80 KB. So the size is only computed for large bodies.
    size = stored_size(request) if len(body) > MAX_STORED_SIZE - _HEADROOM else 0
    # The bodies of the next Cloud Tasks of the task also contain its progress.
    reserved = 0 if number else PROGRESS_SIZE
    size += reserved
    if size > MAX_STORED_SIZE:
        raise PayloadTooLargeError(
            f"The task {payload.task_path} takes {size:,} bytes as Cloud Tasks stores it "
            f"({len(body):,} of them are its body, and {reserved} are reserved for its progress), "
            f"and {MAX_STORED_SIZE:,} is the limit. Store large data elsewhere and pass a "
            "reference to it.",
            size=size,
            limit=MAX_STORED_SIZE,
        )
    return request


def queue_of_record(record: TaskRecord, *, route: Route) -> QueueName:
    """Return the name of the queue that has the latest Cloud Task of a recorded task.

    That can be another queue than `queue_of` returns, if the settings have changed since.

    Raises:
        InvalidNameError: the queue's name is not valid.
    """
    name, payload = record.cloud_task_name, record.payload
    if name is None:
        return queue_of(payload.queue_name, priority=payload.priority, route=route)
    return _queue_name(name.project or route.project, name.location or route.location, name.queue)


def queue_of(queue_name: str, *, priority: int, route: Route) -> QueueName:
    """Return the name of the Cloud Tasks queue for a task with this Django queue and priority.

    Raises:
        InvalidNameError: the queue's name is not valid.
    """
    queue = queue_name
    if route.thresholds:
        queue = queue_for(queue_name, priority=priority, thresholds=route.thresholds)
    return _queue_name(route.project, route.location, queue)


# Cached, so that the name of a queue is checked once, and not for each task.
_queue_name = lru_cache(maxsize=1000)(QueueName)

# Cloud Tasks adds these fields to every task: the name (with up to 500 characters of id), create
# time, schedule time, deadline, view, method, and its own User-Agent header.
_USER_AGENT = ("User-Agent", "Google-Cloud-Tasks")
_TIMESTAMP_SIZE = 2 + 6 + 6  # tag and length, seconds, nanoseconds
_DEADLINE_SIZE = 2 + 3
_ENUM_SIZE = 2
# Tag and length of the message, three durations and two numbers. A duration has a tag and a length,
# up to 6 bytes of seconds and up to 6 of nanoseconds. A number has a tag and up to 10 bytes.
_RETRY_SIZE = 2 + 3 * (2 + 6 + 6) + 2 * 11
_GENERATED_ID_SIZE = 20
_HEADROOM = 100_000


def stored_size(request: TaskRequest) -> int:
    """Return the size of a task in bytes, as Cloud Tasks stores it.

    Cloud Tasks stores a protocol buffer that includes the defaults of the server. The size follows
    the rules of its wire format. Where the service chooses a value, such as fractions of seconds
    or an id, the largest size is used. So the result is never too small, and at most a few bytes
    too large.
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
    """Return the size of a field with `length` bytes of content, including tag and length."""
    return 1 + max(1, (length.bit_length() + 6) // 7) + length

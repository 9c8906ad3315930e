"""Between the API's protocol buffers and the values of `state`, with the API's validation."""

import base64
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.cloud.tasks_v2 import types
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ..core.errors import InvalidNameError
from ..core.names import QueueName, is_task_id
from ..core.requests import MAX_STORED_SIZE
from ..core.retries import RetryPolicy
from .errors import ApiError, Status, invalid, invalid_queue_name, invalid_task_id
from .limits import SECOND
from .state import (
    AttemptRecord,
    HttpTarget,
    Queue,
    QueueConfig,
    RateLimits,
    Task,
    Token,
)

# google-cloud-tasks publishes its messages without types.
type Message = Any

TaskMessage = types.Task.pb()
QueueMessage = types.Queue.pb()
_AttemptMessage = types.Attempt.pb()

FULL = int(types.Task.View.FULL)
BASIC = int(types.Task.View.BASIC)

_METHODS = {
    int(getattr(types.HttpMethod, name)): name
    for name in ("POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")
}
_METHOD_NUMBERS = {name: number for number, name in _METHODS.items()}
_BODY_METHODS = {"POST", "PUT", "PATCH"}

_HORIZON = 720 * 3600 * SECOND
_DEFAULT_DEADLINE = 600 * SECOND
_SHORTEST_DEADLINE, _LONGEST_DEADLINE = 15 * SECOND, 1800 * SECOND
_HIGHEST_RATE, _MOST_CONCURRENT = 500, 5000
_LONGEST_URL = 2083
_ADDED = 70  # bytes of times, deadline, view and User-Agent header, which the service adds
_HEAVY = 3_500_000  # bytes; clients take 4 MiB by default
_MOST_HEADERS = 80 * 1024
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = re.compile(
    r"(host|content-length|transfer-encoding|user-agent)$|x-(google|appengine|cloudtasks)-",
    re.IGNORECASE,
)
_LAST_SECOND = 253_402_300_799  # of the year 9999: the end of a Timestamp's range

# gRPC's code and name for what an attempt was answered, as in the API's `response_status`.
_RPC_CODES = {
    400: (3, "INVALID_ARGUMENT"),
    401: (16, "UNAUTHENTICATED"),
    403: (7, "PERMISSION_DENIED"),
    404: (5, "NOT_FOUND"),
    409: (10, "ABORTED"),
    429: (8, "RESOURCE_EXHAUSTED"),
    500: (13, "INTERNAL"),
    501: (12, "UNIMPLEMENTED"),
    503: (14, "UNAVAILABLE"),
    504: (4, "DEADLINE_EXCEEDED"),
}
_UNKNOWN_CODE = (2, "UNKNOWN")


# Names


def queue_name(text: str) -> str:
    """`text`, if it is the name of a queue."""
    try:
        return str(QueueName.parse(text))
    except InvalidNameError:
        raise invalid_queue_name() from None


def location_name(text: str) -> str:
    """`text`, if it is the name of a location."""
    match text.split("/"):
        case ["projects", project, "locations", location] if project and location:
            return text
    raise invalid(
        'Location name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>".'
    )


# Queues


def read_queue(message: Message, *, zero_doublings: bool = False) -> QueueConfig:
    """The configuration that a queue message asks for.

    Args:
        zero_doublings: whether a `max_doublings` of 0 is meant, and not just left out.
    """
    limits, retries = message.rate_limits, message.retry_config
    rate = limits.max_dispatches_per_second
    if not math.isfinite(rate):
        raise invalid("RateLimits.maxDispatchesPerSecond must be a finite number.")
    if rate < 0:
        raise invalid("RateLimits.maxDispatchesPerSecond cannot be negative.")
    if rate > _HIGHEST_RATE:
        raise invalid("RateLimits.maxDispatchesPerSecond must be less than or equal to 500.")
    concurrent = limits.max_concurrent_dispatches
    if concurrent < 0:
        raise invalid("RateLimits.maxConcurrentDispatches cannot be negative.")
    if concurrent > _MOST_CONCURRENT:
        raise invalid("RateLimits.maxConcurrentDispatches must be less than or equal to 5000.")
    return QueueConfig(
        limits=RateLimits(
            rate=rate or RateLimits().rate, concurrent=concurrent or RateLimits().concurrent
        ),
        retries=read_retries(retries, zero_doublings=zero_doublings),
    )


def read_retries(message: Message, *, zero_doublings: bool = False) -> RetryPolicy:
    """The policy that a retry config asks for; `zero_doublings` as in `read_queue`."""
    default = RetryPolicy()
    if message.max_attempts < -1:
        raise invalid("RetryConfig.maxAttempts must be greater or equal to -1.")
    if message.max_doublings < 0:
        raise invalid("RetryConfig.maxDoublings cannot be negative.")
    backoffs = {}
    for name, label in (("min_backoff", "minBackoff"), ("max_backoff", "maxBackoff")):
        given = message.HasField(name)
        backoffs[name] = _seconds(getattr(message, name)) if given else getattr(default, name)
        if backoffs[name] < 0:
            raise invalid(f"RetryConfig.{label} cannot be negative.")
    if backoffs["min_backoff"] > backoffs["max_backoff"]:
        raise invalid(
            "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff."
        )
    if _seconds(message.max_retry_duration) < 0:
        raise invalid("RetryConfig.maxRetryDuration cannot be negative.")
    return RetryPolicy(
        max_attempts=message.max_attempts or default.max_attempts,
        max_retry_duration=_seconds(message.max_retry_duration),
        max_doublings=(
            message.max_doublings
            if message.max_doublings or zero_doublings
            else default.max_doublings
        ),
        **backoffs,
    )


def write_queue(queue: Queue) -> Message:
    """A queue as the API shows it."""
    limits, retries = queue.config.limits, queue.config.retries
    message = QueueMessage(
        name=queue.name,
        rate_limits={
            "max_dispatches_per_second": limits.rate,
            "max_burst_size": limits.burst,
            "max_concurrent_dispatches": limits.concurrent,
        },
        retry_config={
            "max_attempts": retries.max_attempts,
            "max_doublings": retries.max_doublings,
            "min_backoff": _duration(retries.min_backoff),
            "max_backoff": _duration(retries.max_backoff),
        },
        state=queue.state.name,
    )
    if retries.max_retry_duration:
        message.retry_config.max_retry_duration.CopyFrom(_duration(retries.max_retry_duration))
    if queue.purge_time is not None:
        message.purge_time.CopyFrom(timestamp(queue.purge_time))
    return message


# Tasks


def read_task_id(task: Message, parent: str) -> str | None:
    """The id in a task to create; None if the service shall choose one."""
    if not task.name:
        return None
    full_name: str = task.name
    name, separator, task_id = full_name.partition("/tasks/")
    if not separator or not is_task_id(task_id):
        raise invalid_task_id(task_id)
    if name != parent:
        raise invalid(
            f"The queue name from request ('{parent}') must be the same as the queue name in "
            f"the named task ('{name}')."
        )
    return task_id


def check_task(task: Message) -> None:
    """Refuse a task that is larger than the service stores, or asks for what is not there yet."""
    # Older versions of the client do not know the field.
    if any(field.name == "retry_config" for field, _ in task.ListFields()):
        raise ApiError(Status.UNIMPLEMENTED, "This emulator has no retry_config of tasks yet.")
    if task.ByteSize() > MAX_STORED_SIZE - _ADDED:
        raise invalid(f"Task size too large: at most {MAX_STORED_SIZE} bytes are stored.")


def read_target(task: Message) -> HttpTarget:
    """The request that a task to create shall make."""
    if task.HasField("app_engine_http_request"):
        raise ApiError(Status.UNIMPLEMENTED, "This emulator has no App Engine targets yet.")
    http = task.http_request
    if not http.url:
        raise invalid("HttpRequest.url is required.")
    if not http.url.startswith(("http://", "https://")):
        raise invalid("HttpTarget.url must start with 'http://' or 'https://'.")
    if len(http.url) > _LONGEST_URL:
        raise invalid(f"HttpRequest.url must be at most {_LONGEST_URL} characters.")
    method = _METHODS.get(http.http_method, "POST")
    if http.body and method not in _BODY_METHODS:
        raise invalid("HTTP method must be POST, PUT or PATCH when HttpRequest.body is set.")
    if http.HasField("oauth_token"):
        raise ApiError(Status.UNIMPLEMENTED, "This emulator has no OAuth tokens yet.")
    token = None
    if http.HasField("oidc_token"):
        token = Token(
            email=http.oidc_token.service_account_email,
            # The service puts the task's URL where no audience is given.
            audience=http.oidc_token.audience or http.url,
        )
    return HttpTarget(
        url=http.url, method=method, headers=_headers(http), body=http.body, token=token
    )


def _headers(http: Message) -> dict[str, str]:
    """The headers of a task without those that are the service's to set, as its reference says."""
    headers = dict(http.headers)
    if sum(len(name) + len(value) for name, value in headers.items()) > _MOST_HEADERS:
        raise invalid("HttpRequest.headers must be at most 80 KB.")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or any(c in "\r\n\0" for c in value):
            raise invalid(f"HttpRequest.headers has an invalid header: {name[:100]!r}.")
    return {name: value for name, value in headers.items() if not _OWN_HEADERS.match(name)}


def read_deadline(task: Message) -> int:
    """The dispatch deadline of a task to create, in nanoseconds."""
    if not task.HasField("dispatch_deadline"):
        return _DEFAULT_DEADLINE
    deadline = task.dispatch_deadline.seconds * SECOND + task.dispatch_deadline.nanos
    if not _SHORTEST_DEADLINE <= deadline <= _LONGEST_DEADLINE:
        raise invalid("Task.dispatchDeadline must be between [15s, 30m].")
    return int(deadline)


def read_schedule_time(task: Message, now: int) -> int | None:
    """The schedule time of a task to create; None for at once."""
    if not task.HasField("schedule_time"):
        return None
    if not 0 <= task.schedule_time.seconds <= _LAST_SECOND:
        raise invalid("Task.scheduleTime is out of range.")
    moment = task.schedule_time.seconds * SECOND + task.schedule_time.nanos
    if moment > now + _HORIZON:
        raise invalid(
            f"The Task.scheduleTime, {_pacific(task.schedule_time)}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        )
    return int(moment)


def write_task(task: Task, view: int) -> Message:
    """A task as the API shows it; the body only in the FULL view."""
    target = task.target
    message = TaskMessage(
        name=task.name,
        http_request={
            "url": target.url,
            "http_method": _METHOD_NUMBERS[target.method],
            "headers": {"User-Agent": "Google-Cloud-Tasks", **target.headers},
        },
        schedule_time=timestamp(task.schedule_time),
        # Production shows it in whole seconds.
        create_time=Timestamp(seconds=task.create_time // SECOND),
        dispatch_deadline=Duration(seconds=task.deadline // SECOND, nanos=task.deadline % SECOND),
        dispatch_count=task.dispatch_count,
        response_count=task.response_count,
        view=FULL if view == FULL else BASIC,
    )
    if target.token:
        message.http_request.oidc_token.service_account_email = target.token.email
        message.http_request.oidc_token.audience = target.token.audience
    if view == FULL:
        message.http_request.body = target.body
    if task.first_attempt:
        # Of the first attempt the API shows the dispatch time only.
        message.first_attempt.dispatch_time.CopyFrom(timestamp(task.first_attempt.dispatch_time))
    if task.last_attempt:
        message.last_attempt.CopyFrom(_write_attempt(task.last_attempt))
    return message


def _write_attempt(record: AttemptRecord) -> Message:
    message = _AttemptMessage(
        schedule_time=timestamp(record.schedule_time),
        dispatch_time=timestamp(record.dispatch_time),
    )
    if record.response_time is not None:
        message.response_time.CopyFrom(timestamp(record.response_time))
    if record.status is not None:
        code, name = _RPC_CODES.get(record.status, _UNKNOWN_CODE)
        message.response_status.code = code
        message.response_status.message = f"{name}({code}): HTTP status code {record.status}"
    return message


# Pages


class PageToken:
    """Where a page ends: the key of its last item, so that nothing is skipped if others go."""

    @staticmethod
    def write(key: tuple[int | str, ...]) -> str:
        """The token that stands for everything behind `key`."""
        return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()

    @staticmethod
    def read(token: str) -> tuple[int | str, ...]:
        """The key in a token; less than any other for none."""
        if not token:
            return ()
        try:
            key = json.loads(base64.urlsafe_b64decode(token))
        except ValueError:
            key = None
        if not isinstance(key, list) or not all(isinstance(part, int | str) for part in key):
            raise invalid("The page token is invalid.")
        return tuple(key)


def page[T](
    items: Iterable[T],
    key: Callable[[T], tuple[int | str, ...]],
    *,
    size: int,
    token: str,
    largest: int,
    weight: Callable[[T], int] = lambda _: 0,
) -> tuple[list[T], str]:
    """One page of a list that is sorted by `key`, and the token of the next, empty at the end.

    Args:
        size: how many items were asked for; 0 for as many as there may be, `largest`.
        weight: bytes of an item. A page ends before its answer outgrows what clients receive.
    """
    if size < 0:
        raise invalid("The page size cannot be negative.")
    after = PageToken.read(token)
    shown: list[T] = []
    total = 0
    try:
        for item in items:
            if key(item) <= after:
                continue
            total += weight(item)
            if len(shown) == min(size or largest, largest) or (shown and total > _HEAVY):
                return shown, PageToken.write(key(shown[-1]))
            shown.append(item)
    except TypeError:
        raise invalid("The page token is invalid.") from None
    return shown, ""


# Times


def timestamp(moment: int) -> Timestamp:
    """Nanoseconds since the epoch as a message."""
    return Timestamp(seconds=moment // SECOND, nanos=moment % SECOND)


def _duration(seconds: float) -> Duration:
    nanos = round(seconds * SECOND)
    return Duration(seconds=nanos // SECOND, nanos=nanos % SECOND)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / SECOND


def _pacific(moment: Timestamp) -> str:
    """In the zone that the service itself shows times in, without daylight saving."""
    from datetime import UTC, datetime, timedelta, timezone

    pacific = timezone(timedelta(hours=-8))
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment.seconds))
        .astimezone(pacific)
        .isoformat()
    )

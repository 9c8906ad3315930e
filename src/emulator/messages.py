"""Between the API's protocol buffers and the values of `state`, with the API's validation."""

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from sys import intern
from typing import Any

import attrs
from google.cloud.tasks_v2 import types
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ..core.errors import InvalidNameError
from ..core.names import QueueName, is_task_id
from ..core.requests import MAX_STORED_SIZE
from ..core.retries import RetryPolicy
from .errors import invalid, invalid_queue_name, invalid_task_id
from .limits import SECOND
from .state import AttemptRecord, Queue, QueueConfig, RateLimits, Task
from .targets import (
    APP_ENGINE_USER_AGENT,
    HTTP_USER_AGENT,
    AppEngineRouting,
    AppEngineTarget,
    HttpTarget,
    OAuthToken,
    OidcToken,
    Target,
    TargetOverride,
    Token,
    UriOverride,
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
_SCHEMES = {1: "http", 2: "https"}
_SCHEME_NUMBERS = {name: number for number, name in _SCHEMES.items()}
_IF_NOT_EXISTS, _ALWAYS = 1, 2
_HIGHEST_PORT = 65535
# Older versions of google-cloud-tasks do not know these fields.
_QUEUE_TARGETS = "http_target" in QueueMessage.DESCRIPTOR.fields_by_name
_TASK_RETRIES = "retry_config" in TaskMessage.DESCRIPTOR.fields_by_name
_METHOD_NUMBERS = {name: number for number, name in _METHODS.items()}
_BODY_METHODS = {"POST", "PUT", "PATCH"}

_HORIZON = 720 * 3600 * SECOND
_DEFAULT_DEADLINE = 600 * SECOND
_SHORTEST_DEADLINE, _LONGEST_DEADLINE = 15 * SECOND, 1800 * SECOND
_LONGEST_APP_ENGINE_DEADLINE = (24 * 3600 + 15) * SECOND
_HIGHEST_RATE, _MOST_CONCURRENT = 500, 5000
_LONGEST_URL = 2083
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
        override=(
            _read_override(message.http_target)
            if _QUEUE_TARGETS and message.HasField("http_target")
            else None
        ),
        routing=(
            _read_routing(message.app_engine_routing_override)
            if message.HasField("app_engine_routing_override")
            else None
        ),
        logged_share=(
            message.stackdriver_logging_config.sampling_ratio
            if message.HasField("stackdriver_logging_config")
            else None
        ),
    )


def _read_override(message: Message) -> TargetOverride:
    uri = None
    if message.HasField("uri_override"):
        wanted = message.uri_override
        if wanted.HasField("host") and not wanted.host:
            raise invalid("HttpTarget.uriOverride.host cannot be empty.")
        if wanted.HasField("port") and not 0 <= wanted.port <= _HIGHEST_PORT:
            raise invalid("HttpTarget.uriOverride.port must be a port.")
        uri = UriOverride(
            scheme=_SCHEMES.get(wanted.scheme) if wanted.HasField("scheme") else None,
            host=wanted.host if wanted.HasField("host") else None,
            port=wanted.port if wanted.HasField("port") else None,
            path=wanted.path_override.path if wanted.HasField("path_override") else None,
            query=wanted.query_override.query_params if wanted.HasField("query_override") else None,
            always=wanted.uri_override_enforce_mode != _IF_NOT_EXISTS,
        )
    headers = tuple((h.header.key, h.header.value) for h in message.header_overrides)
    _check_headers(dict(headers))
    return TargetOverride(
        uri=uri,
        method=_METHODS.get(message.http_method),
        headers=tuple((k, v) for k, v in headers if not _OWN_HEADERS.match(k)),
        token=_read_token(message),
    )


def _write_override(override: TargetOverride, message: Message) -> None:
    if override.uri:
        uri, wanted = message.uri_override, override.uri
        if wanted.scheme is not None:
            uri.scheme = _SCHEME_NUMBERS[wanted.scheme]
        if wanted.host is not None:
            uri.host = wanted.host
        if wanted.port is not None:
            uri.port = wanted.port
        if wanted.path is not None:
            uri.path_override.path = wanted.path
            uri.path_override.SetInParent()
        if wanted.query is not None:
            uri.query_override.query_params = wanted.query
            uri.query_override.SetInParent()
        uri.uri_override_enforce_mode = _ALWAYS if wanted.always else _IF_NOT_EXISTS
    if override.method:
        message.http_method = _METHOD_NUMBERS[override.method]
    for key, value in override.headers:
        message.header_overrides.add(header={"key": key, "value": value})
    _write_token(override.token, message)
    message.SetInParent()


def _read_routing(message: Message) -> AppEngineRouting:
    return AppEngineRouting(
        service=message.service, version=message.version, instance=message.instance
    )


def _write_routing(routing: AppEngineRouting, project: str, message: Message) -> None:
    message.service, message.version = routing.service, routing.version
    message.instance = routing.instance
    parts = (routing.instance, routing.version, routing.service, project)
    message.host = ".".join(part for part in parts if part) + ".appspot.com"


def _read_token(message: Message) -> Token | None:
    if message.HasField("oidc_token"):
        oidc = message.oidc_token
        return OidcToken(email=oidc.service_account_email, audience=oidc.audience)
    if message.HasField("oauth_token"):
        oauth = message.oauth_token
        return OAuthToken(
            email=oauth.service_account_email,
            scope=oauth.scope or "https://www.googleapis.com/auth/cloud-platform",
        )
    return None


def _write_token(token: Token | None, message: Message) -> None:
    match token:
        case OidcToken(email=email, audience=audience):
            message.oidc_token.service_account_email = email
            message.oidc_token.audience = audience
        case OAuthToken(email=email, scope=scope):
            message.oauth_token.service_account_email = email
            message.oauth_token.scope = scope


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
    config = queue.config
    limits = config.limits
    message = QueueMessage(
        name=queue.name,
        rate_limits={
            "max_dispatches_per_second": limits.rate,
            "max_burst_size": limits.burst,
            "max_concurrent_dispatches": limits.concurrent,
        },
        retry_config=_write_retries(config.retries),
        state=queue.state.name,
    )
    if queue.purge_time is not None:
        message.purge_time.CopyFrom(timestamp(queue.purge_time))
    if config.logged_share is not None:
        message.stackdriver_logging_config.sampling_ratio = config.logged_share
    if config.override:
        _write_override(config.override, message.http_target)
    if config.routing:
        project = queue.name.split("/")[1]
        _write_routing(config.routing, project, message.app_engine_routing_override)
    return message


def _write_retries(policy: RetryPolicy) -> dict[str, Any]:
    written = {
        "max_attempts": policy.max_attempts,
        "max_doublings": policy.max_doublings,
        "min_backoff": _duration(policy.min_backoff),
        "max_backoff": _duration(policy.max_backoff),
    }
    if policy.max_retry_duration:
        written["max_retry_duration"] = _duration(policy.max_retry_duration)
    return written


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


def check_size(task: Message) -> None:
    """Refuse a task that is larger than the service stores. `task` is the stored form."""
    if task.ByteSize() > MAX_STORED_SIZE:
        raise invalid(f"Task size too large: at most {MAX_STORED_SIZE} bytes are stored.")


def read_task_retries(task: Message) -> RetryPolicy | None:
    """The task's own retry policy, which counts instead of its queue's."""
    if _TASK_RETRIES and task.HasField("retry_config"):
        return read_retries(task.retry_config)
    return None


def read_target(task: Message, *, url_needed: bool = True) -> Target:
    """What a task to create shall call.

    Args:
        url_needed: whether it must bring a URL, for its queue has none.
    """
    if task.HasField("app_engine_http_request"):
        return _read_app_engine(task.app_engine_http_request)
    http = task.http_request
    if not http.url and url_needed:
        raise invalid("HttpRequest.url is required.")
    if http.url and not http.url.startswith(("http://", "https://")):
        raise invalid("HttpTarget.url must start with 'http://' or 'https://'.")
    if len(http.url) > _LONGEST_URL:
        raise invalid(f"HttpRequest.url must be at most {_LONGEST_URL} characters.")
    method = _METHODS.get(http.http_method, "POST")
    if http.body and method not in _BODY_METHODS:
        raise invalid("HTTP method must be POST, PUT or PATCH when HttpRequest.body is set.")
    token = _read_token(http)
    if isinstance(token, OidcToken) and not token.audience:
        token = attrs.evolve(token, audience=http.url)
    # Most tasks of a queue call one URL: it is kept once.
    url = intern(http.url)
    return HttpTarget(url=url, method=method, headers=_headers(http), body=http.body, token=token)


def _read_app_engine(request: Message) -> AppEngineTarget:
    method = _METHODS.get(request.http_method, "POST")
    if request.body and method not in {"POST", "PUT"}:
        raise invalid("HTTP method must be POST or PUT when AppEngineHttpRequest.body is set.")
    if request.relative_uri and not request.relative_uri.startswith("/"):
        raise invalid("AppEngineHttpRequest.relativeUri must start with '/'.")
    headers = {"User-Agent": APP_ENGINE_USER_AGENT}
    if request.body:
        headers["Content-Length"] = str(len(request.body))
    headers |= dict(_headers(request))
    if request.body and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/octet-stream"
    return AppEngineTarget(
        relative_uri=request.relative_uri or "/",
        method=method,
        headers=headers,
        body=request.body,
        routing=_read_routing(request.app_engine_routing),
    )


def _headers(request: Message) -> Mapping[str, str]:
    """The headers of a task without those that are the service's to set, as its reference says."""
    headers = dict(request.headers)
    _check_headers(headers)
    kept = [(k, v) for k, v in headers.items() if not _OWN_HEADERS.match(k)]
    return _shared(tuple(kept))


@lru_cache(maxsize=1000)
def _shared(headers: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Headers as a mapping that all tasks with the same ones share; nobody changes it."""
    return dict(headers)


def _check_headers(headers: dict[str, str]) -> None:
    if sum(len(name) + len(value) for name, value in headers.items()) > _MOST_HEADERS:
        raise invalid("HttpRequest.headers must be at most 80 KB.")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or any(c in "\r\n\0" for c in value):
            raise invalid(f"HttpRequest.headers has an invalid header: {name[:100]!r}.")


def read_deadline(task: Message) -> int:
    """The dispatch deadline of a task to create, in nanoseconds."""
    if not task.HasField("dispatch_deadline"):
        return _DEFAULT_DEADLINE
    deadline = task.dispatch_deadline.seconds * SECOND + task.dispatch_deadline.nanos
    longest, shown = _LONGEST_DEADLINE, "30m"
    if task.HasField("app_engine_http_request"):
        longest, shown = _LONGEST_APP_ENGINE_DEADLINE, "24h15s"
    if not _SHORTEST_DEADLINE <= deadline <= longest:
        raise invalid(f"Task.dispatchDeadline must be between [15s, {shown}].")
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
    message = TaskMessage(
        name=task.name,
        schedule_time=timestamp(task.schedule_time),
        # Production shows it in whole seconds.
        create_time=Timestamp(seconds=task.create_time // SECOND),
        dispatch_deadline=Duration(seconds=task.deadline // SECOND, nanos=task.deadline % SECOND),
        dispatch_count=task.dispatch_count,
        response_count=task.response_count,
        view=FULL if view == FULL else BASIC,
    )
    target = task.target
    if isinstance(target, AppEngineTarget):
        request = message.app_engine_http_request
        request.relative_uri = target.relative_uri
        request.headers.update(target.headers)
        _write_routing(target.routing, task.name.split("/")[1], request.app_engine_routing)
    else:
        request = message.http_request
        request.url = target.url
        request.headers["User-Agent"] = HTTP_USER_AGENT
        request.headers.update(target.headers)
        _write_token(target.token, request)
    request.http_method = _METHOD_NUMBERS[target.method]
    if view == FULL:
        request.body = target.body
    if task.retries:
        for name, value in _write_retries(task.retries).items():
            if isinstance(value, Duration):
                getattr(message.retry_config, name).CopyFrom(value)
            else:
                setattr(message.retry_config, name, value)
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

"""Converts tasks from messages to objects and back, with the validation of the API."""

from sys import intern

import attrs
from google.cloud.tasks_v2 import types
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ...core.names import is_task_id
from ...core.requests import MAX_STORED_SIZE
from ..errors import invalid, invalid_task_id
from ..state.limits import SECOND
from ..state.model import AttemptRecord, Task
from ..state.retries import RetryPolicy
from ..state.targets import (
    APP_ENGINE_USER_AGENT,
    HTTP_USER_AGENT,
    AppEngineTarget,
    HttpTarget,
    OidcToken,
    Target,
)
from .queues import read_retries, write_retries
from .targets import (
    read_headers,
    read_routing,
    read_token,
    write_routing,
    write_token,
)
from .wire import (
    BASIC,
    BODY_METHODS,
    FULL,
    LONGEST_URL,
    METHOD_NUMBERS,
    METHODS,
    Message,
    TaskMessage,
    pacific,
    rpc_status,
    timestamp,
)

_AttemptMessage = types.Attempt.pb()

# Older versions of google-cloud-tasks do not have this field.
_TASK_RETRIES = "retry_config" in TaskMessage.DESCRIPTOR.fields_by_name
_HORIZON = 720 * 3600 * SECOND
_DEFAULT_DEADLINE = 600 * SECOND
_SHORTEST_DEADLINE, _LONGEST_DEADLINE = 15 * SECOND, 1800 * SECOND
_LONGEST_APP_ENGINE_DEADLINE = (24 * 3600 + 15) * SECOND
_LAST_SECOND = 253_402_300_799  # the end of the year 9999, which is the end of Timestamp's range


def read_task_id(task: Message, parent: str) -> str | None:
    """Return the id of a task to create; None if the service chooses the id.

    Args:
        task: the task message of the request.
        parent: the full name of the queue.

    Raises:
        ApiError: INVALID_ARGUMENT, the name is invalid or belongs to another queue.
    """
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
    """Check the size of a task in its stored form.

    Raises:
        ApiError: INVALID_ARGUMENT, the task is larger than the service accepts.
    """
    if task.ByteSize() > MAX_STORED_SIZE:
        raise invalid(f"Task size too large: at most {MAX_STORED_SIZE} bytes are stored.")


def read_task_retries(task: Message) -> RetryPolicy | None:
    """Return the task's own retry policy; None if the policy of its queue applies."""
    if _TASK_RETRIES and task.HasField("retry_config"):
        return read_retries(task.retry_config)
    return None


def read_target(task: Message, *, url_needed: bool = True) -> Target:
    """Return the target of a task to create.

    Args:
        task: the task message of the request.
        url_needed: whether the task must have a URL. False if its queue overrides the host.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    if task.HasField("app_engine_http_request"):
        return _read_app_engine(task.app_engine_http_request)
    http = task.http_request
    if not http.url and url_needed:
        raise invalid("HttpRequest.url is required.")
    if http.url and not http.url.startswith(("http://", "https://")):
        raise invalid("HttpTarget.url must start with 'http://' or 'https://'.")
    if len(http.url) > LONGEST_URL:
        raise invalid(f"HttpRequest.url must be at most {LONGEST_URL} characters.")
    method = METHODS.get(http.http_method, "POST")
    if http.body and method not in BODY_METHODS:
        raise invalid("HTTP method must be POST, PUT or PATCH when HttpRequest.body is set.")
    token = read_token(http)
    if isinstance(token, OidcToken) and not token.audience:
        token = attrs.evolve(token, audience=http.url)
    # Most tasks of a queue have the same URL. Interning keeps one copy of the text in memory.
    url = intern(http.url)
    return HttpTarget(
        url=url, method=method, headers=read_headers(http), body=http.body, token=token
    )


def _read_app_engine(request: Message) -> AppEngineTarget:
    method = METHODS.get(request.http_method, "POST")
    if request.body and method not in {"POST", "PUT"}:
        raise invalid("HTTP method must be POST or PUT when AppEngineHttpRequest.body is set.")
    if request.relative_uri and not request.relative_uri.startswith("/"):
        raise invalid("AppEngineHttpRequest.relativeUri must start with '/'.")
    headers = {"User-Agent": APP_ENGINE_USER_AGENT}
    if request.body:
        headers["Content-Length"] = str(len(request.body))
    headers |= dict(read_headers(request))
    if request.body and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/octet-stream"
    return AppEngineTarget(
        relative_uri=request.relative_uri or "/",
        method=method,
        headers=headers,
        body=request.body,
        routing=read_routing(request.app_engine_routing),
    )


def read_deadline(task: Message) -> int:
    """Return the dispatch deadline of a task to create, in nanoseconds.

    Raises:
        ApiError: INVALID_ARGUMENT, the deadline is out of range.
    """
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
    """Return the schedule time of a task to create, in nanoseconds since the epoch; None for now.

    Raises:
        ApiError: INVALID_ARGUMENT, the time is out of range or too far in the future.
    """
    if not task.HasField("schedule_time"):
        return None
    if not 0 <= task.schedule_time.seconds <= _LAST_SECOND:
        raise invalid("Task.scheduleTime is out of range.")
    moment = task.schedule_time.seconds * SECOND + task.schedule_time.nanos
    if moment > now + _HORIZON:
        raise invalid(
            f"The Task.scheduleTime, {pacific(task.schedule_time)}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        )
    return int(moment)


def write_task(task: Task, view: int) -> Message:
    """Return the message for a task, as the API shows it. Only the FULL view contains the body."""
    message = TaskMessage(
        name=task.name,
        schedule_time=timestamp(task.schedule_time),
        # Production shows this time in whole seconds.
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
        write_routing(target.routing, task.name.split("/")[1], request.app_engine_routing)
    else:
        request = message.http_request
        request.url = target.url
        request.headers["User-Agent"] = HTTP_USER_AGENT
        request.headers.update(target.headers)
        write_token(target.token, request)
    request.http_method = METHOD_NUMBERS[target.method]
    if view == FULL:
        request.body = target.body
    if task.retries:
        for name, value in write_retries(task.retries).items():
            if isinstance(value, Duration):
                getattr(message.retry_config, name).CopyFrom(value)
            else:
                setattr(message.retry_config, name, value)
    if task.first_attempt:
        # The API shows only the dispatch time of the first attempt.
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
        code, text = rpc_status(record.status)
        message.response_status.code, message.response_status.message = code, text
    return message

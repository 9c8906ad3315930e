"""Converts jobs from messages to objects and back, with the validation of the API."""

import re

from google.cloud.scheduler_v1 import types
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from ...core.names import is_location_id, is_project_id
from ..errors import ApiError, Status, invalid, invalid_job_name
from ..state.jobs import DEFAULT_DEADLINE, DEFAULT_RETRIES, Job, JobConfig
from ..state.limits import SECOND
from ..state.retries import RetryPolicy
from ..state.schedules import Schedule, ScheduleError
from ..state.targets import SCHEDULER_USER_AGENT, HttpTarget
from .targets import read_headers, read_token, write_token
from .wire import (
    BODY_METHODS,
    LONGEST_URL,
    METHOD_NUMBERS,
    METHODS,
    Message,
    duration,
    rpc_status,
    seconds,
    timestamp,
)

JobMessage = types.Job.pb()

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
_LARGEST_JOB = 1024 * 1024  # bytes
_LONGEST_DESCRIPTION = 500
_MOST_RETRIES = 5
_SHORTEST_DEADLINE, _LONGEST_DEADLINE = 15 * SECOND, 1800 * SECOND
_ENGLISH = re.compile(r"\b(every|of|from|to|synchronized)\b", re.IGNORECASE)
_OWN_HEADER = re.compile(r"x-cloudscheduler(-|$)", re.IGNORECASE)
_TOKENS = ("oidc_token", "oauth_token")


def job_name(text: str) -> str:
    """Check that `text` is the full name of a job, and return it.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    match text.split("/"):
        case ["projects", project, "locations", location, "jobs", job_id] if (
            is_project_id(project) and is_location_id(location) and _JOB_ID.fullmatch(job_id)
        ):
            return text
    raise invalid_job_name()


def read_job_id(job: Message, parent: str) -> str | None:
    """Return the id of a job to create; None if the service chooses the id.

    Args:
        job: the job message of the request.
        parent: the full name of the location.

    Raises:
        ApiError: INVALID_ARGUMENT, the name is invalid or belongs to another location.
    """
    if not job.name:
        return None
    name = job_name(job.name)
    if not name.startswith(f"{parent}/jobs/"):
        raise invalid(f"The job name must start with the parent, '{parent}'.")
    return name.rpartition("/")[2]


def read_job(message: Message) -> JobConfig:
    """Return the configuration in a job message.

    Raises:
        ApiError: INVALID_ARGUMENT. UNIMPLEMENTED, the emulator does not have this kind of target or
            schedule.
    """
    if len(message.description) > _LONGEST_DESCRIPTION:
        raise invalid(f"Job.description must be at most {_LONGEST_DESCRIPTION} characters long.")
    return JobConfig(
        target=_read_target(message),
        schedule=_read_schedule(message),
        description=message.description,
        retries=_read_retries(message.retry_config),
        deadline=_read_deadline(message),
    )


def check_size(message: Message) -> None:
    """Check the size of a job in its stored form.

    Raises:
        ApiError: INVALID_ARGUMENT, the job is larger than the service accepts.
    """
    if message.ByteSize() > _LARGEST_JOB:
        raise invalid(f"Job size too large: at most {_LARGEST_JOB} bytes are stored.")


def merge_job(mask: FieldMask, wanted: Message, stored: Message) -> None:
    """Copy the fields that a mask names from one job message to another.

    A token without a service account is removed, because `gcloud` removes a token in this way.

    Args:
        mask: the update mask of the request.
        wanted: the job message of the request.
        stored: the message of the stored job. It is changed.

    Raises:
        ApiError: INVALID_ARGUMENT, the mask is invalid.
    """
    if not mask.IsValidForDescriptor(wanted.DESCRIPTOR):
        raise invalid(f"The update mask is invalid: {', '.join(mask.paths)}.")
    for path in mask.paths:
        *parents, last = path.split(".")
        source, destination = wanted, stored
        for parent in parents:
            source, destination = getattr(source, parent), getattr(destination, parent)
        FieldMask(paths=[last]).MergeMessage(
            source, destination, replace_message_field=True, replace_repeated_field=True
        )
    for name in _TOKENS:
        if (
            stored.HasField("http_target")
            and stored.http_target.HasField(name)
            and not getattr(stored.http_target, name).service_account_email
        ):
            stored.http_target.ClearField(name)


def write_job(job: Job) -> Message:
    """Return the message for a job, as the API shows it."""
    config, retries = job.config, job.config.retries
    message = JobMessage(
        name=job.name,
        description=config.description,
        schedule=config.schedule.expression,
        time_zone=config.schedule.zone,
        user_update_time=Timestamp(seconds=job.user_update_time // SECOND),
        state=job.state.name,
        attempt_deadline=duration(config.deadline / SECOND),
        retry_config={
            "retry_count": retries.max_attempts - 1,
            "max_retry_duration": duration(retries.max_retry_duration),
            "min_backoff_duration": duration(retries.min_backoff),
            "max_backoff_duration": duration(retries.max_backoff),
            "max_doublings": retries.max_doublings,
        },
    )
    target = message.http_target
    target.uri = config.target.url
    target.http_method = METHOD_NUMBERS[config.target.method]
    target.headers["User-Agent"] = SCHEDULER_USER_AGENT
    target.headers.update(config.target.headers)
    target.body = config.target.body
    write_token(config.target.token, target)
    if job.schedule_time is not None:
        message.schedule_time.CopyFrom(timestamp(job.schedule_time))
    if job.last_attempt_time is not None:
        # Production shows this time in microseconds.
        message.last_attempt_time.CopyFrom(timestamp(job.last_attempt_time // 1000 * 1000))
    if job.last_status is not None:
        message.status.SetInParent()
        if not 200 <= job.last_status < 300:  # noqa: PLR2004 - the statuses of success
            message.status.code, message.status.message = rpc_status(job.last_status)
    return message


def _read_target(message: Message) -> HttpTarget:
    kind = message.WhichOneof("target")
    if kind is None:
        raise invalid("Job.target is required: set httpTarget.")
    if kind != "http_target":
        raise ApiError(
            Status.UNIMPLEMENTED,
            f"The emulator has no jobs with {kind}. Only jobs with http_target are supported.",
        )
    http = message.http_target
    if not http.uri.startswith(("http://", "https://")):
        raise invalid("HttpTarget.uri is required, and must start with 'http://' or 'https://'.")
    if len(http.uri) > LONGEST_URL:
        raise invalid(f"HttpTarget.uri must be at most {LONGEST_URL} characters long.")
    method = METHODS.get(http.http_method, "POST")
    if http.body and method not in BODY_METHODS:
        raise invalid("HTTP method must be POST, PUT or PATCH when HttpTarget.body is set.")
    token = read_token(http)
    if token is not None and not token.email:
        raise invalid("The token of HttpTarget must have a serviceAccountEmail.")
    headers = {k: v for k, v in read_headers(http).items() if not _OWN_HEADER.match(k)}
    if http.body and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/octet-stream"
    return HttpTarget(url=http.uri, method=method, headers=headers, body=http.body, token=token)


def _read_schedule(message: Message) -> Schedule:
    if not message.schedule.strip():
        raise invalid("Job.schedule is required.")
    if _ENGLISH.search(message.schedule):
        raise ApiError(
            Status.UNIMPLEMENTED,
            f"The emulator does not read the schedule {message.schedule[:100]!r}. Write it in "
            "unix-cron format, for example '*/10 * * * *' for every 10 minutes.",
        )
    try:
        return Schedule.checked(message.schedule, message.time_zone or "UTC")
    except ScheduleError as error:
        raise invalid(
            f"The schedule {message.schedule[:100]!r} in the time zone "
            f"{message.time_zone[:100]!r} is invalid: {error}."
        ) from error


def _read_retries(message: Message) -> RetryPolicy:
    if not 0 <= message.retry_count <= _MOST_RETRIES:
        raise invalid(f"RetryConfig.retryCount must be between 0 and {_MOST_RETRIES}.")
    if message.max_doublings < 0:
        raise invalid("RetryConfig.maxDoublings cannot be negative.")
    shortest = _read_wait(message, "min_backoff_duration", DEFAULT_RETRIES.min_backoff)
    longest = _read_wait(message, "max_backoff_duration", DEFAULT_RETRIES.max_backoff)
    if shortest > longest:
        raise invalid(
            "RetryConfig.minBackoffDuration must be less than or equal to "
            "RetryConfig.maxBackoffDuration."
        )
    return RetryPolicy(
        max_attempts=message.retry_count + 1,
        max_retry_duration=_read_wait(message, "max_retry_duration", 0.0),
        min_backoff=shortest,
        max_backoff=longest,
        max_doublings=message.max_doublings or DEFAULT_RETRIES.max_doublings,
    )


def _read_wait(message: Message, name: str, default: float) -> float:
    """Return the seconds in a duration field; `default` if it is 0 or not set.

    Without a wait, a job that fails would be retried endlessly while the clock stands still.
    """
    wait = seconds(getattr(message, name))
    if wait < 0:
        field = message.DESCRIPTOR.fields_by_name[name].camelcase_name
        raise invalid(f"RetryConfig.{field} cannot be negative.")
    return wait or default


def _read_deadline(message: Message) -> int:
    if not message.HasField("attempt_deadline"):
        return DEFAULT_DEADLINE
    given: Duration = message.attempt_deadline
    deadline = given.seconds * SECOND + given.nanos
    if not _SHORTEST_DEADLINE <= deadline <= _LONGEST_DEADLINE:
        raise invalid("Job.attemptDeadline must be between [15s, 30m].")
    return deadline

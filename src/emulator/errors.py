"""The errors of the API. Their texts were recorded from production, except those about jobs."""

from enum import Enum

import attrs


class Status(Enum):
    """The canonical codes that the API uses. The values are the numbers of gRPC."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    PERMISSION_DENIED = 7

    @property
    def http(self) -> int:
        """The HTTP status that Google's APIs use for this code."""
        return _HTTP_STATUS[self]


_HTTP_STATUS = {
    Status.INVALID_ARGUMENT: 400,
    Status.FAILED_PRECONDITION: 400,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.INTERNAL: 500,
    Status.UNIMPLEMENTED: 501,
    Status.UNAVAILABLE: 503,
    Status.PERMISSION_DENIED: 403,
}


@attrs.frozen
class Help:
    """A link to the documentation, as part of an error."""

    description: str
    url: str


class ApiError(Exception):
    """The API refuses a request.

    Args:
        status: the canonical code.
        message: the text of the error.
        help: a link to the documentation, or None.
    """

    def __init__(self, status: Status, message: str, help: Help | None = None) -> None:  # noqa: A002 - google.rpc.Help
        self.status = status
        self.message = message
        self.help = help
        super().__init__(f"{status.name}: {message}")


_REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues"


def invalid(message: str) -> ApiError:
    """The error for an invalid argument."""
    return ApiError(Status.INVALID_ARGUMENT, message)


def invalid_queue_name() -> ApiError:
    """The error for a queue name with the wrong format."""
    return ApiError(
        Status.INVALID_ARGUMENT,
        "Queue name must be formatted: "
        '"projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".',
        Help("Definition of queue name", f"{_REFERENCE}#Queue.FIELDS.name"),
    )


def invalid_task_name() -> ApiError:
    """The error for a task name with the wrong format."""
    return invalid(
        "Task name must be formatted: "
        '"projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>/tasks/<TASK_ID>".'
    )


def invalid_task_id(task_id: str) -> ApiError:
    """The error for a task id with invalid characters or an invalid length.

    The message contains at most the first 501 characters of the id.
    """
    return ApiError(
        Status.INVALID_ARGUMENT,
        f'Task ID "{task_id[:501]}" can contain only letters ([A-Za-z]), numbers ([0-9]), '
        "hyphens (-), or underscores (_). Task ID must between 1 and 500 characters.",
        Help("Definition of task ID", f"{_REFERENCE}.tasks#Task.FIELDS.name"),
    )


def no_queue() -> ApiError:
    """The error for a queue that does not exist."""
    return ApiError(
        Status.NOT_FOUND,
        "Queue does not exist. If you just created the queue, wait at least a minute for the "
        "queue to initialize.",
    )


def not_found() -> ApiError:
    """The error for a name under which nothing exists."""
    return ApiError(Status.NOT_FOUND, "Requested entity was not found.")


def task_gone() -> ApiError:
    """The error for a removed task whose name is still reserved."""
    return ApiError(
        Status.NOT_FOUND,
        "The task no longer exists, though a task with this name existed recently. The task "
        "either successfully completed or was deleted.",
    )


def invalid_job_name() -> ApiError:
    """The error for a job name with the wrong format."""
    return invalid(
        "Job name must be formatted: "
        '"projects/<PROJECT_ID>/locations/<LOCATION_ID>/jobs/<JOB_ID>". The job ID can contain '
        "only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or underscores (_), and at most "
        "500 characters."
    )


def no_job() -> ApiError:
    """The error for a job that does not exist."""
    return ApiError(Status.NOT_FOUND, "Job not found.")


def job_exists(name: str) -> ApiError:
    """The error for a job whose name is taken."""
    return ApiError(Status.ALREADY_EXISTS, f"Job {name} already exists.")


def unavailable(message: str) -> ApiError:
    """The error for a request that the emulator cannot process now. The client may retry."""
    return ApiError(Status.UNAVAILABLE, message)

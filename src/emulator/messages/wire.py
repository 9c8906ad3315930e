"""Shared by all conversions: message classes, names of resources, HTTP methods and times."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from google.cloud.tasks_v2 import types
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ...core.errors import InvalidNameError
from ...core.names import QueueName
from ..errors import invalid, invalid_queue_name
from ..state.limits import SECOND

# google-cloud-tasks publishes no types for its messages.
type Message = Any

TaskMessage = types.Task.pb()
QueueMessage = types.Queue.pb()

FULL = int(types.Task.View.FULL)
BASIC = int(types.Task.View.BASIC)

METHODS = {
    int(getattr(types.HttpMethod, name)): name
    for name in ("POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")
}
METHOD_NUMBERS = {name: number for number, name in METHODS.items()}
BODY_METHODS = {"POST", "PUT", "PATCH"}
LONGEST_URL = 2083

# By the HTTP status of an attempt: the gRPC code and name that the API shows.
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


def queue_name(text: str) -> str:
    """Check that `text` is the full name of a queue, and return it.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    try:
        return str(QueueName.parse(text))
    except InvalidNameError:
        raise invalid_queue_name() from None


def location_name(text: str) -> str:
    """Check that `text` is the full name of a location, and return it.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    match text.split("/"):
        case ["projects", project, "locations", location] if project and location:
            return text
    raise invalid(
        'Location name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>".'
    )


def timestamp(moment: int) -> Timestamp:
    """Convert nanoseconds since the epoch to a message."""
    return Timestamp(seconds=moment // SECOND, nanos=moment % SECOND)


def duration(seconds: float) -> Duration:
    nanos = round(seconds * SECOND)
    return Duration(seconds=nanos // SECOND, nanos=nanos % SECOND)


def seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / SECOND


def rpc_status(http_status: int) -> tuple[int, str]:
    """Return the gRPC code and the text with which the API shows the HTTP status of an attempt."""
    code, name = _RPC_CODES.get(http_status, _UNKNOWN_CODE)
    return code, f"{name}({code}): HTTP status code {http_status}"


def pacific(moment: Timestamp) -> str:
    """Return a time in ISO format, in the time zone that the service uses in error messages.

    This time zone is UTC-8 without daylight saving time.
    """
    pacific = timezone(timedelta(hours=-8))
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment.seconds))
        .astimezone(pacific)
        .isoformat()
    )

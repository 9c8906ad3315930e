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

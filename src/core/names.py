"""Resource names: parse, validate and format them.

The alphabets are those of the API reference: a task id is `[A-Za-z0-9_-]{1,500}`, a queue id
`[A-Za-z0-9-]{1,100}`; projects may carry a domain (`example.com:app`).
"""

import re
from functools import lru_cache
from typing import Self

import attrs

from .errors import InvalidNameError

_PROJECT = re.compile(r"[A-Za-z0-9:.-]{1,100}")
_LOCATION = re.compile(r"[A-Za-z0-9-]{1,100}")
_QUEUE_ID = re.compile(r"[A-Za-z0-9-]{1,100}")
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


@lru_cache(maxsize=1000)
def is_queue_id(text: str) -> bool:
    """Whether Cloud Tasks takes `text` as the id of a queue."""
    return _QUEUE_ID.fullmatch(text) is not None


def is_task_id(text: str) -> bool:
    """Whether Cloud Tasks takes `text` as the id of a task."""
    return _TASK_ID.fullmatch(text) is not None


def cloud_task_id(task_id: str, number: int) -> str:
    """The id of the Cloud Task of that number that is made for a task; 0 is the first.

    A name stays taken for a day after its task is gone, so a Cloud Task that is made again needs
    another one. It follows from the number, so that two who make the same make one.
    """
    return f"{task_id}-{number}" if number else task_id


def cloud_task_number(name: str, task_id: str) -> int | None:
    """The number of the Cloud Task `name` of that task; None if it is not one of its names."""
    if name == task_id:
        return 0
    prefix, _, number = name.rpartition("-")
    return int(number) if prefix == task_id and _NUMBER.fullmatch(number) else None


def is_project_id(text: str) -> bool:
    """Whether `text` can be the id, or the number, of a project."""
    return _PROJECT.fullmatch(text) is not None


def is_location_id(text: str) -> bool:
    """Whether `text` can be the id of a location."""
    return _LOCATION.fullmatch(text) is not None


@attrs.frozen
class QueueName:
    """`projects/PROJECT/locations/LOCATION/queues/QUEUE`."""

    project: str
    location: str
    queue: str

    def __attrs_post_init__(self) -> None:
        for part, alphabet, value in (
            ("project", _PROJECT, self.project),
            ("location", _LOCATION, self.location),
            ("queue", _QUEUE_ID, self.queue),
        ):
            if not alphabet.fullmatch(value):
                raise InvalidNameError(
                    f"{value!r} is not a {part} id: it must match {alphabet.pattern}."
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a full queue name apart.

        Raises:
            InvalidNameError: not of that form.
        """
        match text.split("/"):
            case ["projects", project, "locations", location, "queues", queue]:
                return cls(project, location, queue)
        raise InvalidNameError(
            f"{text!r} is not a queue name: write projects/PROJECT/locations/LOCATION/queues/QUEUE."
        )

    @property
    def parent(self) -> str:
        """The location that holds the queue: `projects/PROJECT/locations/LOCATION`."""
        return f"projects/{self.project}/locations/{self.location}"

    def __str__(self) -> str:
        return f"projects/{self.project}/locations/{self.location}/queues/{self.queue}"

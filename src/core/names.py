"""Resource names of Cloud Tasks: parsing, validation and formatting.

The API reference defines the characters: a task id is `[A-Za-z0-9_-]{1,500}`, and a queue id is
`[A-Za-z0-9-]{1,100}`. A project id can contain a domain (`example.com:app`).
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
    """Return whether Cloud Tasks accepts `text` as the id of a queue."""
    return _QUEUE_ID.fullmatch(text) is not None


def is_task_id(text: str) -> bool:
    """Return whether Cloud Tasks accepts `text` as the id of a task."""
    return _TASK_ID.fullmatch(text) is not None


def cloud_task_id(task_id: str, number: int) -> str:
    """Return the id of a Cloud Task for a task.

    A name stays in use for a day after its Cloud Task is deleted, so each further Cloud Task of the
    same task needs a new name. The name follows from the number, so that two processes that create
    the same Cloud Task at the same time create only one.

    Args:
        task_id: the id of the task.
        number: the number of the Cloud Task; 0 is the first for this task.
    """
    return f"{task_id}-{number}" if number else task_id


def cloud_task_number(name: str, task_id: str) -> int | None:
    """Return the number of the Cloud Task `name` of a task; None if it belongs to another task."""
    if name == task_id:
        return 0
    prefix, _, number = name.rpartition("-")
    return int(number) if prefix == task_id and _NUMBER.fullmatch(number) else None


def is_project_id(text: str) -> bool:
    """Return whether `text` can be the id or the number of a project."""
    return _PROJECT.fullmatch(text) is not None


def is_location_id(text: str) -> bool:
    """Return whether `text` can be the id of a location."""
    return _LOCATION.fullmatch(text) is not None


@attrs.frozen
class QueueName:
    """The name of a queue: `projects/PROJECT/locations/LOCATION/queues/QUEUE`.

    Raises:
        InvalidNameError: a part contains other characters, or is too long.
    """

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
        """Parse a full queue name.

        Raises:
            InvalidNameError: the text has another format.
        """
        match text.split("/"):
            case ["projects", project, "locations", location, "queues", queue]:
                return cls(project, location, queue)
        raise InvalidNameError(
            f"{text!r} is not a queue name: write projects/PROJECT/locations/LOCATION/queues/QUEUE."
        )

    @property
    def parent(self) -> str:
        """The location of the queue: `projects/PROJECT/locations/LOCATION`."""
        return f"projects/{self.project}/locations/{self.location}"

    def __str__(self) -> str:
        return f"projects/{self.project}/locations/{self.location}/queues/{self.queue}"


@attrs.frozen
class CloudTaskName:
    """The name of a Cloud Task: `projects/PROJECT/locations/LOCATION/queues/QUEUE/tasks/ID`.

    A delivery names only the queue and the id. `project` and `location` are then empty, and the
    text is `queues/QUEUE/tasks/ID`.
    """

    queue: str
    cloud_task_id: str
    project: str = ""
    location: str = ""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the text of a name; None if it has another format."""
        match text.split("/"):
            case ["queues", queue, "tasks", name]:
                return cls(queue, name)
            case ["projects", project, "locations", location, "queues", queue, "tasks", name]:
                return cls(queue, name, project, location)
        return None

    def __str__(self) -> str:
        name = f"queues/{self.queue}/tasks/{self.cloud_task_id}"
        if not self.project:
            return name
        return f"projects/{self.project}/locations/{self.location}/{name}"

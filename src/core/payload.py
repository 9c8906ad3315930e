"""The JSON that travels from `enqueue()` to the worker: the wire format, both ways."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Self

import attrs

from .errors import InvalidPayloadError

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None

_MISSING = object()


@attrs.frozen(kw_only=True)
class TaskPayload:
    """What a worker needs to know of a task.

    Attributes:
        task_id: id of the `TaskResult`, and of the Cloud Task where tasks are named.
        task_path: dotted path of the task object.
        args, kwargs: arguments, as JSON carries them.
        queue_name: Django's queue; the Cloud Tasks queue may differ by priority.
        backend: alias in `TASKS`.
        priority: -100 to 100.
        takes_context: whether the task wants a `TaskContext` (told to readers of other tools;
            the worker asks the task).
        enqueued_at: aware, or None if unknown.
    """

    task_id: str
    task_path: str
    args: list[Json]
    kwargs: dict[str, Json]
    queue_name: str = "default"
    backend: str = "default"
    priority: int = 0
    takes_context: bool = False
    enqueued_at: datetime | None = None

    def encode(self) -> bytes:
        """The request body, in UTF-8.

        Raises:
            TypeError: JSON cannot carry an argument.
        """
        document = {
            "task_id": self.task_id,
            "task_path": self.task_path,
            "args": self.args,
            "kwargs": self.kwargs,
            "queue_name": self.queue_name,
            "backend": self.backend,
            "priority": self.priority,
            "takes_context": self.takes_context,
            "enqueued_at": self.enqueued_at.isoformat() if self.enqueued_at else None,
        }
        try:
            return _ENCODER.encode(document).encode()
        except UnicodeEncodeError:
            # A lone surrogate has no UTF-8, but JSON can escape it.
            return _ASCII_ENCODER.encode(document).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"The arguments of {self.task_path} cannot be sent as JSON: {error}"
            ) from error

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read a request body.

        Only the id, the path and the arguments are demanded, so that a request by hand stays
        short; what else is there must be of its type, and unknown fields are left alone.

        Raises:
            InvalidPayloadError: with every fault found.
        """
        try:
            document = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InvalidPayloadError([f"the body is not JSON: {error}"]) from error
        if not isinstance(document, dict):
            raise InvalidPayloadError(
                [f"the body must be a JSON object, not {_json_type(document)}"]
            )
        return cls._from_document(document)

    @classmethod
    def _from_document(cls, document: Mapping[str, Json]) -> Self:
        faults: list[str] = []

        def field[T](name: str, kind: type[T], default: T | object = _MISSING) -> T:
            value = document.get(name, default)
            # bool is an int to Python, but true is no number to JSON.
            if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
                return value
            faults.append(
                f"{name} is missing"
                if value is _MISSING
                else f"{name} must be {_JSON_TYPES[kind]}, not {_json_type(value)}"
            )
            return kind()

        task_id = field("task_id", str)
        if not task_id and not faults:
            faults.append("task_id is empty")
        task_path = field("task_path", str)
        if task_path and not _is_dotted_path(task_path):
            faults.append("task_path must be a dotted path such as 'shop.tasks.send_receipt'")
        payload = cls(
            task_id=task_id,
            task_path=task_path,
            args=field("args", list),
            kwargs=field("kwargs", dict),
            queue_name=field("queue_name", str, "default"),
            backend=field("backend", str, "default"),
            priority=field("priority", int, 0),
            takes_context=field("takes_context", bool, default=False),
            enqueued_at=_moment(document.get("enqueued_at"), faults),
        )
        if faults:
            raise InvalidPayloadError(faults)
        return payload


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ASCII_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

_JSON_TYPES: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _json_type(value: object) -> str:
    return _JSON_TYPES[type(value)]


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _is_dotted_path(text: str) -> bool:
    parts = text.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _moment(value: Json, faults: list[str]) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        faults.append("enqueued_at must be an ISO 8601 time with its offset from UTC, or null")
        return None
    return moment

"""The JSON body that carries a task from `enqueue()` to the worker: encoding and decoding."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Self

import attrs

from .errors import InvalidPayloadError

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None


def _carry(value: object) -> object:
    """Convert a value of a type that the JSON encoder does not know.

    Raises:
        TypeError: JSON cannot represent the value.
    """
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(
        f"{_short(value)} has the type {type(value).__qualname__}, which JSON cannot represent"
    )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


@attrs.frozen(kw_only=True)
class Progress:
    """The state that a task without a record carries from one Cloud Task to the next.

    All times are aware.

    Attributes:
        attempts: the number of attempts through earlier Cloud Tasks.
        number: the number of this Cloud Task; 0 is the first.
        run_after: when the task was first due; None if it was due at once.
        due_at: when this attempt is due, if that is beyond the 720 hours of Cloud Tasks; otherwise
            None.
    """

    attempts: int = 0
    number: int = 0
    run_after: datetime | None = None
    due_at: datetime | None = None


_NO_PROGRESS = Progress()

PROBE_TASK_PATH = "django_tasks_cloud_tasks.probe"
"""The `task_path` of the probe task of `cloudtasks_doctor`. There is no function at this path."""

PROGRESS_SIZE = 200
"""The maximum size of an encoded `Progress` in bytes, with the number in the Cloud Task's name."""


@attrs.frozen(kw_only=True)
class TaskPayload:
    """The data that a worker needs to execute a task.

    Attributes:
        task_id: the id of the `TaskResult`. It is also the id of the Cloud Task with NAME_TASKS.
        task_path: the dotted path of the task object.
        args, kwargs: the arguments: before `encode` the original ones, after `decode` as JSON
            represents them.
        queue_name: Django's queue. PRIORITY_QUEUES can select another Cloud Tasks queue.
        backend: the alias in `TASKS`.
        priority: the priority, from -100 to 100.
        takes_context: whether the task takes a `TaskContext`. The worker does not read it; it is
            for other programs.
        enqueued_at: when the task was enqueued, as an aware datetime; None if it is not known.
        recorded: whether a result store contains the task.
        schedule: the name of the schedule that enqueued the task; empty for other tasks.
        scheduled_for: the tick of that schedule, as an aware datetime; None for other tasks.
        progress: see `Progress`. Its non-empty values are keys of the same JSON object.
    """

    task_id: str
    task_path: str
    args: Sequence[object]
    kwargs: Mapping[str, object]
    queue_name: str = "default"
    backend: str = "default"
    priority: int = 0
    takes_context: bool = False
    enqueued_at: datetime | None = None
    recorded: bool = False
    schedule: str = ""
    scheduled_for: datetime | None = None
    progress: Progress = _NO_PROGRESS

    def encode(self) -> bytes:
        """Return the request body: JSON in UTF-8.

        Mappings, sequences and bytes in UTF-8 are accepted, as in Django's own normalization.

        Raises:
            TypeError: JSON cannot represent an argument.
        """
        document: dict[str, object] = {
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
        if self.recorded:
            document["recorded"] = True
        if self.scheduled_for:
            document["schedule"] = self.schedule
            document["scheduled_for"] = self.scheduled_for.isoformat()
        if self.progress != _NO_PROGRESS:
            document.update(_encode_progress(self.progress))
        try:
            try:
                body = _utf8(document)
            except TypeError:
                # Django accepts keys of the type bytes. The encoder refuses them without `_carry`.
                plain = {"args": _with_text_keys(self.args), "kwargs": _with_text_keys(self.kwargs)}
                body = _utf8({**document, **plain})
            if not self._is_plain():
                _CHECKING_DECODER.decode(body.decode())
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"The arguments of {self.task_path} cannot be sent as JSON: "
                f"{self._culprit() or error}"
            ) from error
        return body

    def _culprit(self) -> str | None:
        """Return a text about the argument that JSON cannot represent; None if it is not found."""
        named: list[tuple[str, object]] = [
            *((f"argument {number}", value) for number, value in enumerate(self.args, 1)),
            *((f"argument {name!r}", value) for name, value in self.kwargs.items()),
        ]
        for name, value in named:
            found = _strange(value)
            if found is not None:
                path, part = found
                what = f"{name}{path}: {_short(part)} has the type {type(part).__qualname__}"
                return f"{what}. {_instead_of(part)}"
        for name, value in named:
            try:
                _ENCODER.encode(value)
            except TypeError:
                continue  # A key of the type bytes, which `encode` accepts.
            except (ValueError, RecursionError) as error:
                return f"{name}: {error}"
        return None

    def carried(self, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and keyword arguments that a worker decodes from `body`."""
        if self._is_plain():
            return list(self.args), dict(self.kwargs)
        document = _DECODER.decode(body.decode())
        return document["args"], document["kwargs"]

    def _is_plain(self) -> bool:
        """Return whether JSON does not change any argument: all are text, numbers, bool or None."""
        return _PLAIN_TYPES.issuperset(map(type, self.args)) and _PLAIN_TYPES.issuperset(
            map(type, self.kwargs.values())
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Decode a request body.

        Only the id, the path and the arguments are required, so that a request by hand can be
        short. Other known fields must have the right type. Unknown fields are ignored.

        Raises:
            InvalidPayloadError: the body is not a task. The error contains all faults.
        """
        try:
            document = _STRICT_DECODER.decode(body.decode())
        except (ValueError, RecursionError) as error:
            raise InvalidPayloadError([f"the body is not JSON: {error}"]) from error
        if not isinstance(document, dict):
            raise InvalidPayloadError(
                [f"the body must be a JSON object, not {_JSON_TYPES[type(document)]}"]
            )
        # The values can have any type here. `_is_sound` checks them before they are used.
        field: Callable[..., Any] = document.get
        faults: list[str] = []
        enqueued_at = _moment("enqueued_at", field("enqueued_at"), faults)
        payload = cls(
            task_id=field("task_id"),
            task_path=field("task_path"),
            args=field("args"),
            kwargs=field("kwargs"),
            queue_name=field("queue_name", "default"),
            backend=field("backend", "default"),
            priority=field("priority", 0),
            takes_context=field("takes_context") if "takes_context" in document else False,
            enqueued_at=enqueued_at,
            recorded=field("recorded", False),  # noqa: FBT003 - the default
            schedule=field("schedule", ""),
            scheduled_for=_moment("scheduled_for", field("scheduled_for"), faults),
            progress=_decode_progress(document, faults),
        )
        if not payload._is_sound():
            faults = _faults(document) + faults
        if faults:
            raise InvalidPayloadError(faults)
        return payload

    def _is_sound(self) -> bool:
        """Return whether `_faults` would find no fault. This check is faster."""
        types = (type(self.task_id), type(self.task_path), type(self.args), type(self.kwargs))
        more = (type(self.queue_name), type(self.backend), type(self.priority))
        flags = (type(self.takes_context), type(self.recorded))
        return (
            (*types, *more, *flags, type(self.schedule)) == _TYPES
            and _is_plain(self.task_id)
            and _is_plain(self.queue_name)
            and _is_plain(self.backend)
            and (not self.schedule or _is_plain(self.schedule))
            and _is_dotted_path(self.task_path)
        )


# Values of these types do not change in JSON.
_PLAIN_TYPES = frozenset({str, int, float, bool, type(None)})

# All fields except the time and the progress: the type, and whether the field is required.
_FIELDS: Mapping[str, tuple[type, bool]] = {
    "task_id": (str, True),
    "task_path": (str, True),
    "args": (list, True),
    "kwargs": (dict, True),
    "queue_name": (str, False),
    "backend": (str, False),
    "priority": (int, False),
    "takes_context": (bool, False),
    "recorded": (bool, False),
    "schedule": (str, False),
}
_TYPES = tuple(kind for kind, _ in _FIELDS.values())

_PROGRESS = {field.name for field in attrs.fields(Progress)}
_HIGHEST_COUNT = 999_999_999
_LONGEST_TEXT = 1000
_SHOWN = 80  # characters of a value in an error message
_DEEPEST = 20  # levels of nested containers in which an invalid value is searched


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of the range of a float")
    return number


def _without_doubles(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two keys of a dict both become {double!r} in JSON, so one would be lost")


_DECODER = json.JSONDecoder()
_CHECKING_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)
_STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_carry
)
_ASCII_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_carry)


def _utf8(document: Mapping[str, object]) -> bytes:
    try:
        return _ENCODER.encode(document).encode()
    except UnicodeEncodeError:
        # A lone surrogate cannot be encoded in UTF-8, but JSON can escape it.
        return _ASCII_ENCODER.encode(document).encode()


def _strange(value: object, path: str = "", depth: int = 0) -> tuple[str, object] | None:
    """Return the path and the value of the first part that JSON cannot represent; None if none."""
    if value is None or isinstance(value, bool | int | str) or depth > _DEEPEST:
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, value)
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError:
            return path, value
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int | float | bool | bytes | None):
                return f"{path}, a key of the dict", key
        parts = [(f"{path}[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, Sequence):
        parts = [(f"{path}[{number}]", part) for number, part in enumerate(value)]
    else:
        return path, value
    found = (_strange(part, where, depth + 1) for where, part in parts)
    return next((one for one in found if one is not None), None)


def _instead_of(value: object) -> str:
    """Return advice about what to pass instead of a value. It depends only on the type."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__}
    if "django.db.models.base.Model" in names:
        return "Pass its primary key, and load the object in the task."
    if "enum.Enum" in names:
        return "Pass its .value."
    for known, advice in _ADVICE.items():
        if known in names:
            return advice
    if attrs.has(type(value)) or hasattr(type(value), "__dataclass_fields__"):
        return "Pass a dict made from it, for example with asdict()."
    return "Pass text, numbers, lists or dicts."


_ADVICE: Mapping[str, str] = {
    "datetime.date": "Pass its isoformat().",
    "datetime.time": "Pass its isoformat().",
    "datetime.timedelta": "Pass its total_seconds().",
    "uuid.UUID": "Convert it with str().",
    "decimal.Decimal": "Convert it with str().",
    "pathlib.PurePath": "Convert it with str().",
    "pathlib._local.PurePath": "Convert it with str().",
    "django.utils.functional.Promise": "Convert it with str().",
    "builtins.set": "Convert it to a list. Sort the list if the order matters.",
    "builtins.frozenset": "Convert it to a list. Sort the list if the order matters.",
    "builtins.bytes": "Encode it as text, for example with base64.",
    "builtins.float": "Pass a finite number, or None.",
    "builtins.complex": "Pass its real part and its imaginary part.",
    "django.db.models.query.QuerySet": "Pass a list of the primary keys.",
}


def _with_text_keys(value: object) -> object:
    """Return the value with keys of the type bytes as text, as in Django's own normalization.

    Raises:
        ValueError: two keys of a dict become the same.
    """
    if isinstance(value, Mapping):
        # The pairs are built first, because a dict would silently lose one of two equal keys.
        pairs = [
            (key.decode() if isinstance(key, bytes) else key, _with_text_keys(part))
            for key, part in value.items()
        ]
        if len(dict(pairs)) < len(pairs):
            raise ValueError("two keys of a dict become the same in JSON, so one would be lost")
        return dict(pairs)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_with_text_keys(part) for part in value]
    return value


_JSON_TYPES: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _faults(document: Mapping[str, Json]) -> list[str]:
    """Return all faults of the fields of a payload, except those of the time and the progress."""
    faults = []
    for name, (kind, required) in _FIELDS.items():
        value = document.get(name)
        if name not in document:
            if required:
                faults.append(f"{name} is missing")
        elif type(value) is not kind:
            faults.append(f"{name} must be {_JSON_TYPES[kind]}, not {_JSON_TYPES[type(value)]}")
        elif isinstance(value, str) and not _is_plain(value) and (value or name != "schedule"):
            faults.append(f"{name} must be 1 to {_LONGEST_TEXT} printable characters")
        elif name == "task_path" and not _is_dotted_path(str(value)):
            faults.append("task_path must be a dotted path such as 'shop.tasks.send_receipt'")
    return faults


def _is_plain(text: str) -> bool:
    """Return whether a text can be written to a log: not empty, not too long, and printable."""
    return 0 < len(text) <= _LONGEST_TEXT and text.isprintable()


def _is_dotted_path(text: str) -> bool:
    if len(text) > _LONGEST_TEXT:
        return False
    parts = text.split(".")
    return len(parts) > 1 and all(map(str.isidentifier, parts))


def is_in_calendar(moment: datetime) -> bool:
    """Return whether an aware datetime can be expressed in every time zone.

    It must be at least one day from the first and the last day of the calendar.
    """
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        return False
    return date.min < in_utc.date() < date.max


def _encode_progress(progress: Progress) -> dict[str, Json]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in attrs.asdict(progress).items()
        if value
    }


def _decode_progress(document: Mapping[str, Json], faults: list[str]) -> Progress:
    if _PROGRESS.isdisjoint(document):
        return _NO_PROGRESS
    return Progress(
        attempts=_count("attempts", document.get("attempts", 0), faults),
        number=_count("number", document.get("number", 0), faults),
        run_after=_moment("run_after", document.get("run_after"), faults),
        due_at=_moment("due_at", document.get("due_at"), faults),
    )


def _count(name: str, value: Json, faults: list[str]) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _HIGHEST_COUNT:
        return value
    faults.append(f"{name} must be a whole number from 0 to {_HIGHEST_COUNT:,}")
    return 0


def _moment(name: str, value: Json, faults: list[str]) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is not None and is_in_calendar(moment):
        return moment
    faults.append(f"{name} must be an ISO 8601 time with its offset from UTC, or null")
    return None

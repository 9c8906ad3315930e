"""The mapping between the leaves of a `TaskRecord` and the columns of its table.

The name of a column follows from the leaf. For a leaf of the payload it is the name of the leaf.
For other leaves it is the path (`claim.token` is in `claim_token`). A column with JSON has the
suffix `_json`. The conversion of a value follows from the type of the column. So a new attribute of
a record needs a field of the model, but usually no change in this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from operator import attrgetter
from typing import Any

import attrs
from django.db.models import DateTimeField, Field, Model

from ...core.payload import TaskPayload
from ...core.records import FENCE, LEAVES, LONGEST_NAME, Attempt, AttemptError, State, TaskRecord
from ..timezones import from_site, to_site

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_PAYLOAD = "payload"
_JSON = "_json"


@attrs.frozen
class _Column:
    """One column.

    Attributes:
        name: the name of the model's field.
        part: returns the part of a record that the column stores.
        encode: converts this part to the value of the column.
    """

    name: str
    part: Callable[[TaskRecord], Any]
    encode: Callable[[Any], Any]


@attrs.frozen
class _Leaf:
    """One leaf of a record.

    Attributes:
        columns: the columns of the leaf.
        decode: converts the values of the columns to the value of the leaf.
        outer, inner: the parts of its path; `inner` is empty for a path without a dot.
    """

    columns: tuple[_Column, ...]
    decode: Callable[..., Any]
    outer: str
    inner: str


class Columns:
    """The columns of a model, by the paths of the leaves.

    Args:
        model: the model of the table.

    Raises:
        LookupError: a leaf has no column, or a column has no leaf.
    """

    def __init__(self, model: type[Model]) -> None:
        fields = {field.name: field for field in model._meta.local_fields}
        self._leaves = {path: _leaf(path, fields) for path in LEAVES}
        self._all = tuple(c for leaf in self._leaves.values() for c in leaf.columns)
        left = fields.keys() - {column.name for column in self._all}
        if left:
            raise LookupError(
                f"TaskRecord has no attribute for these columns: {', '.join(sorted(left))}."
            )
        outers = {leaf.outer for leaf in self._leaves.values() if leaf.inner} - {_PAYLOAD}
        kinds: Any = attrs.fields_dict(TaskRecord)  # attrs types its fields loosely.
        self._kinds: dict[str, Callable[..., Any]] = {name: kinds[name].type for name in outers}

    def encode(self, record: TaskRecord) -> dict[str, Any]:
        """Return the values of all columns, by name."""
        return {column.name: column.encode(column.part(record)) for column in self._all}

    def encode_fence(self, record: TaskRecord) -> dict[str, Any]:
        """Return the values of the columns of the fence, by name."""
        return {
            column.name: column.encode(column.part(record))
            for path in FENCE
            for column in self._leaves[path].columns
        }

    def encode_changes(self, before: TaskRecord, then: TaskRecord) -> dict[str, Any]:
        """Return the values in `then` of the columns that differ, by name."""
        changed: dict[str, Any] = {}
        for column in self._all:
            part = column.part(then)
            if part != column.part(before):
                changed[column.name] = column.encode(part)
        return changed

    def decode(self, row: Model) -> TaskRecord:
        """Return the record in a row.

        Raises:
            Exception: the row is damaged. The type of the exception depends on the damage.
        """
        parts: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for leaf in self._leaves.values():
            value = leaf.decode(*(getattr(row, column.name) for column in leaf.columns))
            if leaf.inner:
                parts.setdefault(leaf.outer, {})[leaf.inner] = value
            else:
                own[leaf.outer] = value
        payload = TaskPayload(**parts.pop(_PAYLOAD), recorded=True)
        if type(payload.args) is not list or type(payload.kwargs) is not dict:
            raise TypeError("the arguments are not a list and a mapping")
        nested = {outer: self._kinds[outer](**values) for outer, values in parts.items()}
        return TaskRecord(payload=payload, **own, **nested)


def decode_attempts(attempts: str, tracebacks: str, *_: object) -> tuple[Attempt, ...]:
    """Return the attempts in a row.

    Args:
        attempts: a JSON list with one list for each attempt: worker, start, end, class path of the
            error or null, and maybe a note.
        tracebacks: a JSON list with the tracebacks of the failed attempts.

    Raises:
        Exception: the values are damaged. The type of the exception depends on the damage.
    """
    texts = iter(json.loads(tracebacks))
    return tuple(_decode_attempt(kept, texts) for kept in json.loads(attempts))


def _decode_attempt(kept: Any, texts: Iterator[Any]) -> Attempt:  # noqa: ANN401 - JSON
    worker, started, finished, path, *note = kept
    error = None if path is None else AttemptError(_text(path), _text(next(texts, None)))
    times = _decode_time(started), _decode_time(finished)
    return Attempt(_text(worker), *times, error, _text(note[0]) if note else "")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _decode_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no offset from UTC")
    return moment


def _short(record: TaskRecord) -> list[tuple[Any, ...]]:
    """Return the attempts without tracebacks. A traceback is long, and only a failure adds one."""
    return [
        (
            attempt.worker,
            _encode_time(attempt.started_at),
            _encode_time(attempt.finished_at),
            attempt.error and attempt.error.exception_class_path,
            *([attempt.note] if attempt.note else ()),
        )
        for attempt in record.attempts
    ]


def _tracebacks(record: TaskRecord) -> list[str]:
    return [attempt.error.traceback for attempt in record.attempts if attempt.error]


def _failure(record: TaskRecord) -> str:
    return record.failure[:LONGEST_NAME]


def _encode_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _same(value: Any) -> Any:  # noqa: ANN401 - a value of any column
    return value


def _leaf(path: str, fields: dict[str, Field[Any, Any]]) -> _Leaf:
    outer, _, inner = path.partition(".")
    if path == "attempts":
        columns = (
            _Column("attempts_json", _short, _ENCODER.encode),
            _Column("tracebacks_json", _tracebacks, _ENCODER.encode),
            # Lists show this count without reading the other columns.
            _Column("attempt_count", lambda record: len(record.attempts), _same),
            # The admin filters final failures by this value.
            _Column("failure", _failure, _same),
        )
        if all(column.name in fields for column in columns):
            return _Leaf(columns, decode_attempts, outer, inner)
        raise LookupError("No columns keep attempts of TaskRecord.")
    read = LEAVES[path]
    # Django calls the state "status", and sites use this name in queries.
    name = "status" if path == "state" else (inner if outer == _PAYLOAD else path.replace(".", "_"))
    encode: Callable[[Any], Any] = _same
    decode: Callable[..., Any] = _same
    if name not in fields:
        name += _JSON
        encode, decode = _ENCODER.encode, json.loads
    elif path == "state":
        encode, decode = attrgetter("value"), State
    elif isinstance(fields[name], DateTimeField):
        encode, decode = to_site, from_site
    if name not in fields:
        raise LookupError(f"No column keeps {path} of TaskRecord.")
    return _Leaf((_Column(name, read, encode),), decode, outer, inner)

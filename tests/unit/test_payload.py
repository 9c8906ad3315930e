"""The wire format."""

import dataclasses
import enum
import json
import math
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from django_tasks_cloud_tasks.core.errors import InvalidPayloadError
from django_tasks_cloud_tasks.core.payload import TaskPayload
from hypothesis import example, given
from hypothesis import strategies as st

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def payload(**changes: Any) -> TaskPayload:
    return TaskPayload(
        **{"task_id": "an-id", "task_path": "shop.tasks.send", "args": [], "kwargs": {}} | changes
    )


def test_the_encoded_payload_has_these_fields() -> None:
    sent = payload(
        args=[1, "two"],
        kwargs={"three": 3},
        queue_name="mail",
        backend="cloud",
        priority=-7,
        takes_context=True,
        enqueued_at=MOMENT,
    )
    assert json.loads(sent.encode()) == {
        "task_id": "an-id",
        "task_path": "shop.tasks.send",
        "args": [1, "two"],
        "kwargs": {"three": 3},
        "queue_name": "mail",
        "backend": "cloud",
        "priority": -7,
        "takes_context": True,
        "enqueued_at": "2026-01-02T03:04:05.678901+00:00",
    }


@given(
    st.lists(json_values),
    st.dictionaries(st.text(), json_values),
    st.integers(-100, 100),
    st.booleans(),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)
def test_an_encoded_payload_is_decoded_unchanged(
    args: list[Any], kwargs: dict[str, Any], priority: int, takes: bool, moment: datetime | None
) -> None:
    sent = payload(
        args=args, kwargs=kwargs, priority=priority, takes_context=takes, enqueued_at=moment
    )
    assert TaskPayload.decode(sent.encode()) == sent
    assert sent.carried(sent.encode()) == (args, kwargs)


def test_arguments_that_django_accepts_are_encoded_the_same_way() -> None:
    sent = payload(args=((1, range(2)), b"text", MappingProxyType({"a": 1})), kwargs={1: None})
    assert sent.carried(sent.encode()) == ([[1, [0, 1]], "text", {"a": 1}], {"1": None})


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, MOMENT, b"\xff", math.nan, math.inf, {(1, 2): 3}, 1j, [[[{1}]]]],
    ids=repr,
)
def test_an_argument_that_is_not_json_raises_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=r"The arguments of shop\.tasks\.send cannot be sent"):
        payload(args=[value]).encode()


def test_a_value_that_contains_itself_raises_a_type_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError):
        payload(args=loop).encode()


def test_a_body_with_only_the_required_fields_is_decoded() -> None:
    body = b'{"task_id": "1", "task_path": "a.b", "args": [], "kwargs": {}, "unknown": [1]}'
    assert TaskPayload.decode(body) == TaskPayload(task_id="1", task_path="a.b", args=[], kwargs={})


def faults(body: bytes) -> tuple[str, ...]:
    with pytest.raises(InvalidPayloadError) as raised:
        TaskPayload.decode(body)
    return raised.value.faults


def test_every_fault_of_a_payload_is_listed() -> None:
    document = {
        "task_id": "",
        "task_path": "x",
        "args": {},
        "queue_name": 1,
        "backend": None,
        "priority": True,
        "takes_context": 0,
        "enqueued_at": "2026-01-02T03:04:05",
    }
    assert faults(json.dumps(document).encode()) == (
        "task_id must be 1 to 1000 printable characters",
        "task_path must be a dotted path such as 'shop.tasks.send_receipt'",
        "args must be an array, not an object",
        "kwargs is missing",
        "queue_name must be a string, not a whole number",
        "backend must be a string, not null",
        "priority must be a whole number, not true or false",
        "takes_context must be true or false, not a whole number",
        "enqueued_at must be an ISO 8601 time with its offset from UTC, or null",
    )


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"', b"true", b"1.5"])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    assert "must be a JSON object, not" in faults(body)[0]


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@example(b"\xff\xfe{\x00}\x00")
@example(b'{"args": NaN}')
@example(b"[" * 100_000)
@example(b"1" * 5_000)
@example(b'\xef\xbb\xbf{"task_id": "1"}')
def test_any_body_is_decoded_or_refused_with_a_list_of_faults(body: bytes) -> None:
    try:
        decoded = TaskPayload.decode(body)
    except InvalidPayloadError as error:
        assert error.faults
        assert all(error.faults)
    else:
        assert TaskPayload.decode(decoded.encode()) == decoded


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: json_values | st.just("a.b")
            for name in (
                *("task_id", "task_path", "args", "kwargs", "queue_name", "backend"),
                *("priority", "takes_context", "enqueued_at"),
            )
        },
    )
)
def test_a_field_of_any_type_is_accepted_or_named_in_a_fault(document: dict[str, Any]) -> None:
    try:
        TaskPayload.decode(json.dumps(document).encode())
    except InvalidPayloadError as error:
        named = {fault.split()[0] for fault in error.faults}
        assert named <= {*document, "task_id", "task_path", "args", "kwargs"}


@pytest.mark.parametrize(
    "mapping",
    [
        {1: "a", "1": "b"},
        {None: 1, "null": 2},
        {True: 1, "true": 2},
        {1.0: "a", "1.0": "b"},
        {b"a": 1, "a": 2},
        MappingProxyType({1: "a", "1": "b"}),
    ],
)
def test_keys_that_are_equal_in_json_are_refused(mapping: Any) -> None:
    for sent in (payload(args=[mapping]), payload(kwargs={"a": [{"b": mapping}]})):
        with pytest.raises(TypeError, match=r"shop\.tasks\.send cannot be sent as JSON: two keys"):
            sent.encode()


def test_keys_that_django_accepts_are_encoded_the_same_way() -> None:
    sent = payload(args=[{b"a": 1, 2: [{b"c": {3.5: None}}]}])
    body = sent.encode()
    args, _ = sent.carried(body)
    assert args == [{"a": 1, "2": [{"c": {"3.5": None}}]}]
    with pytest.raises(TypeError, match="cannot be sent as JSON"):
        payload(args=[{b"\xff": 1}]).encode()
    with pytest.raises(TypeError, match="cannot be sent as JSON"):
        payload(args=[{(1, 2): 1}]).encode()


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+00:00",
        "9999-12-31T23:59:59+00:00",
    ],
)
def test_a_time_at_the_first_or_last_moment_of_the_calendar_is_a_fault(moment: str) -> None:
    document = json.loads(payload().encode()) | {"enqueued_at": moment}
    with pytest.raises(InvalidPayloadError, match="enqueued_at must be"):
        TaskPayload.decode(json.dumps(document).encode())


@attrs.frozen
class Point:
    x: int


@dataclasses.dataclass
class Size:
    width: int


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), "Pass its isoformat()."),
        (date(2026, 1, 1), "Pass its isoformat()."),
        (time(12), "Pass its isoformat()."),
        (timedelta(1), "Pass its total_seconds()."),
        (uuid.UUID(int=1), "Convert it with str()."),
        (Decimal("1.5"), "Convert it with str()."),
        (PurePosixPath("/a"), "Convert it with str()."),
        ({1}, "Convert it to a list. Sort the list if the order matters."),
        (frozenset({1}), "Convert it to a list. Sort the list if the order matters."),
        (b"\xff", "Encode it as text, for example with base64."),
        (math.nan, "Pass a finite number, or None."),
        (Point(1), "Pass a dict made from it, for example with asdict()."),
        (Size(1), "Pass a dict made from it, for example with asdict()."),
        (Colour.RED, "Pass its .value."),
        (object(), "Pass text, numbers, lists or dicts."),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_the_error_for_an_argument_that_is_not_json_says_what_to_pass(
    value: object, advice: str
) -> None:
    kind = type(value).__qualname__
    cases = {
        "argument 2": payload(args=[1, value]),
        "argument 1[0]['a']": payload(args=[[{"a": value}]]),
        "argument 'due'": payload(kwargs={"by": 1, "due": value}),
    }
    for named, sent in cases.items():
        with pytest.raises(TypeError) as raised:
            sent.encode()
        said = str(raised.value)
        assert f"shop.tasks.send cannot be sent as JSON: {named}: " in said
        assert said.endswith(f" has the type {kind}. {advice}")


def circular() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (
            [{("a", 1): 2}],
            {},
            r"argument 1, a key of the dict: \('a', 1\) has the type tuple\. Pass",
        ),
        (
            [1],
            {"b": {"c": {uuid.UUID(int=1): 2}}},
            r"argument 'b'\['c'\], a key of the dict: UUID",
        ),
        ([1, circular()], {}, "argument 2: Circular reference detected"),
    ],
)
def test_a_key_or_a_circle_that_json_cannot_carry_is_named(
    args: list[object], kwargs: dict[str, object], said: str
) -> None:
    payload = TaskPayload(task_id="a", task_path="shop.tasks.send", args=args, kwargs=kwargs)
    with pytest.raises(TypeError, match=said):
        payload.encode()

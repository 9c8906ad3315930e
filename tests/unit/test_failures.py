"""Final failures: groups, selections, names of classes, rates."""

from datetime import UTC, datetime, timedelta

import pytest
from django_tasks_cloud_tasks.core.failures import (
    FailedTask,
    FailureSelection,
    group_of,
    interval,
    is_class,
    selects,
)
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import (
    LONGEST_NAME,
    TASK_LOST,
    Attempt,
    AttemptError,
    State,
    TaskRecord,
)

from tests.records import changed

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PATH, ERROR = "shop.tasks.add", "builtins.ValueError"
ATTEMPTS = (Attempt("w", NOW, NOW, AttemptError(ERROR, "Traceback: no")),)
FAILED = TaskRecord(
    payload=TaskPayload(task_id="one", task_path=PATH, args=[], kwargs={}),
    state=State.FAILED,
    attempts=ATTEMPTS,
    finished_at=NOW,
)
GROUP = FailureSelection(task_path=PATH, failure=ERROR)


def test_a_failure_belongs_to_its_task_and_the_class_of_its_final_error() -> None:
    assert group_of(FAILED) == (PATH, ERROR)
    assert group_of(changed(FAILED, lost="gone")) == (PATH, TASK_LOST)
    long = (Attempt("w", error=AttemptError("a." + "E" * 300, "")),)
    assert group_of(changed(FAILED, attempts=long)) == (PATH, ("a." + "E" * 300)[:LONGEST_NAME])


@pytest.mark.parametrize("state", set(State) - {State.FAILED})
def test_what_has_not_failed_for_good_belongs_to_no_group(state: State) -> None:
    other = changed(FAILED, state=state)
    assert group_of(other) is None
    assert not selects(GROUP, other)


@pytest.mark.parametrize(
    ("more", "chosen"),
    [
        ({}, True),
        ({"since": NOW}, True),
        ({"since": NOW + SECOND}, False),
        ({"until": NOW}, True),
        ({"until": NOW - SECOND}, False),
        ({"after": FailedTask(NOW - SECOND, "two")}, True),
        ({"after": FailedTask(NOW, "ond")}, True),
        ({"after": FailedTask(NOW, "one")}, False),
        ({"after": FailedTask(NOW + SECOND, "a")}, False),
        ({"task_path": "shop.tasks.other"}, False),
        ({"failure": "builtins.KeyError"}, False),
    ],
)
def test_failures_are_selected_by_group_and_time(more: dict[str, object], chosen: bool) -> None:
    values: dict[str, object] = {"task_path": PATH, "failure": ERROR, **more}
    selection = FailureSelection(**values)  # type: ignore[arg-type]  # from the table above
    assert selects(selection, FAILED) is chosen


def test_a_failure_that_was_replayed_is_selected_only_on_request() -> None:
    replayed = changed(FAILED, replayed_as="two")
    assert not selects(GROUP, replayed)
    again = FailureSelection(task_path=PATH, failure=ERROR, replayed=True)
    assert selects(again, replayed)
    assert selects(again, FAILED)


def test_failures_are_in_the_order_of_time_and_then_of_ids() -> None:
    places = [FailedTask(NOW, "b"), FailedTask(NOW - SECOND, "c"), FailedTask(NOW, "a")]
    assert [place.task_id for place in sorted(places)] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("shop.errors.Declined", True),
        ("Declined", True),
        ("errors.Declined", True),
        ("clined", False),
        ("declined", False),
        ("shop.errors", False),
        ("", False),
    ],
)
def test_a_class_is_named_with_or_without_its_module(name: str, found: bool) -> None:
    assert is_class("shop.errors.Declined", name) is found


@pytest.mark.parametrize(
    ("rate", "seconds"), [("20/s", 0.05), ("1/s", 1), ("30/m", 2), ("999999/s", 1e-6)]
)
def test_a_rate_is_an_interval(rate: str, seconds: float) -> None:
    assert interval(rate) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "20", "20/h", "0/s", "-1/s", "1.5/s", "20 /s", "20/s\n", "٢/s", "s/20"]
)
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 20/s"):
        interval(text)

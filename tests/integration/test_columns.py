"""The mapping between the fields of a record and the columns of its table."""

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from django_tasks_cloud_tasks.core.errors import UnreadableRecordError
from django_tasks_cloud_tasks.core.lifecycle import (
    back_off,
    claim,
    enqueued,
    fail,
    gone,
    sent,
    succeed,
    withdraw,
)
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import LEAVES, AttemptError, TaskRecord
from django_tasks_cloud_tasks.core.retry_policy import Again, Over
from django_tasks_cloud_tasks.django_integration.models import COLUMNS, StoredTask
from django_tasks_cloud_tasks.django_integration.results.columns import Columns

from tests.models import Mark

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
WAITING = enqueued(
    TaskPayload(
        task_id="one",
        task_path="a.b",
        args=[1],
        kwargs={"b": [2]},
        queue_name="mail",
        backend="stored",
        priority=7,
        takes_context=True,
        enqueued_at=NOW,
    ),
    args=[1],
    kwargs={"b": [2]},
    run_after=NOW + timedelta(days=1),
    now=NOW,
    timeout=10,
)
RUNNING = claim(WAITING, now=NOW, token="t", worker="w", lease=timedelta(seconds=60)).record
ERROR = AttemptError("a.Error", "traceback")
FAILED = fail(RUNNING, ERROR, now=NOW + timedelta(seconds=1), then=Over("it was the last"))
RETRYING = fail(
    RUNNING, ERROR, now=NOW, then=Again(NOW + timedelta(days=1), by_queue=False), note="Too long."
)
LOST = gone(sent(WAITING, now=NOW), now=NOW, redelivered=False)
REPLAYED = attrs.evolve(FAILED, replay_of="before", replayed_as="later")
CANCELLED = withdraw(RETRYING, now=NOW + timedelta(seconds=2)).record


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize(
    "record",
    [
        *(WAITING, RUNNING, RETRYING, FAILED, CANCELLED, LOST, REPLAYED),
        back_off(WAITING, "no", now=NOW),
    ],
)
def test_a_record_comes_back_as_it_was(record: TaskRecord, use_tz: bool, settings: object) -> None:
    settings.USE_TZ = use_tz  # type: ignore[attr-defined]  # the fixture's object
    assert StoredTask(**COLUMNS.encode(record)).record == record


def test_only_what_differs_is_written() -> None:
    then = back_off(WAITING, "no", now=NOW)
    written = COLUMNS.encode_changes(WAITING, then)
    assert written.keys() == {"relay_at", "relay_failures", "relay_error"}


def test_every_leaf_has_a_column_and_every_column_a_leaf() -> None:
    fields = {field.name for field in StoredTask._meta.local_fields}
    assert COLUMNS.encode(WAITING).keys() == fields
    assert len(fields) == len(LEAVES) + 3, (
        "attempts have four: for lists, for groups, and for little change"
    )


def test_a_model_that_keeps_too_little_is_refused() -> None:
    with pytest.raises(LookupError, match=r"No column keeps payload\.task_id of TaskRecord"):
        Columns(Mark)


def test_a_claim_and_a_success_write_no_tracebacks() -> None:
    again = NOW + timedelta(days=1)
    claimed = claim(RETRYING, now=again, token="t2", worker="w", lease=timedelta(seconds=60)).record
    done = succeed(claimed, 1, now=again)
    assert "tracebacks_json" not in COLUMNS.encode_changes(RETRYING, claimed)
    assert "tracebacks_json" not in COLUMNS.encode_changes(claimed, done)
    assert "tracebacks_json" in COLUMNS.encode_changes(RUNNING, RETRYING)


@pytest.mark.parametrize(
    "damage",
    [
        {"args_json": "5"},
        {"kwargs_json": "[1]"},
        {"attempts_json": "[[5, null, null, null]]"},
        {"attempts_json": '[["w", "2026-11-22T12:00:00", null, null]]'},
        {"attempts_json": '[["w", null, null, "a.Error"]]'},
    ],
    ids=str,
)
def test_a_damaged_row_is_no_record(damage: dict[str, str]) -> None:
    row = StoredTask(**COLUMNS.encode(WAITING) | damage)
    with pytest.raises(UnreadableRecordError, match="one cannot be read"):
        _ = row.record

"""Schedule times and priorities."""

from datetime import UTC, datetime, timedelta

import pytest
from django_tasks_cloud_tasks.core.scheduling import HORIZON, queue_for, schedule_time
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, tzinfo=UTC)
THRESHOLDS = {50: "{queue}-urgent", 90: "{queue}-alarm", -50: "{queue}-bulk", -90: "night"}


@pytest.mark.parametrize("run_after", [None, NOW, NOW - timedelta(days=1)])
def test_a_task_that_is_due_has_no_schedule_time(run_after: datetime | None) -> None:
    assert schedule_time(run_after, now=NOW) is None


def test_a_task_that_is_due_beyond_the_horizon_is_scheduled_an_hour_before_it() -> None:
    near = NOW + HORIZON - timedelta(minutes=5)  # The clock of Cloud Tasks may be behind.
    assert schedule_time(near, now=NOW) == near
    for far in (timedelta(microseconds=1), timedelta(days=700)):
        assert schedule_time(near + far, now=NOW) == NOW + timedelta(hours=719)


@pytest.mark.parametrize(
    ("priority", "queue"),
    [
        (100, "mail-alarm"),
        (90, "mail-alarm"),
        (89, "mail-urgent"),
        (50, "mail-urgent"),
        (49, "mail"),
        (0, "mail"),
        (-49, "mail"),
        (-50, "mail-bulk"),
        (-89, "mail-bulk"),
        (-90, "night"),
        (-100, "night"),
    ],
)
def test_the_reached_threshold_furthest_from_zero_chooses_the_queue(
    priority: int, queue: str
) -> None:
    assert queue_for("mail", priority=priority, thresholds=THRESHOLDS) == queue


@given(st.integers(-100, 100))
def test_priority_has_no_effect_without_thresholds(priority: int) -> None:
    assert queue_for("mail", priority=priority, thresholds={}) == "mail"

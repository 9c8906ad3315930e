"""SCHEDULES: what is accepted, the ticks, and which tick is enqueued."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest
from django_tasks_cloud_tasks.core.schedules import (
    Begin,
    Cron,
    Every,
    Fire,
    Rhythm,
    Schedule,
    ScheduleState,
    Tick,
    called_for,
    due,
    due_at,
    latest_tick,
    needs_relay,
    next_tick,
    paused,
    read_schedules,
    resumed,
    ticks,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
REPORT = Schedule(name="report", task_path="shop.tasks.report", rhythm=Cron("0 3 * * *", BERLIN))


def test_a_schedule_is_read() -> None:
    read = read_schedules(
        {
            "nightly-report": {
                "task": "shop.tasks.report",
                "cron": "0 3 * * *",
                "time_zone": BERLIN,
                "args": [1],
                "kwargs": {"a": 2},
                "queue_name": "mail",
                "priority": 5,
            },
            "poll": {"task": "shop.tasks.poll", "every": timedelta(minutes=5)},
        }
    )
    assert read == {
        "nightly-report": Schedule(
            name="nightly-report",
            task_path="shop.tasks.report",
            rhythm=Cron("0 3 * * *", BERLIN),
            args=(1,),
            kwargs={"a": 2},
            queue_name="mail",
            priority=5,
        ),
        "poll": Schedule(name="poll", task_path="shop.tasks.poll", rhythm=Every(5 * MINUTE)),
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "a mapping from names to dicts"),
        ({"night report": {}}, r"hyphens and underscores \('night report' is not\)"),
        ({"a": []}, r"a mapping to dicts \('a' has \[\]\)"),
        ({"a": {"crom": "* * * * *"}}, r"with the keys task, cron, .* \('a' has 'crom'\)"),
        ({"a": {"task": "s.t"}}, r"with either cron or every \('a' is not\)"),
        ({"a": {"task": "s.t", "cron": "* * * * *", "every": 60}}, "with either cron or every"),
        ({"a": {"every": 60}}, r"with the key task \('a' has none\)"),
        ({"a": {"task": "report", "every": 60}}, r"the dotted path of a task.* has 'report'\)"),
        ({"a": {"task": "s.t", "cron": "0 3 * *"}}, r"five fields .* has '0 3 \* \*'\)"),
        ({"a": {"task": "s.t", "cron": "0 0 3 * * *"}}, "five fields"),
        ({"a": {"task": "s.t", "cron": "0 25 * * *"}}, "five fields"),
        ({"a": {"task": "s.t", "cron": "0 0 30 2 *"}}, "that has a tick"),
        ({"a": {"task": "s.t", "cron": "@daily"}}, "five fields"),
        ({"a": {"task": "s.t", "cron": "* * * * *", "time_zone": 1}}, "name of a time zone"),
        ({"a": {"task": "s.t", "every": 60, "time_zone": "UTC"}}, "every has no time_zone"),
        ({"a": {"task": "s.t", "every": 0}}, "from 1 second to 366 days"),
        ({"a": {"task": "s.t", "every": timedelta(days=400)}}, "from 1 second to 366 days"),
        ({"a": {"task": "s.t", "every": 60, "args": "ab"}}, "args is a list"),
        ({"a": {"task": "s.t", "every": 60, "kwargs": {1: 2}}}, "kwargs is a dict"),
        ({"a": {"task": "s.t", "every": 60, "queue_name": 5}}, "queue_name is a string"),
        ({"a": {"task": "s.t", "every": 60, "priority": 101}}, "a whole number from -100 to 100"),
    ],
    ids=repr,
)
def test_a_wrong_value_is_named_with_its_schedule(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_schedules(value)


def local(rhythm: Rhythm, zone: str, day: str, days: int = 1) -> list[str]:
    """Return the ticks of local days, as local times with their offset from UTC."""
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    end = (begin + timedelta(days=days)).astimezone(UTC)
    found: list[str] = []
    for tick in ticks(rhythm, after=begin.astimezone(UTC) - MINUTE / 60, zone=ZoneInfo(zone)):
        if tick >= end:
            return found
        found.append(f"{tick.astimezone(ZoneInfo(zone)):%H:%M%z}")
    raise AssertionError


@pytest.mark.parametrize(
    ("zone", "day", "expression", "found"),
    [
        # The hour from 2 to 3 does not exist.
        (BERLIN, "2026-03-29", "30 2 * * *", ["03:00+0200"]),
        (BERLIN, "2026-03-29", "0 3 * * *", ["03:00+0200"]),
        (NEW_YORK, "2026-03-08", "30 2 * * *", ["03:00-0400"]),
        # The hour from 2 to 3 comes twice, in New York that from 1 to 2.
        (BERLIN, "2026-10-25", "30 2 * * *", ["02:30+0200"]),
        (BERLIN, "2026-10-25", "0 3 * * *", ["03:00+0100"]),
        (NEW_YORK, "2026-11-01", "30 1 * * *", ["01:30-0400"]),
    ],
)
def test_a_fixed_time_ticks_once_when_the_clocks_change(
    zone: str, day: str, expression: str, found: list[str]
) -> None:
    assert local(Cron(expression, zone), zone, day) == found


@pytest.mark.parametrize(
    ("zone", "day", "count"),
    [(BERLIN, "2026-03-29", 23), (BERLIN, "2026-10-25", 25), (NEW_YORK, "2026-11-01", 25)],
)
def test_an_hourly_schedule_follows_the_elapsed_time(zone: str, day: str, count: int) -> None:
    assert len(local(Cron("30 * * * *", zone), zone, day)) == count


EXPRESSIONS = (
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "0 0 1 * *",
    "15 1,2,3 * * 0",
    "0 12 29 2 *",
)
RHYTHMS = st.one_of(
    st.builds(Cron, st.sampled_from(EXPRESSIONS), st.sampled_from([BERLIN, NEW_YORK, "UTC"])),
    st.builds(Every, st.integers(1, 10_000).map(lambda s: timedelta(seconds=s))),
)
MOMENTS = st.timedeltas(timedelta(), timedelta(days=365)).map(lambda after: NOW + after)


def zone_of(rhythm: Rhythm) -> ZoneInfo:
    return ZoneInfo(rhythm.time_zone if isinstance(rhythm, Cron) else "UTC")


@given(RHYTHMS, MOMENTS)
def test_ticks_are_in_order_and_later_than_the_start(rhythm: Rhythm, start: datetime) -> None:
    found = list(islice(ticks(rhythm, after=start, zone=zone_of(rhythm)), 10))
    assert found[0] > start
    assert all(a < b for a, b in pairwise(found))
    assert next_tick(rhythm, after=start, zone=zone_of(rhythm)) == found[0]


@given(RHYTHMS, MOMENTS, st.integers(0, 9))
def test_the_latest_tick_is_the_last_one_before(rhythm: Rhythm, start: datetime, n: int) -> None:
    zone = zone_of(rhythm)
    found = list(islice(ticks(rhythm, after=start, zone=zone), 11))
    until = found[n] + (found[n + 1] - found[n]) / 2
    assert latest_tick(rhythm, after=start, until=until, zone=zone) == found[n]
    assert latest_tick(rhythm, after=start, until=found[n], zone=zone) == found[n]
    assert latest_tick(rhythm, after=found[n], until=until, zone=zone) is None


def test_the_latest_tick_after_years_is_found() -> None:
    years_ago = NOW - timedelta(days=2000)
    for expression in ("* * * * *", "0 * * * *", "0 12 25 11 *"):
        found = latest_tick(Cron(expression), after=years_ago, until=NOW, zone=UTC)
        assert found == NOW.replace(second=0)


def begun(schedule: Schedule = REPORT, at: datetime = NOW) -> ScheduleState:
    return ScheduleState(name=schedule.name, rhythm=str(schedule.rhythm), ticked_at=at)


def decide(state: ScheduleState | None, now: datetime, schedule: Schedule = REPORT) -> object:
    return due(schedule, state, now=now, zone=ZoneInfo(BERLIN))


def test_a_new_schedule_does_not_tick_for_the_past() -> None:
    assert decide(None, NOW) == Begin(begun())
    assert decide(begun(), NOW) is None


def test_the_first_call_of_cloud_scheduler_can_be_for_the_first_tick() -> None:
    tick = datetime(2026, 11, 26, 2, tzinfo=UTC)
    late = tick + timedelta(seconds=2)
    zone = ZoneInfo(BERLIN)
    assert due(REPORT, None, now=late, zone=zone, at=tick) == Fire(tick, begun(at=tick))
    before = tick - 2 * MINUTE
    assert due(REPORT, None, now=before, zone=zone, at=before) == Begin(begun(at=before - MINUTE))
    after = tick + MINUTE
    assert due(REPORT, None, now=after, zone=zone, at=after) == Begin(begun(at=tick))


def test_missed_ticks_are_made_up_once() -> None:
    four_days_later = NOW + timedelta(days=4)
    latest = datetime(2026, 11, 29, 2, tzinfo=UTC)
    then = attrs.evolve(begun(), ticked_at=latest)
    assert decide(begun(), four_days_later) == Fire(latest, then)
    assert decide(then, four_days_later) is None


def test_a_schedule_with_another_rhythm_begins_anew() -> None:
    other = attrs.evolve(REPORT, rhythm=Cron("0 4 * * *", BERLIN))
    later = NOW + timedelta(days=2)
    assert decide(begun(), later, other) == Begin(begun(other, later))
    begin = decide(paused(begun()), later, other)
    assert begin == Begin(paused(begun(other, later)))


def test_the_ticks_during_a_pause_are_left_out() -> None:
    later = NOW + timedelta(days=2)
    state = paused(begun())
    assert decide(state, later) is None
    assert resumed(state, now=later) == begun(at=later)
    assert decide(resumed(state, now=later), later + MINUTE) is None


def test_a_call_of_cloud_scheduler_stands_for_one_minute() -> None:
    poll = attrs.evolve(REPORT, rhythm=Cron("*/5 * * * *"))
    tick = NOW.replace(second=0)
    assert due_at(poll, at=tick, zone=UTC) == tick
    assert due_at(poll, at=tick + MINUTE, zone=UTC) is None
    assert due_at(poll, at=tick - MINUTE / 60, zone=UTC) is None


@pytest.mark.parametrize(
    ("header", "at"),
    [
        ("2026-11-25T11:58:00Z", datetime(2026, 11, 25, 11, 58, tzinfo=UTC)),
        ("2026-11-25T11:58:00.123456Z", datetime(2026, 11, 25, 11, 58, 0, 123456, UTC)),
        ("2026-11-25T11:58:00", NOW),
        ("2026-11-25T09:58:00Z", NOW),
        ("2026-11-26T11:58:00Z", NOW),
        ("0001-01-01T00:00:00+23:59", NOW),
        ("soon", NOW),
        ("", NOW),
    ],
)
def test_a_call_says_which_time_it_stands_for(header: str, at: datetime) -> None:
    assert called_for({"HTTP_X_CLOUDSCHEDULER_SCHEDULETIME": header}, now=NOW) == at


def test_the_id_of_a_tick_depends_on_the_site_the_schedule_and_the_tick() -> None:
    tick = Tick("report", NOW)
    same = Tick("report", NOW.astimezone(ZoneInfo(BERLIN)))
    ids = {
        tick.task_id(url="https://a/"),
        same.task_id(url="https://a/"),
        tick.task_id(url="https://b/"),
        Tick("other", NOW).task_id(url="https://a/"),
        Tick("report", NOW + MINUTE).task_id(url="https://a/"),
    }
    assert len(ids) == 4
    assert all(len(one) == 32 for one in ids)


def test_only_a_relay_can_tick_more_than_once_a_minute() -> None:
    assert needs_relay(Every(MINUTE / 2))
    assert not needs_relay(Every(MINUTE))
    assert not needs_relay(Cron("* * * * *"))

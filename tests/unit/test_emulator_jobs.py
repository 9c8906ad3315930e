"""Jobs of Cloud Scheduler: schedules and transitions, without input, output or clock."""

from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

import attrs
import pytest
from django_tasks_cloud_tasks.emulator.errors import ApiError, Status, unavailable
from django_tasks_cloud_tasks.emulator.state import job_service
from django_tasks_cloud_tasks.emulator.state.job_service import JobService
from django_tasks_cloud_tasks.emulator.state.jobs import Job, JobAttempt, JobConfig, JobState
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.state.model import AttemptResult
from django_tasks_cloud_tasks.emulator.state.retries import RetryPolicy
from django_tasks_cloud_tasks.emulator.state.schedules import Schedule, ScheduleError
from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget, OidcToken
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

LOCATION = "projects/p/locations/l"
JOB = f"{LOCATION}/jobs/j"
START = 1_767_225_600 * SECOND  # midnight at the beginning of 2026, in UTC
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
TARGET = HttpTarget(url="http://localhost/")


# Schedules


def at(zone: str, year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    """Return a local time in nanoseconds since the epoch. Of two such times it is the first."""
    local = datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone))
    return int(local.timestamp()) * SECOND


def ticks(schedule: Schedule, start: int, end: int) -> list[str]:
    """Return the local times of all ticks after `start` that are not after `end`."""
    found = []
    moment = schedule.after(start)
    while moment is not None and moment <= end:
        found.append(schedule.local(moment).isoformat(timespec="minutes"))
        moment = schedule.after(moment)
    return found


BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


@pytest.mark.parametrize(
    ("zone", "expression", "night", "expected"),
    [
        # The hour from two to three does not exist. A job at a fixed time of it runs at its end.
        (BERLIN, "30 2 * * *", (2026, 3, 29), ["2026-03-29T03:00+02:00"]),
        (NEW_YORK, "30 2 * * *", (2026, 3, 8), ["2026-03-08T03:00-04:00"]),
        # It exists twice (in New York the hour from one to two). Such a job runs once.
        (BERLIN, "30 2 * * *", (2026, 10, 25), ["2026-10-25T02:30+02:00"]),
        (NEW_YORK, "30 1 * * *", (2026, 11, 1), ["2026-11-01T01:30-04:00"]),
        # An hourly job runs every hour of real time.
        (
            BERLIN,
            "30 * * * *",
            (2026, 3, 29),
            ["2026-03-29T00:30+01:00", "2026-03-29T01:30+01:00", "2026-03-29T03:30+02:00"],
        ),
        (
            NEW_YORK,
            "30 * * * *",
            (2026, 11, 1),
            [
                *("2026-11-01T00:30-04:00", "2026-11-01T01:30-04:00"),
                *("2026-11-01T01:30-05:00", "2026-11-01T02:30-05:00", "2026-11-01T03:30-05:00"),
            ],
        ),
    ],
)
def test_a_schedule_follows_its_time_zone_through_the_nights_when_clocks_change(
    zone: str, expression: str, night: tuple[int, int, int], expected: list[str]
) -> None:
    schedule = Schedule.checked(expression, zone)
    assert ticks(schedule, at(zone, *night) - 1, at(zone, *night, 4) - 1) == expected


def test_a_tick_is_never_before_the_moment_that_is_asked_for() -> None:
    second_run = at(BERLIN, 2026, 10, 25, 2, 15) + HOUR
    expected = at(BERLIN, 2026, 10, 26, 2, 30)
    assert Schedule("30 2 * * *", BERLIN).after(second_run) == expected


def test_a_daily_job_has_as_many_ticks_as_the_month_has_days() -> None:
    schedule = Schedule.checked("0 6 * * *", BERLIN)
    assert len(ticks(schedule, at(BERLIN, 2026, 3, 1), at(BERLIN, 2026, 4, 1))) == 31


def test_a_schedule_without_more_ticks_has_none() -> None:
    assert Schedule.checked("0 0 29 2 *", "UTC").after(START) == at("UTC", 2028, 2, 29)
    the_last_minute = 2**63 - 1 - MINUTE
    assert Schedule("0 0 1 1 *", "UTC").after(the_last_minute) is None


@pytest.mark.parametrize("zone", ["UTC", "utc", "Etc/UTC", "America/Argentina/Buenos_Aires"])
def test_zones_of_the_tz_database_are_valid(zone: str) -> None:
    assert Schedule.checked("0 3 * * *", zone).after(START) is not None


@pytest.mark.parametrize(
    ("expression", "zone", "why"),
    [
        ("* * * *", "UTC", "has 5 fields"),
        ("* * * * * *", "UTC", "has 5 fields"),
        ("60 * * * *", "UTC", "Bad minute"),
        ("* 24 * * *", "UTC", "Bad hour"),
        ("* * 31 2 *", "UTC", "Bad day-of-month"),
        ("* * * JANUARY *", "UTC", "Bad month"),
        ("* * * * 8", "UTC", "Bad day-of-week"),
        ("* * * * *", "Europe/Atlantis", "no time zone 'Europe/Atlantis'"),
        ("* * * * *", "../../etc/passwd", "no time zone"),
        ("* * * * *", "Europe", "no time zone"),
    ],
)
def test_an_invalid_schedule_is_refused_with_the_reason(
    expression: str, zone: str, why: str
) -> None:
    with pytest.raises(ScheduleError, match=why):
        Schedule.checked(expression, zone)


EXPRESSIONS = ["*/7 * * * *", "0 * * * *", "30 2 * * *", "15 1-3 * * MON", "0 0 1 * *", "5 4 1 1 *"]


@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(["UTC", BERLIN, NEW_YORK]),
    start=st.integers(0, 366 * 24 * 60),
    wait=st.one_of(st.integers(0, 3 * 24 * 60), st.integers(0, 400 * 24 * 60)),
)
def test_the_latest_tick_is_the_last_one_that_has_passed(
    expression: str, zone: str, start: int, wait: int
) -> None:
    schedule = Schedule.checked(expression, zone)
    first = schedule.after(START + start * MINUTE)
    assert first is not None
    moment = first + wait * MINUTE
    latest = schedule.latest(first, moment)
    following = schedule.after(latest)
    assert first <= latest <= moment
    assert following is not None
    assert following > moment
    assert latest == first or schedule.after(latest - 1) == latest


# Jobs


def config(
    expression: str = "0 * * * *",
    *,
    zone: str = "UTC",
    retries: RetryPolicy | None = None,
    target: HttpTarget = TARGET,
) -> JobConfig:
    made = JobConfig(target=target, schedule=Schedule.checked(expression, zone))
    return made if retries is None else attrs.evolve(made, retries=retries)


def service(made: JobConfig | None = None) -> JobService:
    of = JobService(new_id=lambda: "new")
    of.create(LOCATION, "j", made or config(), START)
    return of


def begin(of: JobService, now: int) -> JobAttempt:
    attempt = of.dispatch(JOB, now)
    assert attempt is not None
    return attempt


def refused(call: Callable[[], object]) -> Status:
    with pytest.raises(ApiError) as raised:
        call()
    return raised.value.status


def test_a_job_is_executed_once_at_each_tick() -> None:
    of = service()
    assert of.next_event(JOB) == START + HOUR
    assert of.dispatch(JOB, START + HOUR - 1) is None
    for hour in range(1, 4):
        now = START + hour * HOUR
        attempt = begin(of, now)
        assert (attempt.number, attempt.schedule_time) == (1, now)
        assert of.dispatch(JOB, now) is None
        of.finish(attempt, 200, now + SECOND)
        assert of.next_event(JOB) == now + HOUR
    job = of.job(JOB)
    assert (job.last_attempt_time, job.last_status) == (START + 3 * HOUR, 200)


def test_the_headers_are_those_of_cloud_scheduler() -> None:
    of = service(config(zone=BERLIN))
    assert begin(of, START + HOUR).headers() == {
        "User-Agent": "Google-Cloud-Scheduler",
        "X-CloudScheduler": "true",
        "X-CloudScheduler-JobName": "j",
        "X-CloudScheduler-ScheduleTime": "2026-01-01T02:00:00+01:00",
    }


def test_the_audience_of_a_token_is_the_url_unless_it_is_set() -> None:
    for audience, expected in (("", TARGET.url), ("mine", "mine")):
        token = OidcToken(email="a@b", audience=audience)
        of = service(config(target=attrs.evolve(TARGET, token=token)))
        sent = begin(of, START + HOUR).target().token
        assert sent == OidcToken(email="a@b", audience=expected)


def test_without_retries_a_failed_job_waits_for_its_next_tick() -> None:
    of = service()
    of.finish(begin(of, START + HOUR), 500, START + HOUR)
    assert of.next_event(JOB) == START + 2 * HOUR
    assert of.job(JOB).last_status == 500


@pytest.mark.parametrize(
    ("retries", "waits"),
    [
        (RetryPolicy(max_attempts=4, min_backoff=5), [5, 10, 20]),
        (RetryPolicy(max_attempts=6, min_backoff=10, max_doublings=2), [10, 20, 40, 80, 120]),
        (RetryPolicy(max_attempts=6, min_backoff=10, max_backoff=25), [10, 20, 25, 25, 25]),
        # Without a number of retries, only the duration ends them. With both, both must be reached.
        (RetryPolicy(max_attempts=1, max_retry_duration=16, min_backoff=5), [5, 10, 20]),
        (RetryPolicy(max_attempts=2, max_retry_duration=16, min_backoff=5), [5, 10, 20]),
    ],
)
def test_a_failed_attempt_is_retried_by_the_retry_policy(
    retries: RetryPolicy, waits: list[int]
) -> None:
    of = service(config("0 0 * * *", retries=retries))
    now = tick = START + 24 * HOUR
    for number, wait in enumerate(waits, 1):
        attempt = begin(of, now)
        assert (attempt.number, attempt.schedule_time) == (number, tick)
        of.finish(attempt, AttemptResult.NO_CONNECTION, now)
        now += wait * SECOND
        assert of.next_event(JOB) == of.job(JOB).schedule_time == now
    of.finish(begin(of, now), AttemptResult.NO_CONNECTION, now)
    assert of.next_event(JOB) == tick + 24 * HOUR


def test_a_success_ends_the_retries() -> None:
    of = service(config(retries=RetryPolicy(max_attempts=6, min_backoff=5)))
    now = START + HOUR
    of.finish(begin(of, now), 503, now)
    of.finish(begin(of, now + 5 * SECOND), 204, now + 5 * SECOND)
    assert of.next_event(JOB) == now + HOUR
    assert of.job(JOB).last_status == 204


def test_an_execution_begins_only_after_the_previous_one_with_its_retries() -> None:
    of = service(config("* * * * *", retries=RetryPolicy(max_attempts=2, min_backoff=600)))
    tick = START + MINUTE
    first = begin(of, tick)
    assert of.dispatch(JOB, tick + 5 * MINUTE) is None
    of.finish(first, 500, tick + 5 * MINUTE)
    assert of.dispatch(JOB, tick + 14 * MINUTE) is None, "it waits for the retry"
    of.finish(begin(of, tick + 15 * MINUTE), 200, tick + 15 * MINUTE + SECOND)
    delayed = begin(of, tick + 15 * MINUTE + SECOND)
    assert delayed.schedule_time == tick + 15 * MINUTE, "the latest tick"
    of.finish(delayed, 200, tick + 15 * MINUTE + SECOND)
    assert of.next_event(JOB) == tick + 16 * MINUTE


def test_after_a_break_only_the_latest_tick_is_executed() -> None:
    of = service()
    now = START + 100 * 24 * HOUR + MINUTE
    attempt = begin(of, now)
    assert attempt.schedule_time == now - MINUTE
    of.finish(attempt, 200, now)
    assert of.next_event(JOB) == now - MINUTE + HOUR


def test_a_paused_job_is_not_executed_and_skips_its_ticks() -> None:
    of = service()
    job = of.pause(JOB, START + 5)
    assert (job.state, job.schedule_time) == (JobState.PAUSED, None)
    assert of.dispatch(JOB, START + 10 * HOUR) is None
    job = of.resume(JOB, START + 10 * HOUR)
    assert (job.state, job.schedule_time) == (JobState.ENABLED, START + 11 * HOUR)


def test_a_job_is_paused_and_resumed_only_once() -> None:
    of = service()
    assert refused(lambda: of.resume(JOB, START)) is Status.FAILED_PRECONDITION
    of.pause(JOB, START)
    assert refused(lambda: of.pause(JOB, START)) is Status.FAILED_PRECONDITION


def test_a_pause_ends_the_retries() -> None:
    of = service(config(retries=RetryPolicy(max_attempts=6)))
    of.finish(begin(of, START + HOUR), 500, START + HOUR)
    of.pause(JOB, START + HOUR)
    assert of.next_event(JOB) is None
    of.resume(JOB, START + HOUR)
    attempt = begin(of, START + 2 * HOUR)
    of.pause(JOB, START + 2 * HOUR)
    of.finish(attempt, 500, START + 2 * HOUR)
    assert of.next_event(JOB) is None
    assert of.job(JOB).execution is None


def test_a_job_runs_on_demand_also_while_it_is_paused() -> None:
    of = service(config(retries=RetryPolicy(max_attempts=2, min_backoff=5)))
    of.pause(JOB, START)
    attempt = of.run(JOB, START + 90)
    assert attempt.headers()["X-CloudScheduler-ScheduleTime"] == "2026-01-01T00:00:00+00:00"
    of.finish(attempt, 500, START + 90)
    assert of.next_event(JOB) is None
    assert of.job(JOB).last_status == 500
    of.resume(JOB, START + 90)
    of.finish(of.run(JOB, START + SECOND), 500, START + SECOND)
    assert of.next_event(JOB) == START + 6 * SECOND, "an enabled job retries"


def test_a_job_that_runs_already_can_be_run_beside() -> None:
    of = service(config(retries=RetryPolicy(max_attempts=2, min_backoff=5)))
    now = START + HOUR
    scheduled = begin(of, now)
    beside = of.run(JOB, now + SECOND)
    of.finish(beside, 404, now + 2 * SECOND)
    assert of.next_event(JOB) is None, "the execution still runs"
    assert of.job(JOB).last_status == 404
    of.finish(scheduled, 500, now + 3 * SECOND)
    assert of.next_event(JOB) == now + 8 * SECOND


def test_a_changed_schedule_applies_at_once() -> None:
    of = service()
    job = of.update(JOB, config("30 * * * *"), START + MINUTE)
    assert job.schedule_time == START + 30 * MINUTE
    assert job.user_update_time == START + MINUTE
    of.pause(JOB, START)
    assert of.update(JOB, config("45 * * * *"), START).schedule_time is None
    assert of.resume(JOB, START).schedule_time == START + 45 * MINUTE


def test_another_change_keeps_the_next_tick() -> None:
    of = service()
    changed = attrs.evolve(config(), description="hourly")
    assert of.update(JOB, changed, START + 2 * HOUR).schedule_time == START + HOUR


def test_a_deleted_job_is_gone_and_its_attempt_has_no_effect() -> None:
    of = service()
    attempt = begin(of, START + HOUR)
    of.delete(JOB)
    assert refused(lambda: of.job(JOB)) is Status.NOT_FOUND
    assert refused(lambda: of.delete(JOB)) is Status.NOT_FOUND
    again = of.create(LOCATION, "j", config(), START + HOUR)
    of.finish(attempt, 500, START + HOUR)
    assert of.job(JOB) == again


def test_names_are_unique_and_chosen_if_none_is_given() -> None:
    of = service()
    assert refused(lambda: of.create(LOCATION, "j", config(), START)) is Status.ALREADY_EXISTS
    assert of.create(LOCATION, None, config(), START).name == f"{LOCATION}/jobs/new"
    of.create("projects/p/locations/other", "j", config(), START)
    assert [job.job_id for job in of.jobs(LOCATION)] == ["j", "new"]
    assert len(of.jobs()) == 3
    of.reset()
    assert of.jobs() == []


def test_a_location_has_a_limited_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_service, "MOST_JOBS", 2)
    of = service()
    of.create(LOCATION, "k", config(), START)
    with pytest.raises(ApiError, match="at most 2 jobs") as raised:
        of.create(LOCATION, "l", config(), START)
    assert raised.value.status is Status.RESOURCE_EXHAUSTED
    of.create("projects/p/locations/other", "l", config(), START)


def test_an_attempt_that_was_in_progress_when_the_emulator_ended_has_failed() -> None:
    of = service(config(retries=RetryPolicy(max_attempts=2, min_backoff=5)))
    begin(of, START + HOUR)
    restored = JobService(new_id=lambda: "new")
    restored.restore(of.job(JOB), START + HOUR + MINUTE)
    assert restored.next_event(JOB) == START + HOUR + MINUTE + 5 * SECOND
    assert restored.job(JOB).last_status == 503


# The journal


@attrs.define
class Disk:
    """A journal of jobs. It refuses changes while it is full."""

    full: bool = False
    jobs: dict[str, Job] = attrs.field(factory=dict)

    def job_changed(self, job: Job) -> None:
        self._check()
        self.jobs[job.name] = job

    def job_removed(self, name: str) -> None:
        self._check()
        del self.jobs[name]

    def _check(self) -> None:
        if self.full:
            raise unavailable("the disk is full")


ASKED: dict[str, Callable[[JobService], object]] = {
    "create": lambda of: of.create(LOCATION, "k", config(), START),
    "update": lambda of: of.update(JOB, config("* * * * *"), START),
    "delete": lambda of: of.delete(JOB),
    "pause": lambda of: of.pause(JOB, START),
    "run": lambda of: of.run(JOB, START),
    "dispatch": lambda of: of.dispatch(JOB, START + HOUR),
}


@pytest.mark.parametrize("what", ASKED)
def test_a_change_that_the_journal_refuses_does_not_happen(what: str) -> None:
    disk = Disk()
    of = JobService(new_id=lambda: "new", journal=disk)
    of.create(LOCATION, "j", config(), START)
    before = of.jobs()
    disk.full = True
    for _ in range(2):
        assert refused(lambda: ASKED[what](of)) is Status.UNAVAILABLE
        assert of.jobs() == before
    disk.full = False
    ASKED[what](of)
    assert of.jobs() != before
    assert sorted(disk.jobs.values(), key=lambda job: job.name) == of.jobs()


def test_an_attempt_ends_although_the_journal_refuses_and_is_written_later() -> None:
    disk = Disk()
    of = JobService(new_id=lambda: "new", journal=disk)
    of.create(LOCATION, "j", config(), START)
    attempt = begin(of, START + HOUR)
    disk.full = True
    of.finish(attempt, 200, START + HOUR)
    assert of.job(JOB).execution is None
    assert refused(lambda: of.dispatch(JOB, START + 2 * HOUR)) is Status.UNAVAILABLE
    disk.full = False
    of.catch_up()
    assert disk.jobs == {JOB: of.job(JOB)}


# Random events


class AnyOrderOfEvents(RuleBasedStateMachine):
    """A test with random events: a tick is executed at most once, and never during another one."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.of = JobService(new_id=lambda: "new", journal=self.disk)
        retries = RetryPolicy(max_attempts=3, min_backoff=5)
        self.of.create(LOCATION, "j", config("*/5 * * * *", retries=retries), START)
        self.now = START
        self.scheduled: JobAttempt | None = None
        self.demanded: list[JobAttempt] = []
        self.executed: list[int] = []
        self.resumed_at = START

    @rule(seconds=st.one_of(st.floats(0, 20), st.floats(0, 2000)))
    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    @rule()
    def dispatch(self) -> None:
        attempt = self.of.dispatch(JOB, self.now)
        if attempt is None:
            return
        assert self.scheduled is None, "two attempts at once"
        assert self.of.job(JOB).state is JobState.ENABLED
        assert attempt.schedule_time <= self.now
        if attempt.number == 1:
            tick = attempt.schedule_time
            assert tick % (5 * MINUTE) == 0
            assert self.now - tick < 5 * MINUTE, "not the latest tick"
            assert tick > self.resumed_at, "a tick from before the job was resumed"
            self.executed.append(tick)
        assert attempt.number <= 3
        self.scheduled = attempt

    @rule(result=st.sampled_from([200, 404, 503, AttemptResult.TIMEOUT]))
    def finish(self, result: int | AttemptResult) -> None:
        if self.scheduled:
            self.of.finish(self.scheduled, result, self.now)
            self.scheduled = None

    @rule()
    def demand(self) -> None:
        attempt = self.of.run(JOB, self.now)
        execution = self.of.job(JOB).execution
        if execution is not None and execution.running == attempt.attempt_id:
            assert self.scheduled is None
            self.scheduled = attempt
        else:
            self.demanded.append(attempt)

    @rule(result=st.sampled_from([200, 500]))
    def finish_demanded(self, result: int) -> None:
        if self.demanded:
            before = self.of.job(JOB)
            self.of.finish(self.demanded.pop(), result, self.now)
            assert attrs.evolve(before, last_status=result) == self.of.job(JOB)

    @rule()
    def pause_or_resume(self) -> None:
        if self.of.job(JOB).state is JobState.ENABLED:
            self.of.pause(JOB, self.now)
        else:
            self.of.resume(JOB, self.now)
            self.resumed_at = self.now

    @rule()
    def restart(self) -> None:
        """The emulator is killed, and started again with its state file."""
        restored = JobService(new_id=lambda: "new", journal=self.disk)
        restored.restore(self.disk.jobs[JOB], self.now)
        self.of, self.scheduled, self.demanded = restored, None, []

    @invariant()
    def no_tick_is_executed_twice(self) -> None:
        assert self.executed == sorted(set(self.executed))

    @invariant()
    def the_journal_knows_the_job(self) -> None:
        stored, job = self.disk.jobs[JOB], self.of.job(JOB)
        assert stored.next_tick == job.next_tick
        assert stored.state is job.state

    @invariant()
    def an_enabled_job_always_continues(self) -> None:
        enabled = self.of.job(JOB).state is JobState.ENABLED
        waits = self.of.next_event(JOB) is not None
        assert waits == (enabled and self.scheduled is None)


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase

"""The emulator as Cloud Scheduler, over gRPC, REST and HTTP."""

import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest
from django_tasks_cloud_tasks.core.errors import ConfigurationError
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.errors import unavailable
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.jobs import JobConfig
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.state.schedules import Schedule
from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget
from django_tasks_cloud_tasks.emulator.storage import Storage
from django_tasks_cloud_tasks.emulator.ways_out.chaos import Chaos
from django_tasks_cloud_tasks.testing import EmulatorInHand
from google.auth import jwt
from google.auth.credentials import AnonymousCredentials
from google.cloud import scheduler_v1
from google.cloud.scheduler_v1.services.cloud_scheduler.transports import (
    CloudSchedulerRestTransport,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.emulator_program import LOOPBACK, emulator_program
from tests.integration.grpc_calls import client_over, scheduler_over
from tests.integration.http_calls import ask, post
from tests.integration.http_servers import QuietRequestHandler, handler, http_server, recorder
from tests.integration.refusals import LOCATION, QUEUE, START, refusal

JOB = f"{LOCATION}/jobs/relay"
PATH = f"/v1/{JOB}"
NOWHERE = "http://127.0.0.1:1/"
HOUR = 3600
ENABLED = scheduler_v1.Job.State.ENABLED
PAUSED = scheduler_v1.Job.State.PAUSED


@pytest.fixture(params=["grpc", "rest"])
def scheduler(request: pytest.FixtureRequest, emulator: BackgroundEmulator) -> Iterator[Any]:
    """The official client of Cloud Scheduler, over gRPC and over REST."""
    if request.param == "rest":
        anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
        transport = CloudSchedulerRestTransport(
            host=emulator.address, url_scheme="http", credentials=anonymous
        )
        with scheduler_v1.CloudSchedulerClient(transport=transport) as rest:
            yield rest
        return
    with grpc.insecure_channel(emulator.address) as channel:
        yield scheduler_over(channel)


@contextmanager
def over_grpc(background: BackgroundEmulator) -> Iterator[Any]:
    with grpc.insecure_channel(background.address) as channel:
        yield scheduler_over(channel)


def job(url: str = NOWHERE, **fields: Any) -> dict[str, Any]:
    """Return the fields of a job that is due at every full hour."""
    return {"name": JOB, "schedule": "0 * * * *", "http_target": {"uri": url}} | fields


def advance(background: BackgroundEmulator, seconds: float) -> None:
    background.call(background.emulator.advance(seconds))


# The methods


def test_a_job_is_created_read_changed_and_deleted(scheduler: Any) -> None:
    made = scheduler.create_job(parent=LOCATION, job=job(description="hourly"))
    assert (made.name, made.state, made.time_zone) == (JOB, ENABLED, "UTC")
    read = scheduler.get_job(name=JOB)
    assert read.schedule_time.timestamp() == START / SECOND + HOUR
    changed = scheduler.update_job(
        job={"name": JOB, "schedule": "30 * * * *", "description": "not in the mask"},
        update_mask=FieldMask(paths=["schedule"]),
    )
    assert (changed.schedule, changed.description) == ("30 * * * *", "hourly")
    assert changed.schedule_time.timestamp() == START / SECOND + HOUR / 2
    assert scheduler.pause_job(name=JOB).state == PAUSED
    assert scheduler.resume_job(name=JOB).state == ENABLED
    scheduler.delete_job(name=JOB)
    for call in (scheduler.get_job, scheduler.delete_job, scheduler.run_job, scheduler.pause_job):
        assert refusal(partial(call, name=JOB)) == ("NOT_FOUND", "Job not found.")


def test_jobs_are_listed_in_pages(scheduler: Any) -> None:
    names = [f"{LOCATION}/jobs/job-{number}" for number in range(5)]
    for name in names:
        scheduler.create_job(parent=LOCATION, job=job(name=name))
    elsewhere = "projects/p/locations/other"
    unnamed = scheduler.create_job(parent=elsewhere, job=job(name=""))
    assert unnamed.name.startswith(f"{elsewhere}/jobs/")
    first = next(scheduler.list_jobs(request={"parent": LOCATION, "page_size": 2}).pages)
    assert [found.name for found in first.jobs] == names[:2]
    assert first.next_page_token
    listed = scheduler.list_jobs(request={"parent": LOCATION, "page_size": 2})
    assert [found.name for found in listed] == names
    bad = {"parent": LOCATION, "page_token": "bad"}
    assert refusal(lambda: list(scheduler.list_jobs(request=bad)))[0] == "INVALID_ARGUMENT"


def test_an_update_without_a_mask_replaces_the_whole_job(scheduler: Any) -> None:
    retries = {"retry_count": 3, "min_backoff_duration": Duration(seconds=7)}
    scheduler.create_job(parent=LOCATION, job=job(description="old", retry_config=retries))
    changed = scheduler.update_job(job=job(schedule="5 * * * *"))
    assert (changed.description, changed.schedule) == ("", "5 * * * *")
    assert changed.retry_config.retry_count == 0
    assert changed.retry_config.min_backoff_duration == timedelta(seconds=5)


def test_a_mask_can_name_a_part_of_the_target(scheduler: Any) -> None:
    token = {"service_account_email": "a@b", "audience": "c"}
    target = {"uri": NOWHERE, "headers": {"X-Old": "1"}, "body": b"old", "oidc_token": token}
    scheduler.create_job(parent=LOCATION, job=job(http_target=target))
    wanted = {"name": JOB, "http_target": {"headers": {"X-New": "2"}, "body": b"new"}}
    changed = scheduler.update_job(job=wanted, update_mask={"paths": ["http_target.headers"]})
    assert "X-Old" not in changed.http_target.headers
    assert changed.http_target.headers["X-New"] == "2"
    assert changed.http_target.body == b"old"
    assert changed.http_target.oidc_token.audience == "c"
    oauth = {"name": JOB, "http_target": {"oauth_token": {"service_account_email": "x@y"}}}
    changed = scheduler.update_job(job=oauth, update_mask={"paths": ["http_target.oauth_token"]})
    assert changed.http_target.oauth_token.service_account_email == "x@y"
    assert not changed.http_target.oidc_token.service_account_email
    no_account = {"paths": ["http_target.oauth_token.service_account_email"]}
    changed = scheduler.update_job(job={"name": JOB}, update_mask=no_account)
    assert "oauth_token" not in changed.http_target


def test_a_mask_with_an_unknown_field_is_refused(scheduler: Any) -> None:
    scheduler.create_job(parent=LOCATION, job=job())
    mask = {"paths": ["http_target.colour"]}
    status, message = refusal(lambda: scheduler.update_job(job=job(), update_mask=mask))
    assert status == "INVALID_ARGUMENT"
    assert "http_target.colour" in message


def test_a_backoff_of_zero_means_the_default(scheduler: Any) -> None:
    zero = Duration()
    fields = {"min_backoff_duration": zero, "max_backoff_duration": zero}
    retries = scheduler.create_job(parent=LOCATION, job=job(retry_config=fields)).retry_config
    assert retries.min_backoff_duration == timedelta(seconds=5)
    assert retries.max_backoff_duration == timedelta(hours=1)


def test_a_job_that_does_not_exist_is_not_updated(scheduler: Any) -> None:
    assert refusal(lambda: scheduler.update_job(job=job()))[0] == "NOT_FOUND"


def test_a_name_can_be_used_again_after_it_is_deleted(scheduler: Any) -> None:
    scheduler.create_job(parent=LOCATION, job=job())
    taken = refusal(lambda: scheduler.create_job(parent=LOCATION, job=job()))
    assert taken == ("ALREADY_EXISTS", f"Job {JOB} already exists.")
    scheduler.delete_job(name=JOB)
    scheduler.create_job(parent=LOCATION, job=job())


def test_a_job_is_paused_or_resumed_only_in_the_other_state(scheduler: Any) -> None:
    scheduler.create_job(parent=LOCATION, job=job())
    assert refusal(lambda: scheduler.resume_job(name=JOB))[0] == "FAILED_PRECONDITION"
    scheduler.pause_job(name=JOB)
    assert refusal(lambda: scheduler.pause_job(name=JOB))[0] == "FAILED_PRECONDITION"


def target(**fields: Any) -> dict[str, Any]:
    return {"http_target": {"uri": NOWHERE} | fields}


def retries(**fields: Any) -> dict[str, Any]:
    return {"retry_config": fields}


def seconds(number: int) -> Duration:
    return Duration(seconds=number)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "relay"}, "Job name must be formatted"),
        ({"name": f"{LOCATION}/jobs/not valid"}, "Job name must be formatted"),
        ({"name": f"{LOCATION}/jobs/{'x' * 501}"}, "Job name must be formatted"),
        ({"name": "projects/p/locations/other/jobs/j"}, "must start with the parent"),
        ({"description": "x" * 501}, "at most 500 characters"),
        ({"schedule": ""}, "Job.schedule is required"),
        ({"schedule": "* * * *"}, "has 5 fields"),
        ({"schedule": "61 * * * *"}, "Bad minute"),
        ({"time_zone": "Europe/Atlantis"}, "no time zone 'Europe/Atlantis'"),
        ({"http_target": None}, "Job.target is required"),
        (target(uri=""), "HttpTarget.uri is required"),
        (target(uri="ftp://example.com/"), "must start with 'http://'"),
        (target(uri="http://" + "x" * 2077), "at most 2083 characters"),
        (target(http_method="GET", body=b"x"), "POST, PUT or PATCH"),
        (target(headers={"bad name": "x"}), "invalid header"),
        (target(oidc_token={"audience": "a"}), "must have a serviceAccountEmail"),
        (target(body=b"x" * 1024 * 1024), "Job size too large"),
        ({"attempt_deadline": seconds(14)}, "between [15s, 30m]"),
        ({"attempt_deadline": seconds(1801)}, "between [15s, 30m]"),
        (retries(retry_count=6), "between 0 and 5"),
        (retries(retry_count=-1), "between 0 and 5"),
        (retries(max_doublings=-1), "maxDoublings cannot be negative"),
        (retries(max_retry_duration=seconds(-1)), "maxRetryDuration cannot be negative"),
        (retries(min_backoff_duration=seconds(-1)), "minBackoffDuration cannot be negative"),
        (retries(min_backoff_duration=seconds(9), max_backoff_duration=seconds(8)), "less than or"),
    ],
)
def test_an_invalid_job_is_refused(scheduler: Any, fields: dict[str, Any], message: str) -> None:
    status, text = refusal(lambda: scheduler.create_job(parent=LOCATION, job=job(**fields)))
    assert status == "INVALID_ARGUMENT"
    assert message in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pubsub_target": {"topic_name": "projects/p/topics/t"}}, "no jobs with pubsub_target"),
        ({"app_engine_http_target": {"relative_uri": "/"}}, "no jobs with app_engine_http_target"),
        ({"schedule": "every 10 minutes"}, "Write it in unix-cron format"),
        ({"schedule": "1st,third monday of month 04:05"}, "Write it in unix-cron format"),
    ],
)
def test_what_the_emulator_does_not_have_is_refused_clearly(
    scheduler: Any, fields: dict[str, Any], message: str
) -> None:
    wanted = {"name": JOB, "schedule": "* * * * *"} | fields
    if len(fields.keys() & {"pubsub_target", "app_engine_http_target"}) == 0:
        wanted |= target()
    status, text = refusal(lambda: scheduler.create_job(parent=LOCATION, job=wanted))
    assert status == "UNIMPLEMENTED"
    assert message in text


def test_the_stored_form_over_rest(emulator: BackgroundEmulator) -> None:
    document = {
        "name": JOB,
        "description": "calls the relay",
        "schedule": "*/5 * * * *",
        "timeZone": "Europe/Berlin",
        "httpTarget": {"uri": NOWHERE, "headers": {"X-Shop": "mine"}, "body": "aGVsbG8="},
    }
    advance(emulator, 0.123456789)
    created = post(emulator.address, f"/v1/{LOCATION}/jobs", document)
    assert created.status == 200
    expected = {
        "name": JOB,
        "description": "calls the relay",
        "httpTarget": {
            "uri": NOWHERE,
            "httpMethod": "POST",
            "headers": {
                "Content-Type": "application/octet-stream",
                "User-Agent": "Google-Cloud-Scheduler",
                "X-Shop": "mine",
            },
            "body": "aGVsbG8=",
        },
        "userUpdateTime": "2026-01-01T00:00:00Z",
        "state": "ENABLED",
        "schedule": "*/5 * * * *",
        "timeZone": "Europe/Berlin",
        "attemptDeadline": "180s",
        "retryConfig": {
            "maxBackoffDuration": "3600s",
            "maxDoublings": 16,
            "maxRetryDuration": "0s",
            "minBackoffDuration": "5s",
        },
    }
    assert created.document == expected
    due = {"scheduleTime": "2026-01-01T00:05:00Z"}
    assert ask(emulator.address, "GET", PATH).document == expected | due
    assert ask(emulator.address, "GET", f"/v1/{LOCATION}/jobs").document == (
        {"jobs": [expected | due]}
    )
    assert post(emulator.address, f"{PATH}:run", {}).document["lastAttemptTime"] == (
        "2026-01-01T00:00:00.123456Z"
    )
    emulator.call(emulator.emulator.settle())
    failed = {"code": 14, "message": "UNAVAILABLE(14): HTTP status code 503"}
    assert ask(emulator.address, "GET", PATH).document["status"] == failed
    body = b'{"httpTarget": {"uri": "http://127.0.0.1:2/"}}'
    patched = ask(emulator.address, "PATCH", f"{PATH}?updateMask=httpTarget.uri", body)
    assert patched.document["httpTarget"] == expected["httpTarget"] | {  # type: ignore[operator]
        "uri": "http://127.0.0.1:2/"
    }
    assert ask(emulator.address, "DELETE", PATH).document == {}
    assert ask(emulator.address, "GET", f"/v1/{LOCATION}/tasks").status == 404


def test_the_locations_are_also_under_the_path_of_cloud_scheduler(
    emulator: BackgroundEmulator,
) -> None:
    listed = ask(emulator.address, "GET", "/v1/projects/p/locations").document["locations"]
    assert "europe-west1" in {location["locationId"] for location in listed}


# Executions


def test_a_job_makes_one_request_at_each_tick(emulator: BackgroundEmulator, scheduler: Any) -> None:
    with recorder([200] * 3) as recorded:
        url = f"http://{recorded.address}/relay"
        headers = {
            "X-Shop": "mine",
            "User-Agent": "mine",
            "X-CloudScheduler": "forged",
            "X-CloudScheduler-JobName": "forged",
        }
        http = {"uri": url, "headers": headers, "body": b"the body"}
        wanted = job(http_target=http, time_zone="America/New_York")
        scheduler.create_job(parent=LOCATION, job=wanted)
        advance(emulator, HOUR - 1)
        assert recorded.requests == []
        advance(emulator, 1)
        advance(emulator, 2 * HOUR)
        assert recorded.bodies == [b"the body"] * 3
    transport = {"Host", "Content-Length"}
    for number, request in enumerate(recorded.requests):
        assert {name: value for name, value in request if name not in transport} == {
            "Content-Type": "application/octet-stream",
            "User-Agent": "Google-Cloud-Scheduler",
            "X-CloudScheduler": "true",
            "X-CloudScheduler-JobName": "relay",
            "X-CloudScheduler-ScheduleTime": f"2025-12-31T{20 + number}:00:00-05:00",
            "X-Shop": "mine",
        }
    read = scheduler.get_job(name=JOB)
    assert read.last_attempt_time.timestamp() == START / SECOND + 3 * HOUR
    assert read.schedule_time.timestamp() == START / SECOND + 4 * HOUR
    assert "status" in read
    assert read.status.code == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_job_uses_its_method_and_keeps_its_own_content_type(
    emulator: BackgroundEmulator, method: str
) -> None:
    seen: list[tuple[str, str | None]] = []

    class Requests(QuietRequestHandler):
        def _any(self) -> None:
            self.read_body()
            seen.append((self.command, self.headers.get("Content-Type")))
            self.answer(200)

        do_GET = do_PUT = do_DELETE = _any  # noqa: N815 - the base class calls it by these names

    body = {"body": b"{}", "headers": {"content-type": "application/json"}}
    with http_server(Requests) as address, over_grpc(emulator) as scheduler:
        http: dict[str, Any] = {"uri": f"http://{address}/", "http_method": method}
        http |= body if method == "PUT" else {}
        scheduler.create_job(parent=LOCATION, job=job(http_target=http))
        advance(emulator, HOUR)
    assert seen == [(method, "application/json" if method == "PUT" else None)]


def test_a_job_carries_the_token_that_it_names(emulator: BackgroundEmulator) -> None:
    with recorder([200] * 3) as recorded, over_grpc(emulator) as scheduler:
        url = f"http://{recorded.address}/"
        email = {"service_account_email": "shop@p.example"}
        for token in (
            {"oidc_token": email},
            {"oidc_token": email | {"audience": "https://shop.example"}},
            {"oauth_token": email},
        ):
            http = {"uri": url} | token
            made = scheduler.create_job(parent=LOCATION, job=job(name="", http_target=http))
            scheduler.run_job(name=made.name)
            emulator.call(emulator.emulator.settle())
        sent = [
            dict(request)["Authorization"].removeprefix("Bearer ") for request in recorded.requests
        ]
        certificates = ask(emulator.address, "GET", "/oauth2/v1/certs").document
    for encoded, audience in zip(sent, [url, "https://shop.example"], strict=False):
        claims = jwt.decode(encoded, certs=certificates, audience=audience)  # type: ignore[no-untyped-call]
        assert claims["email"] == "shop@p.example"
        assert claims["iss"] == "https://accounts.google.com"
    assert sent[2].startswith("ya29.")


def test_a_failed_attempt_is_retried_by_the_emulators_clock(
    emulator: BackgroundEmulator, scheduler: Any
) -> None:
    with recorder([500, 302, 429, 200]) as recorded:
        wanted = job(
            f"http://{recorded.address}/", schedule="0 0 * * *", retry_config={"retry_count": 3}
        )
        scheduler.create_job(parent=LOCATION, job=wanted)
        advance(emulator, 24 * HOUR)
        read = scheduler.get_job(name=JOB)
        assert (read.status.code, len(recorded.requests)) == (13, 1)
        assert read.schedule_time.timestamp() == START / SECOND + 24 * HOUR + 5
        advance(emulator, 5)
        advance(emulator, 9)
        assert len(recorded.requests) == 2
        advance(emulator, 1 + 20)
        assert len(recorded.requests) == 4
        advance(emulator, HOUR)
        assert len(recorded.requests) == 4
    times = {dict(request)["X-CloudScheduler-ScheduleTime"] for request in recorded.requests}
    assert times == {"2026-01-02T00:00:00+00:00"}
    numbers = [attempt.number for attempt in emulator.emulator.finished]
    assert numbers == [1, 2, 3, 4]
    assert {attempt.task for attempt in emulator.emulator.finished} == {JOB}


def test_a_job_runs_on_demand_also_while_it_is_paused(
    emulator: BackgroundEmulator, scheduler: Any
) -> None:
    with recorder([200]) as recorded:
        scheduler.create_job(parent=LOCATION, job=job(f"http://{recorded.address}/"))
        scheduler.pause_job(name=JOB)
        advance(emulator, 5 * HOUR)
        assert recorded.requests == []
        assert scheduler.run_job(name=JOB).state == PAUSED
        emulator.call(emulator.emulator.settle())
        assert len(recorded.requests) == 1


def test_an_execution_waits_until_the_previous_one_has_ended(emulator: BackgroundEmulator) -> None:
    leave = threading.Event()
    calls: list[None] = []
    with handler(hold=leave, calls=calls) as (url, called), over_grpc(emulator) as scheduler:
        scheduler.create_job(parent=LOCATION, job=job(url, schedule="* * * * *"))
        scheduler.run_job(name=JOB)
        assert called.wait(20)

        async def tick_by_tick() -> None:
            """Move the clock over three ticks without waiting for the attempt in progress."""
            running = emulator.emulator
            running._clock.move_to(START + 180 * SECOND)
            running._scheduler.job_touched(JOB)

        emulator.call(tick_by_tick())
        assert calls == [None]
        leave.set()
        emulator.call(emulator.emulator.settle())
        assert len(calls) == 2, "one execution for the three ticks"
        assert scheduler.get_job(name=JOB).schedule_time.timestamp() == START / SECOND + 240


def test_an_attempt_ends_at_its_deadline(emulator: BackgroundEmulator) -> None:
    leave = threading.Event()
    with handler(hold=leave) as (url, _), over_grpc(emulator) as scheduler:

        async def create() -> None:
            """Create a job with a shorter deadline than the API allows."""
            emulator.emulator.jobs.create(
                LOCATION,
                "relay",
                JobConfig(
                    target=HttpTarget(url=url),
                    schedule=Schedule("0 * * * *"),
                    deadline=SECOND // 10,
                ),
                START,
            )

        emulator.call(create())
        advance(emulator, HOUR)
        status = scheduler.get_job(name=JOB).status
        leave.set()
    assert (status.code, status.message) == (4, "DEADLINE_EXCEEDED(4): HTTP status code 504")


def test_a_deleted_job_makes_no_more_requests(emulator: BackgroundEmulator) -> None:
    calls: list[None] = []
    with handler(calls=calls) as (url, _), over_grpc(emulator) as scheduler:
        scheduler.create_job(parent=LOCATION, job=job(url))
        scheduler.delete_job(name=JOB)
        advance(emulator, 5 * HOUR)
    assert calls == []


def test_ticks_and_tasks_happen_in_the_order_of_their_times() -> None:
    bodies: list[bytes] = []
    with (
        handler(bodies=bodies) as (url, _),
        BackgroundEmulator(lambda: Emulator(clock=ManualClock(START), queues=[QUEUE])) as emulator,
        grpc.insecure_channel(emulator.address) as channel,
    ):
        for after in (5400, 1800, 9000):
            due = Timestamp(seconds=START // SECOND + after)
            task = {"http_request": {"url": url, "body": str(after).encode()}}
            client_over(channel).create_task(parent=QUEUE, task=task | {"schedule_time": due})
        http = {"uri": url, "body": b"tick"}
        scheduler_over(channel).create_job(parent=LOCATION, job=job(http_target=http))
        advance(emulator, 3 * HOUR)
    assert bodies == [b"1800", b"tick", b"5400", b"tick", b"9000", b"tick"]


def test_chaos_also_affects_jobs() -> None:
    calls: list[None] = []
    chaos = Chaos.parse("duplicate=1,drop=0,refuse=0,delay=0")
    with (
        handler(calls=calls) as (url, _),
        BackgroundEmulator(lambda: Emulator(clock=ManualClock(START), chaos=chaos)) as emulator,
        over_grpc(emulator) as scheduler,
    ):
        scheduler.create_job(parent=LOCATION, job=job(url))
        advance(emulator, HOUR)
    assert len(calls) == 2


def test_a_job_is_executed_by_the_clock_of_the_machine() -> None:
    with (
        handler() as (url, called),
        BackgroundEmulator() as emulator,
        over_grpc(emulator) as scheduler,
    ):
        scheduler.create_job(parent=LOCATION, job=job(url, schedule="* * * * *"))
        # The clock is moved to half a second before the tick, and then left alone.
        advance(emulator, max(0, 59.5 - emulator.emulator.now() / SECOND % 60))
        assert called.wait(20)


# A month in a moment

DAY = 24 * HOUR


def next_change(zone: ZoneInfo, start: datetime, by: timedelta) -> datetime:
    """Return the first midnight after `start` of a day that is longer than 24 hours by `by`."""
    day = start.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    while True:
        day += timedelta(days=1)  # A local time: the next midnight.
        following = day + timedelta(days=1)
        if following.timestamp() - day.timestamp() == DAY + by.total_seconds():
            return day


LONGER, SHORTER = timedelta(hours=1), timedelta(hours=-1)
# The zone, how much longer the day is, and how often an hourly job is executed on that day.
NIGHTS = [
    ("Europe/Berlin", SHORTER, 23),
    ("Europe/Berlin", LONGER, 25),
    ("America/New_York", SHORTER, 23),
    ("America/New_York", LONGER, 25),
]


@pytest.mark.django_db(transaction=True)
def test_a_test_rehearses_the_nights_when_clocks_change_and_a_month(
    cloud_tasks_emulator: EmulatorInHand,
) -> None:
    def now() -> float:
        answer = post(cloud_tasks_emulator.address, "/emulator/clock", {"advance": 0})
        return float(answer.document["now"])

    # Clocks change between one and three o'clock.
    schedules = {"hourly": "0 * * * *", "at-1-30": "30 1 * * *", "at-2-30": "30 2 * * *"}

    with (
        recorder([200] * 2000) as recorded,
        grpc.insecure_channel(cloud_tasks_emulator.address) as channel,
    ):
        scheduler = scheduler_over(channel)

        def rehearse(zone: str, start: datetime, end: datetime) -> Counter[str]:
            """Return the number of requests of each job from one local midnight to another."""
            cloud_tasks_emulator.advance(start.timestamp() - now() - 1)
            recorded.requests.clear()
            for job_id, schedule in schedules.items():
                url = f"http://{recorded.address}/"
                wanted = job(url, name=f"{LOCATION}/jobs/{job_id}", schedule=schedule)
                scheduler.create_job(parent=LOCATION, job=wanted | {"time_zone": zone})
            cloud_tasks_emulator.advance(end.timestamp() - start.timestamp())
            for job_id in schedules:
                scheduler.delete_job(name=f"{LOCATION}/jobs/{job_id}")
            return Counter(
                dict(request)["X-CloudScheduler-JobName"] for request in recorded.requests
            )

        today = datetime.fromtimestamp(now(), ZoneInfo("UTC"))
        nights = [
            (next_change(ZoneInfo(zone), today, longer), zone, hours)
            for zone, longer, hours in NIGHTS
        ]
        # In the order of time, because the clock moves forward only.
        for night, zone, hours in sorted(nights, key=lambda night: night[0].timestamp()):
            once = {"hourly": hours, "at-1-30": 1, "at-2-30": 1}
            assert rehearse(zone, night, night + timedelta(days=1)) == once, night
        month = (max(night for night, _, _ in nights) + timedelta(days=40)).replace(day=1)
        month = month.replace(tzinfo=ZoneInfo("Europe/Berlin"))
        end = (month + timedelta(days=31)).replace(day=1)
        days = (end.date() - month.date()).days
        daily = {"hourly": days * 24, "at-1-30": days, "at-2-30": days}
        assert rehearse("Europe/Berlin", month, end) == daily


# The state file and the reset


def state(file: Path, start: int = START) -> BackgroundEmulator:
    storage = Storage(file)
    return BackgroundEmulator(lambda: Emulator(clock=ManualClock(start), storage=storage))


def shown(background: BackgroundEmulator) -> list[dict[str, Any]]:
    document = ask(background.address, "GET", f"/v1/{LOCATION}/jobs").document
    jobs: list[dict[str, Any]] = document.get("jobs", [])
    return jobs


def test_a_restarted_emulator_has_the_stored_jobs(tmp_path: Path) -> None:
    token = {"service_account_email": "a@b"}
    with (
        recorder([200, 500]) as recorded,
        state(tmp_path / "s") as emulator,
        over_grpc(emulator) as scheduler,
    ):
        http = {"uri": f"http://{recorded.address}/", "body": b"\0body", "oauth_token": token}
        retries = {"retry_count": 5, "max_retry_duration": Duration(seconds=99)}
        wanted = job(description="kept", http_target=http, retry_config=retries)
        wanted |= {"time_zone": "Asia/Tokyo", "attempt_deadline": Duration(seconds=20)}
        scheduler.create_job(parent=LOCATION, job=wanted)
        for name in ("paused", "deleted"):
            scheduler.create_job(parent=LOCATION, job=job(name=f"{LOCATION}/jobs/{name}"))
        scheduler.pause_job(name=f"{LOCATION}/jobs/paused")
        scheduler.delete_job(name=f"{LOCATION}/jobs/deleted")
        advance(emulator, 2 * HOUR + 0.5)
        before = shown(emulator)
    assert len(before) == 2
    with state(tmp_path / "s") as emulator:
        assert shown(emulator) == before
        retry = emulator.emulator.jobs.next_event(JOB)
        assert retry == START + (2 * HOUR + 5) * SECOND
        assert emulator.emulator.now() == START + 2 * HOUR * SECOND, "the last attempt"


def test_after_a_break_only_the_latest_missed_tick_is_executed(tmp_path: Path) -> None:
    with recorder([200, 200]) as recorded:
        with state(tmp_path / "s") as emulator, over_grpc(emulator) as scheduler:
            scheduler.create_job(parent=LOCATION, job=job(f"http://{recorded.address}/"))
        with state(tmp_path / "s", START + (100 * HOUR + 7) * SECOND) as emulator:
            emulator.call(emulator.emulator.settle())
            assert len(recorded.requests) == 1
            advance(emulator, HOUR)
        times = [dict(request)["X-CloudScheduler-ScheduleTime"] for request in recorded.requests]
    assert times == ["2026-01-05T04:00:00+00:00", "2026-01-05T05:00:00+00:00"]


def test_an_attempt_of_a_killed_emulator_counts_as_failed(tmp_path: Path) -> None:
    leave = threading.Event()
    calls: list[None] = []
    file = str(tmp_path / "s")
    with handler(hold=leave, calls=calls) as (url, called):
        with emulator_program("--state", file) as (process, address):
            document = {"schedule": "0 0 1 1 *", "httpTarget": {"uri": url}, "name": JOB}
            retry = {"retryConfig": {"retryCount": 1, "minBackoffDuration": "600s"}}
            assert post(address, f"/v1/{LOCATION}/jobs", document | retry).status == 200
            assert post(address, f"{PATH}:run", {}).status == 200
            assert called.wait(20)
            process.kill()
            process.wait(20)
        leave.set()
        with emulator_program("--state", file) as (_, address):
            assert ask(address, "GET", PATH).document["status"]["code"] == 14
            assert post(address, "/emulator/clock", {"advance": 601}).status == 200
            assert ask(address, "GET", PATH).document["status"] == {}
    assert len(calls) == 2


def test_a_state_file_from_before_cloud_scheduler_still_opens(tmp_path: Path) -> None:
    Storage(tmp_path / "s").close()
    with sqlite3.connect(tmp_path / "s") as database:
        database.execute("DROP TABLE jobs")
    database.close()
    with state(tmp_path / "s") as emulator, over_grpc(emulator) as scheduler:
        assert shown(emulator) == []
        scheduler.create_job(parent=LOCATION, job=job())
    with state(tmp_path / "s") as emulator:
        assert len(shown(emulator)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "stored = 'text'",
        "stored = x'00'",
        "name = 'projects/p'",
        "next_tick = 'soon'",
        "execution_time = 'then'",
        "execution_time = 1",
        "last_status = 'fine'",
        "latest = 'now'",
    ],
)
def test_a_state_file_with_a_damaged_job_is_refused(tmp_path: Path, damage: str) -> None:
    with state(tmp_path / "s") as emulator, over_grpc(emulator) as scheduler:
        scheduler.create_job(parent=LOCATION, job=job())
    with sqlite3.connect(tmp_path / "s") as database:
        database.execute(f"UPDATE jobs SET {damage}")  # noqa: S608 - a constant of this module
    database.close()
    storage = Storage(tmp_path / "s")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Emulator(clock=ManualClock(START), storage=storage)
    storage.close()


def test_the_clock_is_not_moved_past_a_tick_that_the_state_file_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise unavailable("the disk is full")

    calls: list[None] = []
    storage = Storage(tmp_path / "s")
    with (
        handler(calls=calls) as (url, _),
        BackgroundEmulator(lambda: Emulator(clock=ManualClock(START), storage=storage)) as emulator,
        over_grpc(emulator) as scheduler,
    ):
        scheduler.create_job(parent=LOCATION, job=job(url))
        with monkeypatch.context() as patch:
            patch.setattr(storage, "job_changed", refuse)
            assert post(emulator.address, "/emulator/clock", {"advance": 9000}).status == 503
            assert emulator.emulator.now() == START + HOUR * SECOND
            assert calls == []
        assert post(emulator.address, "/emulator/clock", {"advance": 9000}).status == 200
        assert len(calls) == 3


def test_a_reset_removes_all_jobs(tmp_path: Path) -> None:
    calls: list[None] = []
    with (
        handler(calls=calls) as (url, _),
        state(tmp_path / "s") as emulator,
        over_grpc(emulator) as scheduler,
    ):
        scheduler.create_job(parent=LOCATION, job=job(url))
        assert post(emulator.address, "/emulator/reset").status == 200
        assert shown(emulator) == []
        advance(emulator, 2 * HOUR)
    assert calls == []
    with state(tmp_path / "s") as emulator:
        assert shown(emulator) == []


def test_jobs_are_part_of_the_data_of_the_dashboard(emulator: BackgroundEmulator) -> None:
    with handler(status=404) as (url, _), over_grpc(emulator) as scheduler:
        scheduler.create_job(parent=LOCATION, job=job(url, time_zone="Europe/Berlin"))
        advance(emulator, HOUR)
    document = ask(emulator.address, "GET", "/emulator/state").document
    assert document["jobs"] == [
        {
            "name": JOB,
            "schedule": "0 * * * *",
            "zone": "Europe/Berlin",
            "state": "ENABLED",
            "running": False,
            "schedule_time": START / SECOND + 2 * HOUR,
            "last_attempt_time": START / SECOND + HOUR,
            "last_answer": 404,
        }
    ]


# Without the extra [scheduler]

WITHOUT = """
import sys
sys.modules["google.cloud.scheduler_v1"] = None
from django_tasks_cloud_tasks.emulator.command_line import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_the_extra_every_call_names_it() -> None:
    command = [sys.executable, "-c", WITHOUT]
    with (
        emulator_program("--queue", QUEUE, command=command) as (_, address),
        grpc.insecure_channel(address) as channel,
    ):
        scheduler = scheduler_over(channel)
        calls: list[Callable[[], object]] = [
            lambda: scheduler.create_job(parent=LOCATION, job=job()),
            lambda: list(scheduler.list_jobs(parent=LOCATION)),
            lambda: scheduler.run_job(name=JOB),
        ]
        for call in calls:
            status, message = refusal(call)
            assert status == "UNIMPLEMENTED"
            assert "because google.cloud.scheduler_v1 is missing" in message
            assert "pip install 'django-tasks-cloud-tasks[scheduler]'" in message
        answer = post(address, f"/v1/{LOCATION}/jobs", {"name": JOB})
        assert answer.status == 501
        assert "[scheduler]" in answer.document["error"]["message"]
        assert [queue.name for queue in client_over(channel).list_queues(parent=LOCATION)] == [
            QUEUE
        ]
        assert ask(address, "GET", "/emulator/state").document["jobs"] == []


def test_without_the_extra_a_state_file_with_jobs_is_refused(tmp_path: Path) -> None:
    with state(tmp_path / "s") as emulator, over_grpc(emulator) as scheduler:
        scheduler.create_job(parent=LOCATION, job=job())
    command = [sys.executable, "-c", WITHOUT, *LOOPBACK, "--port", "0"]
    done = subprocess.run(
        [*command, "--state", str(tmp_path / "s")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the extra [scheduler]" in done.stderr

"""Recurring tasks: each tick enqueues one task, whatever drives the schedules."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import Client, override_settings
from django_tasks_cloud_tasks import StoredTask
from django_tasks_cloud_tasks.core.records import State
from django_tasks_cloud_tasks.django_integration.models import StoredSchedule
from django_tasks_cloud_tasks.django_integration.operating.recurring import enqueue_due
from django_tasks_cloud_tasks.django_integration.operating.site_schedules import site_schedules
from django_tasks_cloud_tasks.django_integration.signing import sign
from django_tasks_cloud_tasks.testing import EmulatorInHand

from tests.integration.grpc_calls import scheduler_over
from tests.integration.recording import START, Site, recording
from tests.policy_tasks import SCRIPT, SEEN

GCLOUD = shutil.which("gcloud")
HOUR = 3600
NOON_AND_MIDNIGHT = {"task": "tests.policy_tasks.plain", "cron": "0 */12 * * *"}
POLL = {"task": "tests.recorded_tasks.does", "every": timedelta(minutes=5), "args": ["poll"]}
ACCOUNT = {
    "OIDC_SERVICE_ACCOUNT_EMAIL": "shop@p.iam.gserviceaccount.com",
    "OIDC_AUDIENCE": "https://shop.example.com",
}
SIGNED = {"X-Django-Tasks-Signature": sign(b"")}


@pytest.fixture
def site() -> Iterator[Site]:
    SCRIPT.clear()
    SEEN.clear()
    with recording(SCHEDULES={"twice-a-day": NOON_AND_MIDNIGHT}) as made:
        yield made


def drive() -> tuple[int, int]:
    """Enqueue what is due. Return how many schedules were enqueued, and how many failed."""
    done = enqueue_due(site_schedules())
    return done.enqueued, done.failed


def run(*arguments: str, command: str = "cloudtasks_schedules") -> str:
    out = io.StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def test_each_tick_enqueues_one_task_and_a_new_schedule_waits_for_its_first(site: Site) -> None:
    assert drive() == (0, 0), "it ticked at the moment at which it was added"
    site.wait(12 * HOUR - 1)
    assert drive() == (0, 0)
    site.wait(1)
    assert drive() == (1, 0)
    assert drive() == (0, 0)
    (request,) = site.queue.requests
    record = site.record(str(request.task_id))
    assert (record.payload.schedule, record.payload.scheduled_for) == (
        "twice-a-day",
        START + timedelta(hours=12),
    )
    site.wait(100)
    SCRIPT[:] = ["done"]
    assert site.deliver()[0] == 200
    assert SEEN[0].scheduled_for == START + timedelta(hours=12)
    assert site.record(record.task_id).state is State.SUCCESSFUL


def test_missed_ticks_are_made_up_once(site: Site) -> None:
    drive()
    site.wait(7 * 24 * HOUR + 60)
    assert drive() == (1, 0)
    (request,) = site.queue.requests
    scheduled_for = site.record(str(request.task_id)).payload.scheduled_for
    assert scheduled_for == START + timedelta(days=7)
    assert drive() == (0, 0)


def test_of_two_drivers_one_enqueues(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    drive()
    site.wait(12 * HOUR)
    replace, faster = site.store.replace_schedule, []

    def replace_later(*states: Any) -> bool:
        monkeypatch.setattr(site.store, "replace_schedule", replace)
        faster.append(drive())
        return replace(*states)

    monkeypatch.setattr(site.store, "replace_schedule", replace_later)
    assert drive() == (0, 0)
    assert faster == [(1, 0)]
    assert len(site.queue.requests) == 1


@pytest.mark.django_db(transaction=True)
def test_a_tick_and_its_task_are_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    with recording(database="default", SCHEDULES={"poll": POLL}) as site:
        drive()
        site.wait(300)
        add = site.store.add

        def add_and_fail(record: Any) -> None:
            add(record)
            raise ZeroDivisionError

        monkeypatch.setattr(site.store, "add", add_and_fail)
        assert drive() == (0, 1)
        assert StoredTask.objects.count() == 0
        monkeypatch.setattr(site.store, "add", add)
        assert drive() == (1, 0), "it is tried again"
        assert StoredTask.objects.get().schedule == "poll"
        assert StoredSchedule.objects.get().ticked_at == START + timedelta(minutes=5)


def test_one_schedule_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    broken = {**POLL, "task": "tests.recorded_tasks.gone"}
    with recording(SCHEDULES={"broken": broken, "poll": POLL}) as site:
        drive()
        site.wait(300)
        assert drive() == (1, 1)
        assert len(site.queue.requests) == 1
    assert "The schedule 'broken' could not be enqueued." in caplog.text


def test_a_schedule_has_its_own_queue_and_priority() -> None:
    mine = {**POLL, "queue_name": "mail", "priority": 7}
    with recording(SCHEDULES={"poll": mine}) as site:
        drive()
        site.wait(300)
        drive()
        (request,) = site.queue.requests
        payload = site.record(str(request.task_id)).payload
    assert (request.queue.queue, payload.priority, payload.args) == ("mail", 7, ["poll"])


# The drivers.


def call(path: str = "/cloudtasks/schedule/", **headers: str) -> tuple[int, Any]:
    response: Any = Client().post(
        path, data=b"", content_type="application/octet-stream", headers=headers
    )
    return response.status_code, json.loads(response.content)


def test_the_relay_enqueues_what_is_due(site: Site) -> None:
    assert run("--once", command="cloudtasks_relay") == "Nothing is due.\n"
    site.wait(12 * HOUR)
    assert "Schedules enqueued: 1. Failed: 0." in run("--once", command="cloudtasks_relay")


@pytest.mark.parametrize("path", ["/cloudtasks/schedule/", "/async/cloudtasks/schedule/"])
def test_the_endpoint_enqueues_what_is_due(site: Site, path: str) -> None:
    site.wait(61)
    assert call(path, **SIGNED) == (200, {"status": "success", "enqueued": 0, "failed": 0})
    site.wait(12 * HOUR)
    name = f"{path}twice-a-day/"
    assert call(name, **SIGNED) == (200, {"status": "success", "enqueued": 1, "failed": 0})
    assert call(path, **SIGNED) == (200, {"status": "success", "enqueued": 0, "failed": 0})
    status, document = call(f"{path}thrice/", **SIGNED)
    assert (status, document["error"]) == (404, "unknown schedule")


def test_the_endpoint_says_that_a_schedule_failed() -> None:
    with recording(SCHEDULES={"broken": {**POLL, "task": "tests.recorded_tasks.gone"}}) as site:
        call(**SIGNED)
        site.wait(300)
        assert call(**SIGNED) == (503, {"status": "error", "enqueued": 0, "failed": 1})


def test_the_endpoint_refuses_a_caller_without_proof(site: Site) -> None:
    drive()
    site.wait(12 * HOUR)
    assert call()[0] == 401
    assert call("/cloudtasks/schedule/thrice/")[0] == 401, "it does not tell the names"
    assert call(**{"X-Django-Tasks-Signature": sign(b"another")})[0] == 401
    assert Client().get("/cloudtasks/schedule/").status_code == 405
    assert site.queue.requests == []


@pytest.mark.django_db(transaction=True)
def test_without_a_record_the_name_of_the_cloud_task_prevents_a_second_one(
    cloud_tasks_emulator: EmulatorInHand, settings: Any
) -> None:
    entry = settings.TASKS["default"]
    noon = {"task": "tests.policy_tasks.plain", "cron": "0 12 * * *"}
    for options in ({}, {"NAME_TASKS": False}):
        SEEN.clear()
        SCRIPT[:] = ["done", "done"]
        changed = {**entry["OPTIONS"], "SCHEDULES": {f"noon{len(options)}": noon}, **options}
        settings.TASKS = {"default": {**entry, "OPTIONS": changed}}
        now = site_clock()
        tick = now.replace(hour=12, minute=0, second=0, microsecond=0)
        cloud_tasks_emulator.advance((tick - now).total_seconds() % 86_400)
        at = {"X-CloudScheduler-ScheduleTime": f"{site_clock():%Y-%m-%dT%H:%M:00Z}"}
        for _ in range(2):
            assert call(**SIGNED, **at)[1]["failed"] == 0
        cloud_tasks_emulator.settle()
        cloud_tasks_emulator.advance(600)
        assert call(**SIGNED, **at)[1]["failed"] == 0, "Cloud Scheduler repeats its call"
        assert call(**SIGNED) == (200, {"status": "success", "enqueued": 0, "failed": 0})
        cloud_tasks_emulator.settle()
        assert len(SEEN) == 1
        scheduled_for = SEEN[0].scheduled_for
        assert scheduled_for is not None
        assert f"{scheduled_for:%H:%M:%S}" == "12:00:00"


def site_clock() -> datetime:
    from django_tasks_cloud_tasks.django_integration.runtime import get_runtime

    return get_runtime().clock()


# The command.


def test_the_list_has_the_ticks_and_a_pause_leaves_them_out(site: Site) -> None:
    assert "not known" in run("list")
    drive()
    header, row = run("list").splitlines()
    assert header.split()[:3] == ["SCHEDULE", "TASK", "WHEN"]
    assert "enabled" in row
    assert "2026-11-22 12:00:00 UTC  2026-11-23 00:00:00 UTC" in row
    assert run("pause", "twice-a-day") == "Paused twice-a-day.\n"
    assert run("list").splitlines()[1].endswith("  -")
    site.wait(24 * HOUR)
    assert drive() == (0, 0)
    run("resume", "twice-a-day")
    assert drive() == (0, 0), "ticks during a pause are left out"
    site.wait(12 * HOUR)
    assert drive() == (1, 0)


def test_a_schedule_can_be_paused_before_its_first_tick(site: Site) -> None:
    run("pause", "twice-a-day")
    site.wait(24 * HOUR)
    assert drive() == (0, 0)


def test_run_enqueues_besides_the_ticks(site: Site) -> None:
    assert run("run", "twice-a-day").startswith("Enqueued tests.policy_tasks.plain as ")
    (request,) = site.queue.requests
    assert site.record(str(request.task_id)).payload.scheduled_for is None
    drive()
    site.wait(12 * HOUR)
    assert drive() == (1, 0)


def test_an_unknown_name_is_told_with_the_known_names(site: Site) -> None:
    with pytest.raises(CommandError, match=r"no schedule 'thrice'\. .* are: twice-a-day\."):
        run("run", "thrice")


# The jobs of Cloud Scheduler, at the emulator and under its clock.


@pytest.fixture
def scheduled(cloud_tasks_emulator: EmulatorInHand, settings: Any) -> Callable[..., EmulatorInHand]:
    """Return a function that configures one backend with schedules."""

    def configure(alias: str, schedules: dict[str, Any], **options: object) -> EmulatorInHand:
        SEEN.clear()
        SCRIPT[:] = ["done"] * 100
        entry = settings.TASKS[alias]
        changed = {**entry["OPTIONS"], "SCHEDULES": schedules, **options}
        settings.TASKS = {alias: {**entry, "OPTIONS": changed}}
        return cloud_tasks_emulator

    return configure


LOOKS = "tests.policy_tasks.plain"
NIGHTLY = {"task": LOOKS, "cron": "30 2 * * *", "time_zone": "Europe/Berlin"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("each", [(), ("--each",)], ids=["one job", "a job each"])
@pytest.mark.parametrize("alias", ["stored", "default"], ids=["recorded", "unrecorded"])
def test_a_night_with_a_change_to_daylight_saving_time_is_rehearsed(
    scheduled: Callable[..., EmulatorInHand], alias: str, each: tuple[str, ...]
) -> None:
    emulator = scheduled(alias, {"nightly": NIGHTLY})
    begin = datetime(2027, 3, 28, tzinfo=UTC)  # The clocks change an hour later.
    emulator.advance((begin - site_clock()).total_seconds())
    run("apply", *each)
    emulator.advance(3 * HOUR)
    ticks = [context.scheduled_for for context in SEEN]
    assert [f"{tick:%d %H:%M}" for tick in ticks if tick] == ["28 01:00"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("authentication", ["oidc", "signature"])
def test_the_jobs_are_authorized_by_a_token_or_by_a_fixed_signature(
    scheduled: Callable[..., EmulatorInHand], authentication: str
) -> None:
    account = {} if authentication == "signature" else ACCOUNT
    emulator = scheduled(
        "stored", {"poll": {"task": LOOKS, "every": 600}}, AUTHENTICATION=authentication, **account
    )
    assert run("apply").endswith("Jobs changed: 2.\n")
    emulator.advance(2 * HOUR)
    calls = {attempt.status for attempt in emulator.finished if "/jobs/" in attempt.task}
    assert calls == {200}
    assert len(SEEN) in {11, 12}


@pytest.mark.django_db(transaction=True)
def test_diff_and_apply_keep_the_jobs_of_others(
    scheduled: Callable[..., EmulatorInHand],
) -> None:
    emulator = scheduled("stored", {"poll": POLL, "nightly": NIGHTLY})
    scheduler = scheduler_at(emulator.address)
    parent = "projects/test-project/locations/europe-west1"
    other = {
        "name": f"{parent}/jobs/other",
        "schedule": "* * * * *",
        "http_target": {"uri": "http://127.0.0.1:1/"},
    }
    scheduler.create_job(parent=parent, job=other)
    with pytest.raises(CommandError, match="Jobs that differ: 2"):
        run("diff")
    run("apply")
    assert run("diff") == "All jobs are as the settings describe them.\n"
    with pytest.raises(CommandError, match="Jobs that differ: 3"):
        run("diff", "--each")
    run("apply", "--each")
    assert run("diff", "--each") == "All jobs are as the settings describe them.\n"
    names = {job.name.rpartition("/")[2] for job in scheduler.list_jobs(parent=parent)}
    assert len(names) == 4
    assert "other" in names
    changed = next(job for job in scheduler.list_jobs(parent=parent) if "poll" in job.name)
    changed.schedule = "0 0 1 1 *"
    scheduler.update_job(job=changed)
    assert "cron: cron 0 0 1 1 * UTC -> cron * * * * * UTC" in run("apply", "--each")
    taken = next(job for job in scheduler.list_jobs(parent=parent) if "poll" in job.name)
    taken.description = "mine"
    scheduler.update_job(job=taken)
    with pytest.raises(CommandError, match="Another program or site made these jobs"):
        run("apply", "--each")


@pytest.mark.skipif(not GCLOUD, reason="no gcloud on this machine")
@pytest.mark.django_db(transaction=True)
def test_the_printed_commands_make_the_same_jobs(
    scheduled: Callable[..., EmulatorInHand], tmp_path: Path
) -> None:
    emulator = scheduled("stored", {"nightly": NIGHTLY}, **ACCOUNT)
    environ = os.environ | {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDSCHEDULER": f"http://{emulator.address}/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CONFIG": str(tmp_path),
    }
    commands = run("apply", "--each", "--print", "gcloud").splitlines()
    assert len(commands) == 2
    for command in commands:
        done = subprocess.run(
            [GCLOUD or "", *shlex.split(command)[1:]],
            check=False,
            capture_output=True,
            text=True,
            env=environ,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert run("diff", "--each") == "All jobs are as the settings describe them.\n"


@pytest.mark.django_db(transaction=True)
def test_without_a_record_the_job_of_a_schedule_is_paused(
    scheduled: Callable[..., EmulatorInHand],
) -> None:
    emulator = scheduled("default", {"poll": {"task": LOOKS, "every": 600}})
    run("apply")
    with pytest.raises(CommandError, match="has no job of its own"):
        run("pause", "poll")
    run("apply", "--each")
    emulator.advance(HOUR)
    before = len(SEEN)
    assert before in {5, 6}
    run("pause", "poll")
    emulator.advance(HOUR)
    assert len(SEEN) == before
    run("resume", "poll")
    emulator.advance(HOUR)
    assert len(SEEN) > before


def scheduler_at(address: str) -> Any:
    """Return the official client over gRPC."""
    return scheduler_over(grpc.insecure_channel(address))


def test_an_emulator_that_does_not_run_is_told(settings: Any) -> None:
    entry = settings.TASKS["default"]
    options = {**entry["OPTIONS"], "EMULATOR_HOST": "127.0.0.1:1", "SCHEDULES": {"poll": POLL}}
    settings.TASKS = {"default": {**entry, "OPTIONS": options}}
    with pytest.raises(CommandError, match=r"The call to the emulator at 127\.0\.0\.1:1 failed"):
        run("diff")
    assert "google_cloud_scheduler_job" in run("apply", "--print", "terraform")


# The checks.


def messages(*schedules: dict[str, Any], **options: object) -> list[str]:
    """Return the ids and messages of `check` for backends with these schedules."""
    backend = "django_tasks_cloud_tasks.CloudTasksBackend"
    entries = {
        f"b{number}": {
            "BACKEND": backend,
            "QUEUES": ["default"],
            "OPTIONS": {**options, "SCHEDULES": one},
        }
        for number, one in enumerate(schedules)
    }
    with override_settings(TASKS=entries):
        return [f"{str(m.id).rpartition('.')[2]} {m.msg}" for m in run_checks() if m.level >= 40]


RECORDED = {"RESULTS": "database"}


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({**POLL, "task": "tests.gone.task"}, "E011 .* 'tests.gone.task' cannot be imported"),
        ({**POLL, "task": "tests.policy_tasks.SCRIPT"}, "E011 .* is not a task"),
        ({**POLL, "args": []}, "E011 .* missing a required argument"),
        ({**POLL, "args": [object]}, "E011 .* cannot be sent as JSON: argument 1"),
        ({**POLL, "queue_name": "mail"}, "E011 .* Queue 'mail' is not valid"),
        ({**NOON_AND_MIDNIGHT, "time_zone": "Europe/Atlantis"}, "E011 .*no time zone 'Europe/Atl"),
        ({**NOON_AND_MIDNIGHT, "cron": "* * *"}, "E001 .*SCHEDULES must be .* five fields"),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_work_is_an_error_of_check(
    schedule: dict[str, Any], said: str
) -> None:
    found = messages({"one": schedule}, **RECORDED)
    assert any(re.match(said, message) for message in found), found


def test_right_schedules_are_accepted_by_check() -> None:
    assert messages({"poll": POLL, "twice-a-day": NOON_AND_MIDNIGHT}, **RECORDED) == []


def test_names_are_unique_and_frequent_ticks_need_a_relay() -> None:
    often = {**POLL, "every": 30}
    assert messages({"poll": POLL}, {"poll": POLL}, **RECORDED) == [
        "E013 TASKS['b1']: the schedule 'poll' also exists in TASKS['b0']."
    ]
    (message,) = messages({"poll": often})
    assert message.startswith("E012 TASKS['b0']: the schedule 'poll' ticks more than once a minute")
    assert messages({"poll": often}, **RECORDED) == []

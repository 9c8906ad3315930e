"""The jobs of Cloud Scheduler: which are wanted, what changes, and how it is printed."""

import shlex
from datetime import timedelta

import attrs
from django_tasks_cloud_tasks.core.requests import OidcIdentity
from django_tasks_cloud_tasks.core.scheduler_jobs import (
    SIGNATURE_COMMAND,
    CreateJob,
    DeleteJob,
    Endpoints,
    ForeignJob,
    Job,
    UpdateJob,
    as_gcloud,
    as_terraform,
    described,
    job_changes,
    wanted_jobs,
)
from django_tasks_cloud_tasks.core.schedules import Cron, Every, Schedule

OIDC = OidcIdentity(service_account_email="shop@p", audience="https://shop.example.com")
URL = "https://shop.example.com/cloudtasks/schedule/"
RELAY = "https://shop.example.com/cloudtasks/relay/"
SITE = Endpoints(schedule=URL, relay=RELAY, oidc=OIDC)
NIGHTLY = Schedule(name="nightly", task_path="s.t", rhythm=Cron("0 3 * * *", "Europe/Berlin"))
POLL = Schedule(name="poll", task_path="s.t", rhythm=Every(timedelta(minutes=5)))
MARK = f"Managed by cloudtasks_schedules for {URL}"


def wanted(site: Endpoints = SITE, *schedules: Schedule, each: bool = False) -> list[Job]:
    return wanted_jobs(schedules, site, prefix="shop", each=each)


def test_one_job_drives_all_schedules_and_one_the_relay() -> None:
    schedules, relay = wanted(SITE, NIGHTLY, POLL)
    assert schedules == Job(
        id="shop-schedules", description=MARK, cron=Cron("* * * * *"), url=URL, oidc=OIDC
    )
    assert (relay.id, relay.url) == ("shop-relay", RELAY)
    assert wanted(attrs.evolve(SITE, relay=None)) == []


def test_each_schedule_can_have_its_own_job() -> None:
    nightly, poll, _ = wanted(SITE, NIGHTLY, POLL, each=True)
    assert (nightly.id, nightly.cron, nightly.url) == (
        "shop-schedule-nightly",
        Cron("0 3 * * *", "Europe/Berlin"),
        f"{URL}nightly/",
    )
    assert (poll.cron, poll.url) == (Cron("* * * * *"), f"{URL}poll/")


def test_only_the_own_jobs_are_changed() -> None:
    schedules, relay = wanted(SITE, NIGHTLY)
    other_site = attrs.evolve(relay, id="other", description="Managed by somebody")
    left = attrs.evolve(relay, id="shop-schedule-old")
    late = attrs.evolve(relay, retries=0, oidc=None)
    changes = job_changes([schedules, relay], [late, other_site, left], SITE)
    assert changes == [
        CreateJob(schedules),
        UpdateJob(relay, late, ("oidc", "retries")),
        DeleteJob(left),
    ]
    assert job_changes([schedules, relay], [schedules, relay, other_site], SITE) == []
    assert job_changes([], [schedules], SITE) == [DeleteJob(schedules)]
    foreign = attrs.evolve(relay, description="")
    assert job_changes([relay], [foreign], SITE) == [ForeignJob(foreign)]


def test_a_difference_of_signatures_shows_none_of_them() -> None:
    (job,) = wanted(Endpoints(schedule=URL, signature="secret-one"), NIGHTLY)
    (change,) = job_changes([job], [attrs.evolve(job, signature="secret-two")], SITE)
    assert described(change) == ["~ shop-schedules", "    signature: another one"]
    assert "secret" not in repr(change)
    where = {"project": "p", "location": "europe-west1"}
    command = as_gcloud(change, **where)
    assert "secret" not in command + as_terraform(job, **where)
    assert command.endswith(f'--update-headers="{SIGNATURE_COMMAND}"')
    assert "var.cloudtasks_signature" in as_terraform(job, **where)


def test_the_printed_command_has_all_settings() -> None:
    nightly, *_ = wanted(SITE, NIGHTLY, each=True)
    words = shlex.split(as_gcloud(CreateJob(nightly), project="p", location="europe-west1"))
    assert words[:6] == ["gcloud", "scheduler", "jobs", "create", "http", "shop-schedule-nightly"]
    assert set(words[6:]) == {
        "--project=p",
        "--location=europe-west1",
        "--schedule=0 3 * * *",
        "--time-zone=Europe/Berlin",
        f"--uri={URL}nightly/",
        "--http-method=POST",
        "--attempt-deadline=180s",
        "--max-retry-attempts=5",
        f"--description={MARK}",
        "--oidc-service-account-email=shop@p",
        "--oidc-token-audience=https://shop.example.com",
    }
    deletion = as_gcloud(DeleteJob(nightly), project="p", location="europe-west1")
    assert deletion.endswith("--location=europe-west1 --quiet")

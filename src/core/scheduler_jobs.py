"""The jobs of Cloud Scheduler that drive the schedules and the relay of a site.

The names, limits and defaults are those of the API reference of Cloud Scheduler for `Job`.
"""

import re
import shlex
from collections.abc import Collection
from datetime import timedelta

import attrs

from .requests import SIGNATURE_HEADER, OidcIdentity
from .schedules import Cron, Schedule

EVERY_MINUTE = Cron("* * * * *")
MARK = "Managed by cloudtasks_schedules for "
"""The description of a job begins with this text. The URL of the site's endpoint follows."""

ATTEMPT_DEADLINE = timedelta(minutes=3)
RETRIES = 5
SIGNATURE_COMMAND = "$(python manage.py cloudtasks_relay --print-signature)"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@attrs.frozen(kw_only=True)
class Job:
    """A job of Cloud Scheduler with an HTTP target.

    Attributes:
        id: the id of the job.
        description: see `MARK`.
        cron: when it runs.
        url: the URL that it calls with POST.
        oidc: the token that its calls carry; None without one.
        signature: the fixed signature of an empty body that its calls carry; empty without one.
        attempt_deadline: how long Cloud Scheduler waits for a response.
        retries: how many times Cloud Scheduler repeats a failed call.
    """

    id: str
    description: str
    cron: Cron
    url: str
    oidc: OidcIdentity | None = None
    signature: str = attrs.field(default="", repr=False)
    attempt_deadline: timedelta = ATTEMPT_DEADLINE
    retries: int = RETRIES


@attrs.frozen(kw_only=True)
class Endpoints:
    """The URLs of a site that Cloud Scheduler calls, and the proof that its calls carry.

    Attributes:
        schedule: the URL for all schedules. The URL of one schedule is below it.
        relay: the URL of the relay; None if no task is recorded.
        oidc, signature: see `Job`.
    """

    schedule: str
    relay: str | None = None
    oidc: OidcIdentity | None = None
    signature: str = attrs.field(default="", repr=False)

    @property
    def mark(self) -> str:
        """The description of the jobs of this site."""
        return f"{MARK}{self.schedule}"


def wanted_jobs(
    schedules: Collection[Schedule], endpoints: Endpoints, *, prefix: str, each: bool
) -> list[Job]:
    """Return the jobs that drive a site.

    Args:
        schedules: the schedules of the site.
        endpoints: the URLs, and the proof.
        prefix: the beginning of the ids.
        each: whether each schedule has its own job. Otherwise one job drives all.
    """
    made = []
    if schedules and not each:
        made.append(("schedules", EVERY_MINUTE, endpoints.schedule))
    if each:
        for one in schedules:
            # Cloud Scheduler has no intervals. The endpoint knows at which minutes to tick.
            cron = one.rhythm if isinstance(one.rhythm, Cron) else EVERY_MINUTE
            made.append((f"schedule-{one.name}", cron, f"{endpoints.schedule}{one.name}/"))
    if endpoints.relay:
        made.append(("relay", EVERY_MINUTE, endpoints.relay))
    return [
        Job(
            id=job_id(prefix, name),
            description=endpoints.mark,
            cron=cron,
            url=url,
            oidc=endpoints.oidc,
            signature=endpoints.signature,
        )
        for name, cron, url in made
    ]


def job_id(prefix: str, name: str) -> str:
    """Return the id of a job."""
    return _UNSAFE.sub("-", f"{prefix}-{name}")


# The differences.


@attrs.frozen
class CreateJob:
    """The job does not exist."""

    job: Job


@attrs.frozen
class UpdateJob:
    """The job exists, and differs in these fields.

    Attributes:
        job: the wanted job.
        current: the existing job.
        fields: the names of the attributes that differ.
    """

    job: Job
    current: Job
    fields: tuple[str, ...]


@attrs.frozen
class DeleteJob:
    """The job exists, `cloudtasks_schedules` made it for this site, and it is not wanted."""

    job: Job


@attrs.frozen
class ForeignJob:
    """A job with this id exists, and `cloudtasks_schedules` did not make it for this site."""

    job: Job


type JobChange = CreateJob | UpdateJob | DeleteJob | ForeignJob


def job_changes(
    wanted: Collection[Job], existing: Collection[Job], endpoints: Endpoints
) -> list[JobChange]:
    """Return the changes after which Cloud Scheduler has the wanted jobs of a site.

    Jobs of others are never changed or deleted.

    Args:
        wanted: the jobs of the site.
        existing: all jobs of the location.
        endpoints: the URLs of the site.
    """
    known = {job.id: job for job in existing}
    changes: list[JobChange] = []
    for job in wanted:
        current = known.get(job.id)
        if current is None:
            changes.append(CreateJob(job))
        elif current.description != job.description:
            changes.append(ForeignJob(current))
        elif fields := _differing(job, current):
            changes.append(UpdateJob(job, current, fields))
    names = {job.id for job in wanted}
    return changes + [
        DeleteJob(job)
        for job in sorted(existing, key=lambda one: one.id)
        if job.id not in names and job.description == endpoints.mark
    ]


def _differing(job: Job, current: Job) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in attrs.fields(Job)
        if getattr(job, field.name) != getattr(current, field.name)
    )


def described(change: JobChange) -> list[str]:
    """Return lines that describe a change for people. They do not contain the signature."""
    job = change.job
    match change:
        case CreateJob():
            return [f"+ {job.id}", f"    {job.cron} -> {job.url}"]
        case DeleteJob():
            return [f"- {job.id}"]
        case ForeignJob():
            return [f"! {job.id} exists, and another program or site made it"]
        case UpdateJob(_, current, fields):
            return [f"~ {job.id}", *(f"    {_difference(job, current, name)}" for name in fields)]


def _difference(job: Job, current: Job, name: str) -> str:
    if name == "signature":
        return "signature: another one"
    return f"{name}: {getattr(current, name)} -> {getattr(job, name)}"


# The same as commands and as configuration of other tools.


def as_gcloud(change: JobChange, *, project: str, location: str) -> str:
    """Return the `gcloud` command that makes a change; a comment if nothing can be done."""
    job = change.job
    where = f"--project={project} --location={location}"
    match change:
        case ForeignJob():
            return f"# {job.id} exists, and another program or site made it."
        case DeleteJob():
            return f"gcloud scheduler jobs delete {job.id} {where} --quiet"
        case CreateJob():
            action, headers = "create", "--headers"
        case UpdateJob():
            action, headers = "update", "--update-headers"
    flags = {
        "--schedule": job.cron.expression,
        "--time-zone": job.cron.time_zone,
        "--uri": job.url,
        "--http-method": "POST",
        "--attempt-deadline": f"{job.attempt_deadline.total_seconds():g}s",
        "--max-retry-attempts": str(job.retries),
        "--description": job.description,
    }
    if job.oidc:
        flags["--oidc-service-account-email"] = job.oidc.service_account_email
        flags["--oidc-token-audience"] = job.oidc.audience
    written = [f"{flag}={shlex.quote(value)}" for flag, value in flags.items()]
    if job.signature:
        # The signature is a secret, so the command computes it when it runs.
        written.append(f'{headers}="{SIGNATURE_COMMAND}"')
    return " ".join([f"gcloud scheduler jobs {action} http {job.id} {where}", *written])


def as_terraform(job: Job, *, project: str, location: str) -> str:
    """Return the Terraform resource of a job. The signature is a variable, as it is a secret."""
    target = ['    http_method = "POST"', f'    uri         = "{job.url}"']
    if job.signature:
        target.append(f'    headers     = {{ "{SIGNATURE_HEADER}" = var.cloudtasks_signature }}')
    if job.oidc:
        target += [
            "    oidc_token {",
            f'      service_account_email = "{job.oidc.service_account_email}"',
            f'      audience              = "{job.oidc.audience}"',
            "    }",
        ]
    return "\n".join(
        [
            f'resource "google_cloud_scheduler_job" "{job.id}" {{',
            f'  project          = "{project}"',
            f'  region           = "{location}"',
            f'  name             = "{job.id}"',
            f'  description      = "{job.description}"',
            f'  schedule         = "{job.cron.expression}"',
            f'  time_zone        = "{job.cron.time_zone}"',
            f'  attempt_deadline = "{job.attempt_deadline.total_seconds():g}s"',
            "",
            "  retry_config {",
            f"    retry_count = {job.retries}",
            "  }",
            "",
            "  http_target {",
            *target,
            "  }",
            "}",
        ]
    )

"""The jobs of Cloud Scheduler of the site, and the administration that changes them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import attrs
from django.urls import NoReverseMatch, reverse

from ...core.administration import SchedulerAdmin
from ...core.errors import ConfigurationError
from ...core.options import Authentication
from ...core.scheduler_jobs import (
    CreateJob,
    DeleteJob,
    Endpoints,
    ForeignJob,
    Job,
    JobChange,
    UpdateJob,
    job_changes,
    job_id,
    wanted_jobs,
)
from ..configuration import Configuration
from ..registry import SiteBackend, backends
from ..runtime import get_runtime
from ..signing import sign
from .site_schedules import SiteSchedule, site_schedules

_LABEL = re.compile(r"[^a-z0-9-]+")


@attrs.frozen
class JobLocation:
    """The jobs of the site in one location.

    Attributes:
        project, location: the ids of the project and of the location.
        admin: the administration of the jobs.
        endpoints: the URLs that the jobs call.
        schedules: the schedules that the jobs drive.
        prefix: the beginning of the ids of the jobs.
    """

    project: str
    location: str
    admin: SchedulerAdmin
    endpoints: Endpoints
    schedules: list[SiteSchedule]
    prefix: str

    def job_id(self, schedule: str) -> str:
        """Return the id of the job that drives only this schedule."""
        return job_id(self.prefix, f"schedule-{schedule}")

    def wanted(self, *, each: bool) -> list[Job]:
        """Return the jobs that should exist. See `core.scheduler_jobs.wanted_jobs`."""
        schedules = [one.schedule for one in self.schedules]
        return wanted_jobs(schedules, self.endpoints, prefix=self.prefix, each=each)

    def changes(self, *, each: bool) -> list[JobChange]:
        """Return the changes after which the jobs are as wanted.

        Raises:
            AdministrationError: Cloud Scheduler refused the call or did not answer.
        """
        existing = self.admin.jobs(self.project, self.location)
        return job_changes(self.wanted(each=each), existing, self.endpoints)

    def apply(self, change: JobChange) -> None:
        """Make one change. A job of others stays.

        Raises:
            AdministrationError: Cloud Scheduler refused the call or did not answer.
        """
        where = (self.project, self.location)
        match change:
            case CreateJob(job):
                self.admin.create(*where, job)
            case UpdateJob(job, _, _):
                self.admin.update(*where, job)
            case DeleteJob(job):
                self.admin.delete(*where, job.id)
            case ForeignJob():
                pass


def job_locations() -> list[JobLocation]:
    """Return the locations of the site's jobs: one for each project, location and proof.

    Raises:
        ConfigurationError: a setting is missing, or the URLs of the package are not included.
    """
    groups: dict[tuple[str, str, str | None, Endpoints], list[SiteBackend]] = {}
    for backend in backends():
        configuration = backend.configuration
        if configuration.options.schedules or configuration.options.results:
            project, location = configuration.location
            place = (project, location, configuration.emulator_host, _endpoints(configuration))
            groups.setdefault(place, []).append(backend)
    found: list[JobLocation] = []
    for (project, location, emulator_host, endpoints), members in groups.items():
        aliases, label = [member.alias for member in members], _label(endpoints.schedule)
        recorded = any(member.configuration.options.results for member in members)
        relay = _url(members[0].configuration, "relay") if recorded else None
        found.append(
            JobLocation(
                project=project,
                location=location,
                admin=get_runtime().make_scheduler_admin(emulator_host),
                endpoints=attrs.evolve(endpoints, relay=relay),
                schedules=site_schedules(aliases),
                prefix=f"{label}-{aliases[0]}" if found else label,
            )
        )
    return found


def _endpoints(configuration: Configuration) -> Endpoints:
    """Return the URL for the schedules, and the proof. Without the URL of the relay."""
    is_signed = configuration.policy.mode in {Authentication.SIGNATURE, Authentication.PLATFORM}
    return Endpoints(
        schedule=_url(configuration, "schedule"),
        oidc=configuration.route.oidc,
        signature=sign(b"") if is_signed else "",
    )


def _url(configuration: Configuration, name: str) -> str:
    """Return the public URL of an endpoint of this package.

    Raises:
        ConfigurationError: the URLs of the package are not included.
    """
    try:
        path = reverse(f"django_tasks_cloud_tasks:{name}")
    except NoReverseMatch as error:
        raise ConfigurationError(
            "The URLs of this package are not in the URLconf. Add path('cloudtasks/', "
            "include('django_tasks_cloud_tasks.urls'))."
        ) from error
    handler = urlsplit(configuration.route.url)
    return f"{handler.scheme}://{handler.netloc}{path}"


def _label(url: str) -> str:
    """Return the first label of the host of a URL, for the id of a job."""
    host = urlsplit(url).hostname or ""
    return _LABEL.sub("-", host.partition(".")[0]) or "site"

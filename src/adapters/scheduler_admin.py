"""The administration of Cloud Scheduler over its API.

It uses the client class of google-cloud-scheduler, which the extra `[scheduler]` installs. Only
commands import this module.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from ..core.errors import AdministrationError
from ..core.requests import SIGNATURE_HEADER, OidcIdentity
from ..core.scheduler_jobs import ATTEMPT_DEADLINE, Job
from ..core.schedules import Cron
from .administration_errors import converted_errors

_TIMEOUT = 30.0  # seconds for one call
_MASK = (
    *("description", "http_target", "schedule", "time_zone"),
    *("retry_config.retry_count", "attempt_deadline"),
)


class GrpcSchedulerAdmin:
    """A `SchedulerAdmin` that calls Cloud Scheduler, or an emulator of it.

    Args:
        emulator_host: HOST:PORT of an emulator; None for the service.

    Raises:
        AdministrationError: google-cloud-scheduler is not installed, or there are no credentials.
    """

    def __init__(self, emulator_host: str | None = None) -> None:
        try:
            from google.cloud import scheduler_v1
            from google.cloud.scheduler_v1.services.cloud_scheduler.transports import (
                CloudSchedulerGrpcTransport,
            )
        except ImportError as error:
            raise AdministrationError(
                "google-cloud-scheduler is not installed. Run: pip install "
                "'django-tasks-cloud-tasks[scheduler]'"
            ) from error
        self._types = scheduler_v1
        self._emulator_host = emulator_host
        with self._errors():
            if emulator_host:
                channel = grpc.insecure_channel(emulator_host)
                transport = CloudSchedulerGrpcTransport(channel=channel)
                self._client = scheduler_v1.CloudSchedulerClient(transport=transport)
            else:
                self._client = scheduler_v1.CloudSchedulerClient()

    def jobs(self, project: str, location: str) -> list[Job]:
        """See `SchedulerAdmin.jobs`."""
        parent = _parent(project, location)
        with self._errors():
            found = self._client.list_jobs(parent=parent, timeout=_TIMEOUT, retry=None)
            return [_read(job) for job in found if "http_target" in job]

    def create(self, project: str, location: str, job: Job) -> None:
        """See `SchedulerAdmin.create`."""
        parent = _parent(project, location)
        with self._errors():
            self._client.create_job(
                parent=parent, job=self._message(parent, job), timeout=_TIMEOUT, retry=None
            )

    def update(self, project: str, location: str, job: Job) -> None:
        """See `SchedulerAdmin.update`."""
        parent = _parent(project, location)
        with self._errors():
            self._client.update_job(
                job=self._message(parent, job),
                update_mask=FieldMask(paths=_MASK),
                timeout=_TIMEOUT,
                retry=None,
            )

    def delete(self, project: str, location: str, job_id: str) -> None:
        """See `SchedulerAdmin.delete`."""
        name = _name(project, location, job_id)
        with self._errors():
            self._client.delete_job(name=name, timeout=_TIMEOUT, retry=None)

    def pause(self, project: str, location: str, job_id: str) -> None:
        """See `SchedulerAdmin.pause`."""
        name = _name(project, location, job_id)
        with self._errors():
            self._client.pause_job(name=name, timeout=_TIMEOUT, retry=None)

    def resume(self, project: str, location: str, job_id: str) -> None:
        """See `SchedulerAdmin.resume`."""
        name = _name(project, location, job_id)
        with self._errors():
            self._client.resume_job(name=name, timeout=_TIMEOUT, retry=None)

    def _message(self, parent: str, job: Job) -> Any:  # noqa: ANN401 - no types without the extra
        types = self._types
        target = types.HttpTarget(
            uri=job.url,
            http_method=types.HttpMethod.POST,
            headers={SIGNATURE_HEADER: job.signature} if job.signature else {},
        )
        if job.oidc:
            target.oidc_token = types.OidcToken(
                service_account_email=job.oidc.service_account_email, audience=job.oidc.audience
            )
        return types.Job(
            name=f"{parent}/jobs/{job.id}",
            description=job.description,
            http_target=target,
            schedule=job.cron.expression,
            time_zone=job.cron.time_zone,
            retry_config=types.RetryConfig(retry_count=job.retries),
            attempt_deadline=job.attempt_deadline,
        )

    def _errors(self) -> AbstractContextManager[None]:
        grant = (
            "Grant it the roles roles/cloudscheduler.admin on the project, and "
            "roles/iam.serviceAccountUser on the service account of the jobs."
        )
        return converted_errors("Cloud Scheduler", self._emulator_host, grant=grant)


def _parent(project: str, location: str) -> str:
    return f"projects/{project}/locations/{location}"


def _name(project: str, location: str, job_id: str) -> str:
    return f"{_parent(project, location)}/jobs/{job_id}"


def _read(job: Any) -> Job:  # noqa: ANN401 - no types without the extra
    target, oidc = job.http_target, None
    if "oidc_token" in target:
        token = target.oidc_token
        oidc = OidcIdentity(
            service_account_email=token.service_account_email, audience=token.audience
        )
    headers = {name.lower(): value for name, value in target.headers.items()}
    deadline: timedelta = job.attempt_deadline
    return Job(
        id=job.name.rpartition("/")[2],
        description=job.description,
        cron=Cron(job.schedule, job.time_zone or "UTC"),
        url=target.uri,
        oidc=oidc,
        signature=headers.get(SIGNATURE_HEADER.lower(), ""),
        attempt_deadline=deadline or ATTEMPT_DEADLINE,
        retries=job.retry_config.retry_count,
    )

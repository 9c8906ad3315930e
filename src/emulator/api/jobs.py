"""The methods of Cloud Scheduler. This module needs the extra [scheduler]."""

from google.cloud.scheduler_v1 import types
from google.protobuf.empty_pb2 import Empty

from ..messages.jobs import check_size, job_name, merge_job, read_job, read_job_id, write_job
from ..messages.wire import Message, location_name
from ..state.job_service import JobService
from ..state.jobs import Job, JobConfig, created
from .driver import Driver
from .method import Method, cloud_scheduler_path
from .pagination import page

_MOST_JOBS = 500  # on a page


class Jobs:
    """Handles the methods for jobs."""

    def __init__(self, service: JobService, driver: Driver) -> None:
        self._service = service
        self._driver = driver
        handlers = {
            "ListJobs": self._list,
            "GetJob": self._get,
            "CreateJob": self._create,
            "UpdateJob": self._update,
            "DeleteJob": self._delete,
            "PauseJob": self._pause,
            "ResumeJob": self._resume,
            "RunJob": self._run,
        }
        self.methods = {
            cloud_scheduler_path(name): Method(getattr(types, f"{name}Request").pb(), handle)
            for name, handle in handlers.items()
        }

    def _list(self, request: Message) -> Message:
        shown, token = page(
            self._service.jobs(location_name(request.parent)),
            lambda job: (job.name,),
            size=request.page_size,
            token=request.page_token,
            largest=_MOST_JOBS,
            weight=lambda job: len(job.config.target.body),
        )
        return types.ListJobsResponse.pb()(
            jobs=[write_job(job) for job in shown], next_page_token=token
        )

    def _get(self, request: Message) -> Message:
        return write_job(self._service.job(job_name(request.name)))

    def _create(self, request: Message) -> Message:
        parent = location_name(request.parent)
        job_id, config = read_job_id(request.job, parent), read_job(request.job)
        self._check_size(f"{parent}/jobs/{job_id or '0' * 20}", config)
        job = self._service.create(parent, job_id, config, self._driver.now())
        self._driver.log("job created", job=job.name, schedule=config.schedule.expression)
        self._driver.job_touched(job.name)
        message = write_job(job)
        # Production shows this time only after a while.
        message.ClearField("schedule_time")
        return message

    def _update(self, request: Message) -> Message:
        name = job_name(request.job.name)
        wanted = request.job
        stored = write_job(self._service.job(name))
        if request.update_mask.paths:
            merge_job(request.update_mask, request.job, stored)
            wanted = stored
        config = read_job(wanted)
        self._check_size(name, config)
        job = self._service.update(name, config, self._driver.now())
        return self._changed("job updated", job)

    def _delete(self, request: Message) -> Message:
        name = job_name(request.name)
        self._service.delete(name)
        self._driver.log("job deleted", job=name)
        self._driver.job_touched(name)
        return Empty()

    def _pause(self, request: Message) -> Message:
        job = self._service.pause(job_name(request.name), self._driver.now())
        return self._changed("job paused", job)

    def _resume(self, request: Message) -> Message:
        job = self._service.resume(job_name(request.name), self._driver.now())
        return self._changed("job resumed", job)

    def _run(self, request: Message) -> Message:
        attempt = self._service.run(job_name(request.name), self._driver.now())
        self._driver.begin(attempt)
        return write_job(self._service.job(attempt.name))

    def _changed(self, event: str, job: Job) -> Message:
        self._driver.log(event, job=job.name)
        self._driver.job_touched(job.name)
        return write_job(job)

    def _check_size(self, name: str, config: JobConfig) -> None:
        check_size(write_job(created(name, config, self._driver.now())))

"""The table of all methods: those of `CloudTasks`, `CloudScheduler`, locations and operations."""

from ..errors import ApiError, Status
from ..state.job_service import JobService
from ..state.state_machine import Service
from .batches import Batches
from .cmek import CmekConfigs
from .driver import Driver
from .iam import Policies
from .locations import Locations
from .method import Method, cloud_scheduler_path, refused_method
from .queues import Queues
from .tasks import Tasks

_JOB_METHODS = (
    *("ListJobs", "GetJob", "CreateJob", "UpdateJob", "DeleteJob"),
    *("PauseJob", "ResumeJob", "RunJob"),
)


class Api:
    """The API of a `Service` and a `JobService`.

    Args:
        service: the queues and tasks.
        jobs: the jobs of Cloud Scheduler.
        driver: the program that runs the API.

    Attributes:
        methods: all methods by gRPC path.
    """

    def __init__(self, service: Service, jobs: JobService, driver: Driver) -> None:
        self._tasks = Tasks(service, driver)
        self._batches = Batches(service, driver, self._tasks.create)
        self._policies = Policies(service)
        self._cmek = CmekConfigs()
        self.methods = (
            Queues(service, driver).methods
            | self._tasks.methods
            | self._batches.methods
            | self._policies.methods
            | self._cmek.methods
            | Locations(service).methods
            | _job_methods(jobs, driver)
        )

    def has_url(self, queue: str) -> bool:
        """Return whether a queue overrides the host of its tasks' URLs."""
        return self._tasks.has_url(queue)

    def reset(self) -> None:
        """Remove all operations, IAM policies and CMEK configurations."""
        self._batches.reset()
        self._policies.reset()
        self._cmek.reset()


def _job_methods(jobs: JobService, driver: Driver) -> dict[str, Method]:
    """Return the methods of Cloud Scheduler.

    If the extra [scheduler] is not installed, they refuse every request.
    """
    try:
        from .jobs import Jobs
    except ImportError as error:
        missing = error.name

        def refusal() -> ApiError:
            return ApiError(
                Status.UNIMPLEMENTED,
                f"Cloud Scheduler needs the extra [scheduler], because {missing} is missing. Run: "
                "pip install 'django-tasks-cloud-tasks[scheduler]', and restart the emulator.",
            )

        return {cloud_scheduler_path(name): refused_method(refusal) for name in _JOB_METHODS}
    return Jobs(jobs, driver).methods

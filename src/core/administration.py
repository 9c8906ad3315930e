"""The protocols of the administration of queues and of Cloud Scheduler.

Only commands use them. So they are apart from `ports`, and no start-up imports their values.
"""

from typing import Protocol

from .cloud_queues import CloudQueue, QueueSettings
from .doctor import ProbeTaskStatus
from .names import QueueName
from .scheduler_jobs import Job


class QueueAdmin(Protocol):
    """The administration of queues.

    Every method raises `AdministrationError` if Cloud Tasks refused the call or did not answer.
    """

    def queues(self, project: str, location: str) -> list[CloudQueue]:
        """Return all queues of a location, sorted by id."""

    def create(self, queue: QueueName, settings: QueueSettings) -> None:
        """Create a queue with these settings. The others have the defaults of Cloud Tasks."""

    def update(self, queue: QueueName, settings: QueueSettings) -> None:
        """Change these settings of a queue. The others stay."""

    def delete(self, queue: QueueName) -> None:
        """Delete a queue and its tasks. Its name cannot be used again for some days."""

    def pause(self, queue: QueueName) -> None:
        """Stop the dispatches of a queue. It still accepts tasks."""

    def resume(self, queue: QueueName) -> None:
        """Start the dispatches of a paused queue."""

    def purge(self, queue: QueueName) -> None:
        """Delete all tasks of a queue."""

    def count(self, queue: QueueName, *, limit: int) -> int:
        """Return the number of tasks in a queue, at most `limit`."""

    def status(self, queue: QueueName, cloud_task_id: str) -> ProbeTaskStatus | None:
        """Return what Cloud Tasks shows about a task; None if it does not exist."""


class SchedulerAdmin(Protocol):
    """The administration of Cloud Scheduler.

    Every method raises `AdministrationError` if Cloud Scheduler refused the call or did not answer.
    """

    def jobs(self, project: str, location: str) -> list[Job]:
        """Return the jobs of a location that have an HTTP target."""

    def create(self, project: str, location: str, job: Job) -> None:
        """Create a job."""

    def update(self, project: str, location: str, job: Job) -> None:
        """Give an existing job the attributes of `job`. Whether it is paused stays."""

    def delete(self, project: str, location: str, job_id: str) -> None:
        """Delete a job."""

    def pause(self, project: str, location: str, job_id: str) -> None:
        """Stop the calls of a job."""

    def resume(self, project: str, location: str, job_id: str) -> None:
        """Start the calls of a paused job."""

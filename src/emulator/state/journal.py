"""The journal of the state machine: it records every change before the change is made.

A journal may refuse a change, for example because the disk is full. It then raises `ApiError`, and
the change is not made.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from .jobs import Job
from .model import Queue, Task


class Journal(Protocol):
    """Records every change before it is made.

    Every method raises `ApiError` if the change cannot be recorded. Nothing is recorded then. Times
    are nanoseconds since the epoch.
    """

    def together(self) -> AbstractContextManager[None]:
        """Return a context manager that records the changes inside it as one change.

        Raises:
            ApiError: at the end of the context at the latest. None of the changes is recorded.
        """

    def queue_changed(self, queue: Queue) -> None:
        """Record a new queue or a changed queue."""

    def queue_deleted(self, name: str, until: int) -> None:
        """Record that a queue and its tasks are deleted. The name is reserved until `until`."""

    def task_changed(self, task: Task) -> None:
        """Record a new task or a changed task."""

    def task_removed(self, task: Task, until: int) -> None:
        """Record that a task is removed. Its name is reserved until `until`."""

    def emptied(self) -> None:
        """Record that all queues, tasks, jobs and reserved names are removed."""


class JobJournal(Protocol):
    """Records every change of a job before it is made, as `Journal` does for queues and tasks."""

    def job_changed(self, job: Job) -> None:
        """Record a new job or a changed job."""

    def job_removed(self, name: str) -> None:
        """Record that a job is removed."""


class NullJournal:
    """A `Journal` and `JobJournal` that records nothing."""

    def together(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def queue_changed(self, queue: Queue) -> None:
        """Do nothing."""

    def queue_deleted(self, name: str, until: int) -> None:
        """Do nothing."""

    def task_changed(self, task: Task) -> None:
        """Do nothing."""

    def task_removed(self, task: Task, until: int) -> None:
        """Do nothing."""

    def job_changed(self, job: Job) -> None:
        """Do nothing."""

    def job_removed(self, name: str) -> None:
        """Do nothing."""

    def emptied(self) -> None:
        """Do nothing."""

"""The interface of the program that runs the methods of the API."""

from typing import Protocol

from ..state.jobs import JobAttempt
from ..state.model import Attempt


class Driver(Protocol):
    """Provides the time, dispatches tasks and jobs, and logs events for the methods of the API."""

    def now(self) -> int:
        """Return the time, in nanoseconds since the epoch."""

    def touched(self, queue: str) -> None:
        """Dispatch the due tasks of a queue, because the queue or its tasks changed."""

    def job_touched(self, job: str) -> None:
        """Execute a job if it is due, because the job changed."""

    def begin(self, attempt: Attempt | JobAttempt) -> None:
        """Start an attempt."""

    def log(self, event: str, **facts: object) -> None:
        """Log an event with its facts."""

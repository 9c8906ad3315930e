"""The interface of the program that runs the methods of the API."""

from typing import Protocol

from ..state.model import Attempt


class Driver(Protocol):
    """Provides the time, dispatches tasks and logs events for the methods of the API."""

    def now(self) -> int:
        """Return the time, in nanoseconds since the epoch."""

    def touched(self, queue: str) -> None:
        """Dispatch the due tasks of a queue, because the queue or its tasks changed."""

    def begin(self, attempt: Attempt) -> None:
        """Start an attempt."""

    def log(self, event: str, **facts: object) -> None:
        """Log an event with its facts."""

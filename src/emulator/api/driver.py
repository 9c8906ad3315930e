"""What the API's methods need from the program that runs them."""

from typing import Protocol

from ..state.model import Attempt


class Driver(Protocol):
    """Tells the time, dispatches what the methods changed, and logs."""

    def now(self) -> int:
        """The time, in nanoseconds since the epoch."""

    def touched(self, queue: str) -> None:
        """Dispatch what is due in the queue, because something in it changed."""

    def begin(self, attempt: Attempt) -> None:
        """Make the attempt."""

    def log(self, event: str, **facts: object) -> None:
        """Log an event."""

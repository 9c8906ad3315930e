"""The emulator's clock: the machine's, or one in the hand of a test."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time, in nanoseconds since the epoch."""

    def now(self) -> int:
        """The time."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """The time."""
        return time.time_ns()


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, start: int | None = None) -> None:
        self._now = time.time_ns() if start is None else start

    def now(self) -> int:
        """The time."""
        return self._now

    def move_to(self, moment: int) -> None:
        """Move on; a clock that went back would undo what has happened."""
        self._now = max(self._now, moment)

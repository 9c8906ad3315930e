"""The emulator's clock: the machine's, which can be moved on, or one that stands still."""

import time
from datetime import UTC, datetime
from typing import Protocol

from .limits import SECOND

LATEST = round(datetime(2262, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""How far a clock is moved on: nanoseconds since the epoch fit into 64 bits until April 2262, and
tasks lie up to a month ahead."""


class Clock(Protocol):
    """Tells the time, in nanoseconds since the epoch."""

    def now(self) -> int:
        """The time."""

    def move_to(self, moment: int) -> None:
        """Move on; a clock that went back would undo what has happened."""


class SystemClock:
    """The machine's clock, ahead by as much as it was moved on."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> int:
        """The time."""
        return time.time_ns() + self._ahead

    def move_to(self, moment: int) -> None:
        """See `Clock`."""
        self._ahead += max(0, moment - self.now())


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, start: int | None = None) -> None:
        self._now = time.time_ns() if start is None else start

    def now(self) -> int:
        """The time."""
        return self._now

    def move_to(self, moment: int) -> None:
        """See `Clock`."""
        self._now = max(self._now, moment)

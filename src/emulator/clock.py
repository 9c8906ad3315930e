"""The emulator's clocks: the machine's clock, which can be moved forward, and a manual clock."""

import time
from datetime import UTC, datetime
from typing import Protocol

from .state.limits import SECOND

LATEST = round(datetime(2262, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""The last time that a clock is moved to. Nanoseconds since the epoch fit into 64 bits until April
2262, and tasks are scheduled up to a month ahead."""


class Clock(Protocol):
    """Tells the time, in nanoseconds since the epoch."""

    def now(self) -> int:
        """The time."""

    def move_to(self, moment: int) -> None:
        """Move forward to that time. An earlier time changes nothing."""


class SystemClock:
    """The machine's clock, plus the time by which it was moved forward."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> int:
        """The time."""
        return time.time_ns() + self._ahead

    def move_to(self, moment: int) -> None:
        """See `Clock`."""
        self._ahead += max(0, moment - self.now())


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: int | None = None) -> None:
        self._now = time.time_ns() if start is None else start

    def now(self) -> int:
        """The time."""
        return self._now

    def move_to(self, moment: int) -> None:
        """See `Clock`."""
        self._now = max(self._now, moment)

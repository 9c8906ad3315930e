"""The clocks of the emulator: a system clock that can be moved forward, and a manual clock."""

import time
from datetime import UTC, datetime
from typing import Protocol

from .state.limits import SECOND

LATEST = round(datetime(2262, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""The latest time to which `advance` moves a clock. A time must fit into 64 bits, so the limit is
April 2262. Tasks are scheduled up to a month ahead."""


class Clock(Protocol):
    """A clock. All times are nanoseconds since the epoch."""

    def now(self) -> int:
        """Return the current time."""

    def move_to(self, moment: int) -> None:
        """Move the clock forward to `moment`. An earlier time changes nothing."""


class SystemClock:
    """The clock of the machine, plus the time by which `move_to` moved it forward."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> int:
        """See `Clock`."""
        return time.time_ns() + self._ahead

    def move_to(self, moment: int) -> None:
        """See `Clock`."""
        self._ahead += max(0, moment - self.now())


class ManualClock:
    """A clock that only `move_to` changes.

    Args:
        start: the first time, in nanoseconds since the epoch; None for the time of the machine.
    """

    def __init__(self, start: int | None = None) -> None:
        self._now = time.time_ns() if start is None else start

    def now(self) -> int:
        """See `Clock`."""
        return self._now

    def move_to(self, moment: int) -> None:
        """See `Clock`."""
        self._now = max(self._now, moment)

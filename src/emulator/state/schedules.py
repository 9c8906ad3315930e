"""The schedule of a job: a cron expression in a time zone."""

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import attrs
from cronsim import CronSim, CronSimError

from .limits import SECOND

_LATEST = 2**63 - 1  # nanoseconds since the epoch; the state file keeps times in 64 bits
_FIELDS = 5
_HOUR = 3600 * SECOND
# How far before a moment to look for the latest tick, from the shortest time to the longest.
_WINDOWS = (_HOUR, 24 * _HOUR, 32 * 24 * _HOUR)


class ScheduleError(ValueError):
    """An expression or a time zone is not valid. The text says why."""


@attrs.frozen
class Schedule:
    """The times at which a job is due. Such a time is called a tick.

    The library cronsim computes the ticks. Around a change to or from daylight saving time it does
    what Debian's cron does.

    Attributes:
        expression: minute, hour, day of month, month and day of week, as in a crontab.
        zone: the name of a time zone in the tz database; `UTC` in any case of letters.
    """

    expression: str
    zone: str = "UTC"

    @classmethod
    def checked(cls, expression: str, zone: str) -> "Schedule":
        """Return the schedule, if cronsim can read the expression and the time zone exists.

        Raises:
            ScheduleError: it cannot, or the zone does not exist.
        """
        _zone(zone)
        schedule = cls(expression, zone)
        if len(expression.split()) != _FIELDS:
            raise ScheduleError(f"a unix-cron expression has {_FIELDS} fields")
        try:
            schedule.after(0)
        except CronSimError as error:
            raise ScheduleError(str(error)) from error
        return schedule

    def after(self, moment: int) -> int | None:
        """Return the first tick after `moment`; None if there is none in the next 50 years.

        Args:
            moment: nanoseconds since the epoch.
        """
        return next(self._ticks(moment), None)

    def latest(self, first: int, moment: int) -> int:
        """Return the latest tick that is not after `moment`.

        Args:
            first: a tick that is not after `moment`, in nanoseconds since the epoch.
            moment: nanoseconds since the epoch.
        """
        for window in _WINDOWS:
            if moment - window <= first:
                break
            found = self._latest_after(moment - window, moment)
            if found is not None:
                return found
        return self._latest_after(first, moment) or first

    def local(self, moment: int) -> datetime:
        """Return a time, without its fraction of a second, in the time zone of the schedule."""
        return datetime.fromtimestamp(moment // SECOND, _zone(self.zone))

    def _latest_after(self, start: int, end: int) -> int | None:
        """Return the latest tick after `start` that is not after `end`; None if there is none."""
        found = None
        for tick in self._ticks(start):
            if tick > end:
                break
            found = tick
        return found

    def _ticks(self, moment: int) -> Iterator[int]:
        """Iterate over the ticks after `moment`, in nanoseconds since the epoch."""
        for local in CronSim(self.expression, self.local(moment)):
            tick = int(local.timestamp()) * SECOND
            if tick > _LATEST:
                return
            # In the hour that a clock repeats in autumn, cronsim may return a time of its first
            # run, although the iteration began in its second run.
            if tick > moment:
                yield tick


@lru_cache(maxsize=1000)
def _zone(name: str) -> tzinfo:
    """Return the time zone with this name.

    Raises:
        ScheduleError: there is none.
    """
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ScheduleError(f"the tz database has no time zone {name[:100]!r}") from None

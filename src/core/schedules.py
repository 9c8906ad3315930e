"""The option SCHEDULES: tasks that recur, their ticks, and which tick is to be enqueued.

A tick is a time at which a schedule enqueues its task. Ticks are aware datetimes in UTC.

cronsim computes the ticks of cron expressions. At a change of daylight saving time it follows
Debian's cron. An expression with a fixed hour and minute ticks once on such a day: a local time
that does not exist is moved to the first time that exists, and the first of two equal local times
is used. An expression with a wildcard in the hour or the minute follows the elapsed time.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import attrs
from cronsim import CronSim, CronSimError

from .backoff import seconds_of

SHORTEST_INTERVAL = timedelta(seconds=1)
LONGEST_INTERVAL = timedelta(days=366)

DRIVER_INTERVAL = timedelta(minutes=1)
"""Cloud Scheduler calls the endpoint once a minute, or at the ticks of a cron expression."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
_KEYS = ("task", "cron", "every", "time_zone", "args", "kwargs", "queue_name", "priority")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_FIELDS = 5
_HIGHEST_PRIORITY = 100
_MOST_TICKS = 5_000  # that are counted one by one; a longer past has a tick in its last two days
_RECENT = timedelta(days=2)


@attrs.frozen
class Cron:
    """A cron expression with five fields, in the local time of a time zone.

    Attributes:
        expression: the expression, such as `0 3 * * *`.
        time_zone: the name of the time zone in the tz database.
    """

    expression: str
    time_zone: str = "UTC"

    def __str__(self) -> str:
        return f"cron {self.expression} {self.time_zone}"


@attrs.frozen
class Every:
    """A fixed interval. The ticks are its multiples since 1970, so all processes agree on them."""

    interval: timedelta

    def __str__(self) -> str:
        return f"every {self.interval.total_seconds():g} s"


type Rhythm = Cron | Every


@attrs.frozen(kw_only=True)
class Schedule:
    """A task that recurs.

    Attributes:
        name: the name of the schedule. No other schedule of the site has it.
        task_path: the dotted path of the task.
        rhythm: when it ticks.
        args, kwargs: the arguments of the task.
        queue_name, priority: as in `Task.using()`; None for those that the task declares.
    """

    name: str
    task_path: str
    rhythm: Rhythm
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = attrs.field(factory=dict)
    queue_name: str | None = None
    priority: int | None = None


# The option.


def read_schedules(value: object) -> dict[str, Schedule]:
    """Check the value of the option. Return the schedules by name.

    Time zones and tasks are not looked up here.

    Raises:
        ValueError: the value is wrong. The text completes "SCHEDULES must be ...".
    """
    if not isinstance(value, Mapping):
        raise ValueError("a mapping from names to dicts")  # noqa: TRY004 - one kind of fault
    schedules = {}
    for name, entry in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                "a mapping whose keys are names of up to 100 letters, digits, hyphens and "
                f"underscores ({name!r} is not)"
            )
        if not isinstance(entry, Mapping):
            raise ValueError(  # noqa: TRY004 - one kind of fault
                f"a mapping to dicts ({name!r} has {entry!r})"
            )
        schedules[name] = _read_schedule(name, entry)
    return schedules


def _read_schedule(name: str, entry: Mapping[object, object]) -> Schedule:
    for key in entry:
        if key not in _KEYS:
            raise ValueError(
                f"a mapping to dicts with the keys {', '.join(_KEYS)} ({name!r} has {key!r})"
            )

    def value(
        key: str, said: str, is_valid: Callable[[Any], object], default: object = None
    ) -> Any:  # noqa: ANN401 - a valid value
        found = entry.get(key, default)
        if found is not default and not is_valid(found):
            raise ValueError(f"a mapping in which {key} is {said} ({name!r} has {found!r})")
        return found

    if ("cron" in entry) == ("every" in entry):
        raise ValueError(f"a mapping to dicts with either cron or every ({name!r} is not)")
    if "task" not in entry:
        raise ValueError(f"a mapping to dicts with the key task ({name!r} has none)")
    rhythm: Rhythm
    if "every" in entry:
        said = "from 1 second to 366 days, as a number of seconds or a timedelta"
        every = value("every", said, lambda v: _interval(v) is not None)
        rhythm = Every(_interval(every) or SHORTEST_INTERVAL)
        if "time_zone" in entry:
            raise ValueError(f"a mapping in which every has no time_zone ({name!r} has one)")
    else:
        said = "a cron expression with five fields that has a tick, such as '0 3 * * *'"
        zone = "the name of a time zone, such as 'Europe/Berlin'"
        rhythm = Cron(
            value("cron", said, _is_cron), value("time_zone", zone, _is_text, default="UTC")
        )
    return Schedule(
        name=name,
        task_path=value("task", "the dotted path of a task, such as 'shop.tasks.report'", _is_path),
        rhythm=rhythm,
        args=tuple(value("args", "a list", _is_list, default=())),
        kwargs=dict(value("kwargs", "a dict whose keys are strings", _is_kwargs, default={})),
        queue_name=value("queue_name", "a string", _is_text),
        priority=value("priority", "a whole number from -100 to 100", _is_priority),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and "." in value


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_kwargs(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_priority(value: object) -> bool:
    return (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _HIGHEST_PRIORITY
    )


def _interval(value: object) -> timedelta | None:
    """Return the interval for seconds or a timedelta; None if it is not one."""
    try:
        interval = timedelta(seconds=seconds_of(value))
    except ValueError:
        return None
    return interval if SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL else None


def _is_cron(value: object) -> bool:
    if not isinstance(value, str) or len(value.split()) != _FIELDS:
        return False
    try:
        next(CronSim(value, _SOME_TIME))
    except (CronSimError, StopIteration):
        return False
    return True


# Ticks.


def ticks(rhythm: Rhythm, *, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Return the ticks after a time, in order and without an end.

    Args:
        rhythm: when it ticks.
        after: an aware datetime. The first tick is later.
        zone: the time zone of a cron expression.
    """
    if isinstance(rhythm, Every):
        tick = _EPOCH + ((after - _EPOCH) // rhythm.interval + 1) * rhythm.interval
        while True:
            yield tick
            tick += rhythm.interval
    latest = after
    for local in CronSim(rhythm.expression, after.astimezone(zone)):
        tick = local.astimezone(UTC)
        if tick > latest:
            latest = tick
            yield tick


def next_tick(rhythm: Rhythm, *, after: datetime, zone: tzinfo) -> datetime:
    """Return the first tick after a time."""
    return next(ticks(rhythm, after=after, zone=zone))


def latest_tick(
    rhythm: Rhythm, *, after: datetime, until: datetime, zone: tzinfo
) -> datetime | None:
    """Return the last tick after `after` that is not after `until`; None without one."""
    if isinstance(rhythm, Every):
        tick = _EPOCH + (until - _EPOCH) // rhythm.interval * rhythm.interval
        return tick if tick > after else None
    found = None
    for count, tick in enumerate(ticks(rhythm, after=after, zone=zone)):
        if count > _MOST_TICKS:
            break
        if tick > until:
            return found
        found = tick
    recent = max(until - _RECENT, found or after)
    return latest_tick(rhythm, after=recent, until=until, zone=zone) or found


@attrs.frozen
class Tick:
    """A tick of a schedule.

    Attributes:
        schedule: the name of the schedule.
        at: the time, aware.
    """

    schedule: str
    at: datetime

    def task_id(self, *, url: str) -> str:
        """Return the id of the task of this tick: 32 hexadecimal digits, evenly distributed.

        All processes compute the same id. So Cloud Tasks and the database prevent a second task.

        Args:
            url: the URL of the endpoint. Two sites can use the same queues.
        """
        text = f"{url} {self.schedule} {self.at.astimezone(UTC).isoformat()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


# With a record: what was enqueued before.


@attrs.frozen(kw_only=True)
class ScheduleState:
    """What a store knows about a schedule. All times are aware.

    Attributes:
        name: the name of the schedule.
        rhythm: the text of its rhythm. A schedule with another rhythm begins anew.
        ticked_at: the latest tick that was enqueued, or the time from which the schedule ticks.
        paused: whether a person has paused it.
    """

    name: str
    rhythm: str
    ticked_at: datetime
    paused: bool = False


def begun(schedule: Schedule, *, at: datetime, paused: bool = False) -> ScheduleState:
    """Return the state of a schedule that ticks from a time on."""
    return ScheduleState(
        name=schedule.name, rhythm=str(schedule.rhythm), ticked_at=at, paused=paused
    )


@attrs.frozen
class Begin:
    """The schedule is new, or its rhythm has changed. Store `state`; nothing is enqueued."""

    state: ScheduleState


@attrs.frozen
class Fire:
    """Enqueue the task of `tick`, and store `state` in the same transaction."""

    tick: datetime
    state: ScheduleState


def due(
    schedule: Schedule,
    state: ScheduleState | None,
    *,
    now: datetime,
    zone: tzinfo,
    at: datetime | None = None,
) -> Begin | Fire | None:
    """Decide what a schedule does now; None for nothing.

    If several ticks were missed, only the latest is enqueued.

    Args:
        schedule: the schedule.
        state: what the store knows about it; None if it is new.
        now: the current time.
        zone: the time zone of a cron expression.
        at: the time that a call of Cloud Scheduler stands for; None for another driver. A new
            schedule then begins a minute before, because its tick can be the reason of the call.
    """
    if state is not None and state.rhythm == str(schedule.rhythm):
        known = state
    else:
        begin = now if at is None else min(now, at - DRIVER_INTERVAL)
        known = begun(schedule, at=begin, paused=state is not None and state.paused)
    if not known.paused:
        tick = latest_tick(schedule.rhythm, after=known.ticked_at, until=now, zone=zone)
        if tick is not None:
            return Fire(tick, attrs.evolve(known, ticked_at=tick))
    return None if known is state else Begin(known)


def paused(state: ScheduleState) -> ScheduleState:
    """Return the state of a paused schedule."""
    return attrs.evolve(state, paused=True)


def resumed(state: ScheduleState, *, now: datetime) -> ScheduleState:
    """Return the state of a resumed schedule. The ticks during the pause are left out."""
    return attrs.evolve(state, paused=False, ticked_at=max(now, state.ticked_at))


# The calls of Cloud Scheduler.


def needs_relay(rhythm: Rhythm) -> bool:
    """Return whether the ticks are too frequent for Cloud Scheduler, so that a relay must run."""
    return isinstance(rhythm, Every) and rhythm.interval < DRIVER_INTERVAL


LONGEST_DELAY = timedelta(hours=1)
"""An older call counts as a call for now, because Cloud Tasks forgets the names of old tasks."""


def called_for(environ: Mapping[str, object], *, now: datetime) -> datetime:
    """Return the time that a call of Cloud Scheduler stands for.

    The header `X-CloudScheduler-ScheduleTime` has it, in the format of RFC 3339.

    Args:
        environ: a WSGI environment, or Django's `request.META`.
        now: the current time, for a call without a valid header.
    """
    text = str(environ.get("HTTP_X_CLOUDSCHEDULER_SCHEDULETIME", ""))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return now
    return at if at.tzinfo and now - LONGEST_DELAY <= at <= now + DRIVER_INTERVAL else now


def due_at(schedule: Schedule, *, at: datetime, zone: tzinfo) -> datetime | None:
    """Return the tick that a call of Cloud Scheduler enqueues; None without one.

    That is the latest tick in the minute before `at`. If the call is repeated, `at` is the same.
    """
    return latest_tick(schedule.rhythm, after=at - DRIVER_INTERVAL, until=at, zone=zone)

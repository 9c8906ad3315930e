"""The schedules of the site, with their tasks and time zones."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from datetime import UTC, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs
from django.tasks.base import Task
from django.tasks.exceptions import InvalidTask
from django.utils.module_loading import import_string

from ...core.errors import ConfigurationError
from ...core.payload import TaskPayload
from ...core.ports import ResultStore
from ...core.schedules import Cron, Schedule, ScheduleState
from ..configuration import stores_of
from ..exceptions import message_of
from ..registry import SiteBackend, backends


@attrs.frozen
class SiteSchedule:
    """A schedule, and the backend whose SCHEDULES contain it."""

    backend: SiteBackend
    schedule: Schedule

    @property
    def store(self) -> ResultStore | None:
        """The store with the state of the schedule; None without RESULTS."""
        return self.backend.configuration.results

    def zone(self) -> tzinfo:
        """Return the time zone of the ticks.

        Raises:
            ConfigurationError: the time zone is not known on this machine.
        """
        rhythm = self.schedule.rhythm
        return zone_named(rhythm.time_zone) if isinstance(rhythm, Cron) else UTC

    def task(self) -> Task[..., Any]:
        """Return the task with the queue and the priority of the schedule.

        Raises:
            ConfigurationError: there is no task at the path.
            InvalidTask: the backend does not accept the queue or the priority.
        """
        task = task_at(self.schedule.task_path)
        options: dict[str, Any] = {"backend": self.backend.alias}
        if self.schedule.queue_name is not None:
            options["queue_name"] = self.schedule.queue_name
        if self.schedule.priority is not None:
            options["priority"] = self.schedule.priority
        return task.using(**options)

    def fault(self) -> str:
        """Return what prevents the schedule from being enqueued; empty for nothing."""
        schedule = self.schedule
        try:
            self.zone()
            task = self.task()
            context = [None] if task.takes_context else []
            inspect.signature(task.func).bind(*context, *schedule.args, **schedule.kwargs)
            TaskPayload(
                task_id="tick",
                task_path=task.module_path,
                args=schedule.args,
                kwargs=schedule.kwargs,
            ).encode()
        except (ConfigurationError, InvalidTask, TypeError) as error:
            return message_of(error)
        return ""


def site_schedules(aliases: Collection[str] | None = None) -> list[SiteSchedule]:
    """Return the schedules of the site.

    Args:
        aliases: the aliases of the backends; None for all.

    Raises:
        OptionsError: the options of a backend are faulty.
    """
    return [
        SiteSchedule(backend, schedule)
        for backend in backends()
        if aliases is None or backend.alias in aliases
        for schedule in backend.configuration.options.schedules.values()
    ]


def states_of(schedules: Collection[SiteSchedule]) -> dict[str, ScheduleState]:
    """Return what the stores of these schedules know, by the name of the schedule."""
    configurations = [one.backend.configuration for one in schedules]
    return {
        name: state
        for store in stores_of(configurations)
        for name, state in store.schedule_states().items()
    }


def zone_named(name: str) -> tzinfo:
    """Return a time zone.

    Raises:
        ConfigurationError: the time zone is not known on this machine.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"There is no time zone {name!r} on this machine. Correct the name. If the name is "
            "right, install the package tzdata."
        ) from error


def task_at(path: str) -> Task[..., Any]:
    """Return the task at a dotted path.

    Raises:
        ConfigurationError: there is no task at the path.
    """
    try:
        task = import_string(path)
    except ImportError as error:
        raise ConfigurationError(f"The task {path!r} cannot be imported: {error}") from error
    if not isinstance(task, Task):
        raise ConfigurationError(f"{path!r} is not a task. Declare it with @task.")
    return task

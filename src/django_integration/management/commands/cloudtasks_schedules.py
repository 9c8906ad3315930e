"""`manage.py cloudtasks_schedules`: the schedules of the site."""

from __future__ import annotations

from collections.abc import Callable

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.tasks.exceptions import InvalidTask

from ....core.errors import CloudTasksError
from ....core.schedules import Schedule, ScheduleState, next_tick, paused, resumed
from ...operating.site_schedules import SiteSchedule, site_schedules
from ...runtime import get_runtime

_COLUMNS = ("SCHEDULE", "TASK", "WHEN", "STATE", "LATEST TICK", "NEXT TICK")


class Command(BaseCommand):
    """Lists schedules, enqueues their tasks, pauses and resumes them."""

    help = "Lists the schedules of SCHEDULES, enqueues their tasks, pauses and resumes them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add an action for each thing that can be done."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        actions.add_parser("list", help="list the schedules with their latest and next ticks")
        for name, text in (
            ("run", "enqueue the task of a schedule now, besides its ticks"),
            ("pause", "stop the ticks of a schedule; needs RESULTS"),
            ("resume", "start the ticks of a paused schedule; needs RESULTS"),
        ):
            action = actions.add_parser(name, help=text)
            action.add_argument("name", metavar="NAME", help="the name of the schedule")

    def handle(self, *, action: str, **options: object) -> None:
        """Perform the action.

        Raises:
            CommandError: there is no such schedule, or the action failed.
        """
        act: Callable[..., None] = getattr(self, f"_{action}")
        try:
            act(site_schedules(), **options)
        except (CloudTasksError, InvalidTask) as error:
            raise CommandError(str(error)) from error

    def _list(self, schedules: list[SiteSchedule], **_: object) -> None:
        if not schedules:
            self.stdout.write("There are no schedules. Add SCHEDULES to OPTIONS.")
            return
        now = get_runtime().clock()
        rows = [_COLUMNS]
        for one in schedules:
            state = _state(one)
            is_paused = state is not None and state.paused
            upcoming = next_tick(one.schedule.rhythm, after=now, zone=one.zone())
            rows.append(
                (
                    one.schedule.name,
                    one.schedule.task_path,
                    str(one.schedule.rhythm),
                    "paused" if is_paused else "enabled",
                    f"{state.ticked_at:%Y-%m-%d %H:%M:%S} UTC" if state else "not known",
                    "-" if is_paused else f"{upcoming:%Y-%m-%d %H:%M:%S} UTC",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            self.stdout.write(line.rstrip())

    def _run(self, schedules: list[SiteSchedule], *, name: str, **_: object) -> None:
        one = _named(schedules, name)
        result = one.task().enqueue(*one.schedule.args, **one.schedule.kwargs)
        self.stdout.write(f"Enqueued {result.task.module_path} as {result.id}.")

    def _pause(self, schedules: list[SiteSchedule], *, name: str, **_: object) -> None:
        self._change(_named(schedules, name), paused)
        self.stdout.write(f"Paused {name}.")

    def _resume(self, schedules: list[SiteSchedule], *, name: str, **_: object) -> None:
        now = get_runtime().clock()
        self._change(_named(schedules, name), lambda state: resumed(state, now=now))
        self.stdout.write(f"Resumed {name}. The next tick is in the future.")

    def _change(self, one: SiteSchedule, change: Callable[[ScheduleState], ScheduleState]) -> None:
        """Change the state of a schedule.

        Raises:
            CommandError: the state is not stored, or another process changes it all the time.
        """
        if one.store is None:
            raise CommandError(
                f"The backend {one.backend.alias!r} keeps no results, so {one.schedule.name!r} "
                "cannot be paused here. Pause its job in Cloud Scheduler."
            )
        for _ in range(_TRIES):
            seen = _state(one)
            begun = seen or _begun(one.schedule)
            if one.store.replace_schedule(seen, change(begun)):
                return
        raise CommandError(f"The schedule {one.schedule.name!r} keeps changing. Try again.")


_TRIES = 20


def _begun(schedule: Schedule) -> ScheduleState:
    now = get_runtime().clock()
    return ScheduleState(name=schedule.name, rhythm=str(schedule.rhythm), ticked_at=now)


def _state(one: SiteSchedule) -> ScheduleState | None:
    return one.store.schedule_states().get(one.schedule.name) if one.store else None


def _named(schedules: list[SiteSchedule], name: str) -> SiteSchedule:
    """Return the schedule with this name.

    Raises:
        CommandError: there is none.
    """
    for one in schedules:
        if one.schedule.name == name:
            return one
    known = ", ".join(one.schedule.name for one in schedules) or "none"
    raise CommandError(f"There is no schedule {name!r}. The schedules are: {known}.")

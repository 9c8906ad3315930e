"""`manage.py cloudtasks_schedules`: the schedules of the site."""

from __future__ import annotations

from collections.abc import Callable

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.tasks.exceptions import InvalidTask

from ....core.errors import CloudTasksError
from ....core.ports import ResultStore
from ....core.scheduler_jobs import (
    ForeignJob,
    JobChange,
    as_gcloud,
    as_terraform,
    described,
)
from ....core.schedules import ScheduleState, begun, next_tick, paused, resumed
from ...operating.scheduler_jobs import JobLocation, job_locations
from ...operating.site_schedules import SiteSchedule, site_schedules, states_of
from ...runtime import get_runtime
from ..differences import write_changes
from ..tables import lines_of

_COLUMNS = ("SCHEDULE", "TASK", "WHEN", "STATE", "LATEST TICK", "NEXT TICK")


class Command(BaseCommand):
    """Lists schedules, enqueues their tasks, pauses and resumes them."""

    help = (
        "Lists the schedules of SCHEDULES, enqueues their tasks, pauses and resumes them, and "
        "manages the jobs of Cloud Scheduler that drive them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add an action for each thing that can be done."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        actions.add_parser("list", help="list the schedules with their latest and next ticks")
        diff = actions.add_parser(
            "diff",
            help="compare the jobs of Cloud Scheduler; the exit status is 1 if they differ",
        )
        apply = actions.add_parser("apply", help="create, change and delete the site's own jobs")
        for action in (diff, apply):
            action.add_argument(
                "--each",
                action="store_true",
                help="one job for each schedule, instead of one job for all",
            )
        apply.add_argument(
            "--print",
            dest="printed",
            choices=["gcloud", "terraform"],
            help="print the commands or the configuration instead of changing anything",
        )
        for name, text in (
            ("run", "enqueue the task of a schedule now, besides its ticks"),
            ("pause", "stop the ticks of a schedule"),
            ("resume", "start the ticks of a paused schedule"),
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
        now, states = get_runtime().clock(), states_of(schedules)
        rows = [_COLUMNS]
        for one in schedules:
            state = states.get(one.schedule.name)
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
        for line in lines_of(rows):
            self.stdout.write(line)

    def _run(self, schedules: list[SiteSchedule], *, name: str, **_: object) -> None:
        one = _named(schedules, name)
        result = one.task().enqueue(*one.schedule.args, **one.schedule.kwargs)
        self.stdout.write(f"Enqueued {result.task.module_path} as {result.id}.")

    def _pause(self, schedules: list[SiteSchedule], *, name: str, **_: object) -> None:
        one = _named(schedules, name)
        if one.store is None:
            place = _with_own_job(one)
            place.admin.pause(place.project, place.location, place.job_id(name))
        else:
            _change(one, one.store, paused)
        self.stdout.write(f"Paused {name}.")

    def _resume(self, schedules: list[SiteSchedule], *, name: str, **_: object) -> None:
        one, now = _named(schedules, name), get_runtime().clock()
        if one.store is None:
            place = _with_own_job(one)
            place.admin.resume(place.project, place.location, place.job_id(name))
        else:
            _change(one, one.store, lambda state: resumed(state, now=now))
        self.stdout.write(f"Resumed {name}. The next tick is in the future.")

    def _diff(self, _: list[SiteSchedule], *, each: bool, **__: object) -> None:
        count = sum(len(self._show(place, each=each)) for place in job_locations())
        if count:
            raise CommandError(f"Jobs that differ: {count}. 'apply' changes them.")
        self.stdout.write("All jobs are as the settings describe them.")

    def _show(self, place: JobLocation, *, each: bool) -> list[JobChange]:
        """Write the differences of a location, and return them."""
        found = place.changes(each=each)
        write_changes(self.stdout, f"{place.project}, {place.location}", found, described)
        return found

    def _apply(
        self, _: list[SiteSchedule], *, each: bool, printed: str | None, **__: object
    ) -> None:
        places = job_locations()
        if printed:
            self._print(places, printed, each=each)
            return
        plans = [(place, self._show(place, each=each)) for place in places]
        foreign = [c.job.id for _, found in plans for c in found if isinstance(c, ForeignJob)]
        if foreign:
            raise CommandError(
                f"Nothing was changed. Another program or site made these jobs: "
                f"{', '.join(foreign)}. Delete them, or use another location."
            )
        for place, found in plans:
            for change in found:
                place.apply(change)
        self.stdout.write(f"Jobs changed: {sum(len(found) for _, found in plans)}.")

    def _print(self, places: list[JobLocation], printed: str, *, each: bool) -> None:
        for place in places:
            where = {"project": place.project, "location": place.location}
            if printed == "gcloud":
                for change in place.changes(each=each):
                    self.stdout.write(as_gcloud(change, **where))
            else:
                for job in place.wanted(each=each):
                    self.stdout.write(as_terraform(job, **where) + "\n")


_TRIES = 20


def _change(
    one: SiteSchedule, store: ResultStore, change: Callable[[ScheduleState], ScheduleState]
) -> None:
    """Change the state of a schedule.

    Raises:
        CommandError: other processes change it all the time.
    """
    for _ in range(_TRIES):
        seen = store.schedule_states().get(one.schedule.name)
        known = seen or begun(one.schedule, at=get_runtime().clock())
        if store.replace_schedule(seen, change(known)):
            return
    raise CommandError(f"The schedule {one.schedule.name!r} keeps changing. Try again.")


def _with_own_job(one: SiteSchedule) -> JobLocation:
    """Return the location of the job that drives only this schedule.

    Raises:
        CommandError: there is no such job.
    """
    name = one.schedule.name
    for place in job_locations():
        if one in place.schedules:
            jobs = place.admin.jobs(place.project, place.location)
            if place.job_id(name) in {job.id for job in jobs}:
                return place
    raise CommandError(
        f"The backend {one.backend.alias!r} keeps no results, and {name!r} has no job of its own "
        "in Cloud Scheduler. So it cannot be paused alone. Use 'apply --each', or set RESULTS."
    )


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

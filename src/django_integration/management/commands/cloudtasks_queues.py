"""`manage.py cloudtasks_queues`: the queues of Cloud Tasks as the settings describe them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ....core.cloud_queues import (
    Change,
    DeleteQueue,
    as_gcloud,
    as_terraform,
    described,
    shown,
)
from ....core.errors import CloudTasksError
from ....core.names import QueueName
from ...display import tasks
from ...operating.cloud_queues import QueueLocation, queue_locations
from ..choosing import add_backend_option, chosen_backends
from ..differences import write_changes
from ..tables import lines_of

_MOST_COUNTED = 1_000
_COLUMNS = ("QUEUE", "STATE", "RATE", "CONCURRENT", "ATTEMPTS", "TASKS", "IN SETTINGS")


class Command(BaseCommand):
    """Lists, compares and changes queues, at Google or at the emulator."""

    help = (
        "Compares the queues of Cloud Tasks with CLOUD_QUEUES, QUEUES and PRIORITY_QUEUES, and "
        "creates or changes them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add an action for each thing that can be done."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listing = actions.add_parser("list", help="list all queues of the location")
        diff = actions.add_parser(
            "diff", help="show the differences; the exit status is 1 if there are any"
        )
        apply = actions.add_parser("apply", help="create and change queues")
        for action in (diff, apply):
            action.add_argument(
                "--delete",
                action="store_true",
                help="include the deletion of queues that no backend sends tasks to",
            )
        apply.add_argument(
            "--print",
            dest="printed",
            choices=["gcloud", "terraform"],
            help="print the commands or the configuration instead of changing anything",
        )
        named = [
            actions.add_parser("pause", help="stop the dispatches of queues"),
            actions.add_parser("resume", help="start the dispatches of paused queues"),
            actions.add_parser("purge", help="delete all tasks of queues"),
        ]
        for action in named:
            action.add_argument("queues", nargs="+", metavar="QUEUE", help="the id of a queue")
        for action in (apply, named[-1]):
            action.add_argument("--yes", action="store_true", help="do not ask before a deletion")
        for action in (listing, diff, apply, *named):
            add_backend_option(action)

    def handle(self, *, action: str, backend: list[str], **options: object) -> None:
        """Perform the action.

        Raises:
            CommandError: there are differences (`diff`), the user did not confirm, a setting is
                missing, or Cloud Tasks refused a call.
        """
        chosen = chosen_backends(backend)
        act: Callable[..., None] = getattr(self, f"_{action}")
        try:
            act(queue_locations(chosen), **options)
        except CloudTasksError as error:
            raise CommandError(str(error)) from error

    def _list(self, locations: Sequence[QueueLocation], **_: object) -> None:
        for place in locations:
            rows = [_COLUMNS]
            for queue in place.admin.queues(place.project, place.location):
                count = place.admin.count(place.queue(queue.id), limit=_MOST_COUNTED + 1)
                settings = queue.settings
                rows.append(
                    (
                        queue.id,
                        queue.state,
                        f"{shown(settings.max_dispatches_per_second)}/s",
                        shown(settings.max_concurrent_dispatches),
                        "unlimited"
                        if settings.max_attempts == -1
                        else shown(settings.max_attempts),
                        f"{count:,}" if count <= _MOST_COUNTED else f"over {_MOST_COUNTED:,}",
                        "yes" if queue.id in place.wanted else "no",
                    )
                )
            self.stdout.write(f"Queues in {place.project}, {place.location}:")
            for line in lines_of(rows):
                self.stdout.write(f"  {line}")
            missing = sorted(place.wanted.keys() - {row[0] for row in rows})
            if missing:
                self.stdout.write(f"  Queues that do not exist: {', '.join(missing)}.")

    def _diff(self, locations: Sequence[QueueLocation], *, delete: bool, **_: object) -> None:
        count = sum(len(self._show(place, delete=delete)) for place in locations)
        if count:
            raise CommandError(f"Queues that differ: {count}. 'apply' changes them.")
        self.stdout.write("All queues are as the settings describe them.")

    def _show(self, place: QueueLocation, *, delete: bool) -> list[Change]:
        """Write the differences of a location, and return them."""
        found = place.changes(delete=delete)
        write_changes(self.stdout, f"{place.project}, {place.location}", found, described)
        return found

    def _apply(
        self,
        locations: Sequence[QueueLocation],
        *,
        delete: bool,
        printed: str | None,
        yes: bool,
        **_: object,
    ) -> None:
        if printed == "terraform":
            texts = [
                as_terraform(place.queue(name), settings)
                for place in locations
                for name, settings in place.wanted.items()
            ]
            self.stdout.write("\n\n".join(texts))
            return
        if printed == "gcloud":
            for place in locations:
                for change in place.changes(delete=delete):
                    self.stdout.write("\n".join(as_gcloud(change)))
            return
        plans = [(place, self._show(place, delete=delete)) for place in locations]
        doomed = [
            (place, change.queue)
            for place, found in plans
            for change in found
            if isinstance(change, DeleteQueue)
        ]
        if doomed and not yes:
            _confirm("delete", doomed)
        for place, found in plans:
            for change in found:
                place.apply(change)
        count = sum(len(found) for _, found in plans)
        self.stdout.write(f"Queues changed: {count}.")

    def _pause(self, locations: Sequence[QueueLocation], *, queues: list[str], **_: object) -> None:
        for place, queue in _named(locations, queues):
            place.admin.pause(queue)
            self.stdout.write(f"Paused {queue.queue}.")

    def _resume(
        self, locations: Sequence[QueueLocation], *, queues: list[str], **_: object
    ) -> None:
        for place, queue in _named(locations, queues):
            place.admin.resume(queue)
            self.stdout.write(f"Resumed {queue.queue}.")

    def _purge(
        self, locations: Sequence[QueueLocation], *, queues: list[str], yes: bool, **_: object
    ) -> None:
        named = _named(locations, queues)
        if not yes:
            _confirm("delete all tasks of", named)
        for place, queue in named:
            place.admin.purge(queue)
            self.stdout.write(f"Purged {queue.queue}.")


def _confirm(what: str, queues: Sequence[tuple[QueueLocation, QueueName]]) -> None:
    """Ask the user. The question names the queues and how many tasks they have.

    Raises:
        CommandError: the user did not answer "yes", or there is no terminal.
    """
    counts = []
    for place, queue in queues:
        count = place.admin.count(queue, limit=_MOST_COUNTED + 1)
        number = f"over {tasks(_MOST_COUNTED)}" if count > _MOST_COUNTED else tasks(count)
        counts.append(f"{queue.queue} ({number})")
    try:
        answer = input(f"Do you want to {what} {', '.join(counts)}? Type yes: ")
    except EOFError:
        answer = ""
    if answer.strip() != "yes":
        raise CommandError("Nothing was changed. Use --yes in scripts.")


def _named(
    locations: Sequence[QueueLocation], names: Sequence[str]
) -> list[tuple[QueueLocation, QueueName]]:
    """Return each named queue with its location.

    Raises:
        CommandError: a name is not the id of an existing queue, or exists in two locations.
    """
    existing = [
        (place, queue.id)
        for place in locations
        for queue in place.admin.queues(place.project, place.location)
    ]
    found = []
    for name in names:
        places = [place for place, queue in existing if queue == name]
        if not places:
            known = ", ".join(sorted({queue for _, queue in existing})) or "none"
            raise CommandError(f"There is no queue {name!r}. The queues are: {known}.")
        if len(places) > 1:
            raise CommandError(
                f"The queue {name!r} exists in two locations. Choose one with --backend."
            )
        found.append((places[0], places[0].queue(name)))
    return found

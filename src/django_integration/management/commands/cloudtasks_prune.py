"""`manage.py cloudtasks_prune`: deletes old records of tasks."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ....core.records import State
from ....core.retention import FINISHED, age
from ...configuration import stores_of
from ...runtime import get_runtime
from ..recording import demand_recording_backends


class Command(BaseCommand):
    """Deletes the records of tasks that finished long ago."""

    help = (
        "Deletes the records of tasks that finished long ago. Records of tasks that wait or run "
        "are kept. Records of failed tasks that the queue may still retry are kept for at least 31 "
        "days."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `--older-than`, `--status`, `--dry-run` and `--batch-size`."""
        parser.add_argument(
            "--older-than",
            type=_age,
            required=True,
            metavar="AGE",
            help="the minimum age of the records: a number and a unit (s, m, h, d or w), such as "
            "30d",
        )
        parser.add_argument(
            "--status",
            action="append",
            type=str.upper,
            choices=[state.value for state in FINISHED],
            help="delete only records with this status; can be repeated",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only count the records; delete nothing"
        )
        parser.add_argument(
            "--batch-size",
            type=int,
            default=1000,
            help="number of records to delete at a time (default: 1000)",
        )

    def handle(
        self,
        *,
        older_than: timedelta,
        status: list[str] | None,
        dry_run: bool,
        batch_size: int,
        **_: object,
    ) -> None:
        """Delete the records, and print how many there are.

        Raises:
            CommandError: no backend keeps results, or the batch size is less than 1.
        """
        if batch_size < 1:
            raise CommandError(f"--batch-size must be 1 or more, not {batch_size}.")
        stores = stores_of(demand_recording_backends().values())
        states = [State(value) for value in status] if status else list(FINISHED)
        before = get_runtime().clock() - older_than
        for store in stores:
            counts = {state: store.count_finished([state], before) for state in states}
            total = sum(counts.values())
            told = ", ".join(f"{count:,} {state.value}" for state, count in counts.items())
            self.stdout.write(f"{total:,} finished before {before:%Y-%m-%d %H:%M:%S} UTC ({told}).")
            if dry_run:
                self.stdout.write("Nothing was deleted, because of --dry-run.")
                continue
            deleted = 0
            while some := store.prune(states, before, limit=batch_size):
                deleted += some
                self.stdout.write(f"Deleted {deleted:,} of {max(total, deleted):,}.")


def _age(text: str) -> timedelta:
    try:
        return age(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error

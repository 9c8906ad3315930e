"""`manage.py cloudtasks_replay`: enqueues tasks again that have finally failed."""

from __future__ import annotations

import signal
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ....core.failures import FailureGroup, FailureSelection, interval, is_class
from ....core.ports import ResultStore
from ....core.retention import age
from ...configuration import stores_of
from ...display import tasks
from ...operating.replaying import Tally, replay_failures
from ...runtime import get_runtime
from ..recording import demand_recording_backends

_PROGRESS = 5.0  # seconds between two lines about the progress
_NAMED = 5  # groups that an error message names
_INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended


class Command(BaseCommand):
    """Replays failures that are selected by task, exception and age."""

    help = (
        "Enqueues tasks that have failed, and will not be attempted again, as new tasks with the "
        "same arguments. Tasks that were replayed before are left out."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options that select the failures, and those that control the replay."""
        parser.add_argument("--task", metavar="PATH", help="only this task: its import path")
        parser.add_argument(
            "--exception",
            metavar="CLASS",
            help="only failures with this class of exception, with or without its module",
        )
        parser.add_argument(
            "--since",
            type=_read(age),
            metavar="AGE",
            help="only failures that are not older than this: a number and s, m, h, d or w, such "
            "as 2h",
        )
        parser.add_argument("--all", action="store_true", help="all failures")
        parser.add_argument(
            "--again", action="store_true", help="also tasks that were replayed before"
        )
        parser.add_argument(
            "--rate",
            type=_read(interval),
            metavar="RATE",
            help="replay no faster than this: a number and /s or /m, such as 20/s",
        )
        parser.add_argument("--dry-run", action="store_true", help="only count; replay nothing")

    def handle(
        self,
        *,
        task: str | None,
        exception: str | None,
        since: timedelta | None,
        all: bool,  # noqa: A002 - the name of the option
        again: bool,
        rate: timedelta | None,
        dry_run: bool,
        **_: object,
    ) -> None:
        """Replay the selected failures, and print the results.

        Raises:
            CommandError: the options select nothing or contradict each other, no backend keeps
                results, no failure matches, some tasks were not replayed or are left to the relay,
                or the command was interrupted.
        """
        narrowed = task is not None or exception is not None or since is not None
        if all and narrowed:
            raise CommandError("--all cannot be combined with --task, --exception or --since.")
        if not all and not narrowed:
            raise CommandError("Say what to replay: --task, --exception, --since or --all.")
        stores = stores_of(demand_recording_backends().values())
        oldest = None if since is None else get_runtime().clock() - since
        known = [
            (store, group)
            for store in stores
            for group in store.failure_groups(since=oldest, replayed=again)
        ]
        chosen = [
            (store, group)
            for store, group in known
            if (task is None or group.task_path == task)
            and (exception is None or is_class(group.failure, exception))
        ]
        if not chosen:
            raise CommandError(_nothing_matches([group for _, group in known]))
        for _store, group in chosen:
            self._say(
                f"{group.task_path}: {tasks(group.count)} failed with {group.failure} from "
                f"{group.first:%Y-%m-%d %H:%M:%S} to {group.last:%Y-%m-%d %H:%M:%S} UTC."
            )
        if dry_run:
            self._say("Nothing was replayed, because of --dry-run.")
            return
        # Later failures are not selected. They can include failures of the replayed tasks.
        selections = [
            (
                store,
                FailureSelection(
                    task_path=group.task_path,
                    failure=group.failure,
                    since=oldest,
                    until=group.last,
                    replayed=again,
                ),
            )
            for store, group in chosen
        ]
        self._replay(selections, sum(group.count for _, group in chosen), rate, again=again)

    def _replay(
        self,
        selections: list[tuple[ResultStore, FailureSelection]],
        total: int,
        rate: timedelta | None,
        *,
        again: bool,
    ) -> None:
        tally, pause = Tally(), (rate or timedelta()).total_seconds()
        told_at = turn = time.monotonic()
        with _interruptible() as stop:
            for store, selection in selections:
                for place, outcome in replay_failures(store, selection):
                    tally.add(place, outcome)
                    if tally.silent or stop.is_set():
                        break
                    now = time.monotonic()
                    if now - told_at >= _PROGRESS:
                        told_at = now
                        self._say(f"Replayed {len(tally.made):,} of {total:,}.")
                    turn = max(turn + pause, now)
                    if tally.handled < total and stop.wait(turn - now):
                        break
                if tally.silent or stop.is_set():
                    break
            interrupted = stop.is_set()
        self._conclude(tally, total, interrupted=interrupted, again=again)

    def _conclude(
        self,
        tally: Tally,
        total: int,
        *,
        interrupted: bool,
        again: bool,
    ) -> None:
        """Print the results.

        Raises:
            CommandError: some tasks were not replayed, or are left to the relay.
        """
        self._say(f"Replayed {len(tally.made):,} of {total:,}.")
        if tally.left_out:
            left_out = tasks(tally.left_out)
            self._say(f"Left out, because somebody else replayed or deleted them: {left_out}.")
        for fault in tally.failed.values():
            self._say(f"Could not replay {tasks(fault.count)}. {fault.example}")
        for fault in tally.waiting.values():
            self._say(f"Left to the relay: {tasks(fault.count)}. {fault.example}")
        left = max(total - tally.handled, 0)
        # With --again, the same command would replay all tasks again.
        rest = f"Tasks left unchanged: {left:,}." + ("" if again else " The same command goes on.")
        if tally.silent:
            raise CommandError(f"Stopped: Cloud Tasks does not answer. {rest}")
        if interrupted and left:
            raise CommandError(f"Interrupted. {rest}", returncode=_INTERRUPTED)
        if tally.failed or tally.waiting:
            raise CommandError("Some tasks were not replayed, or are left to the relay.")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Return a context with an event that SIGINT (Ctrl-C) or SIGTERM sets.

    So the command can complete the current task. After the first signal, the earlier handlers of
    both signals are active again.
    """
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

    def request(*_: object) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


def _nothing_matches(known: list[FailureGroup]) -> str:
    if not known:
        return "No task has failed that could be replayed."
    named = "; ".join(
        f"{group.task_path} with {group.failure} ({group.count:,})" for group in known[:_NAMED]
    )
    more = f"; and {len(known) - _NAMED:,} more" if len(known) > _NAMED else ""
    return f"No failure matches. There are these failures: {named}{more}."


def _read[T](parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return a function that calls `parse` and raises its errors as errors of an argument."""

    def read(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error

    return read

"""`manage.py cloudtasks_relay`: sends recorded tasks that Cloud Tasks does not have."""

from __future__ import annotations

import logging
import signal
import threading

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections

from ....core.outcomes import Relayed
from ....core.requests import SIGNATURE_HEADER
from ...configuration import Configuration, stores_of
from ...operating.relay import relay_batch
from ...signing import sign
from ..recording import demand_recording_backends

logger = logging.getLogger("django_tasks_cloud_tasks")


class Command(BaseCommand):
    """Relays until told to stop, or once."""

    help = (
        "Sends recorded tasks that Cloud Tasks does not have, for example because their process "
        "died or Cloud Tasks was down. Any number of relays may run at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """`--once`, `--print-signature` and `--interval`."""
        parser.add_argument(
            "--once",
            action="store_true",
            help="send what is due, and exit; the exit status is 1 if a task was not taken",
        )
        parser.add_argument(
            "--print-signature",
            action="store_true",
            help="print a header with which Cloud Scheduler can call the relay's URL if "
            "AUTHENTICATION demands a signature; the header allows nothing else",
        )
        parser.add_argument(
            "--interval", type=float, default=1.0, help="seconds between two looks (default: 1)"
        )

    def handle(self, *, once: bool, interval: float, print_signature: bool, **_: object) -> None:
        """Relay.

        Raises:
            CommandError: no backend keeps results, the interval makes no sense, or, with
                `--once`, Cloud Tasks refused a task.
        """
        if print_signature:
            # Of an empty body, which the relay takes and no task has.
            self.stdout.write(f"{SIGNATURE_HEADER}={sign(b'')}")
            return
        if not interval > 0:
            raise CommandError(f"--interval must be more than 0 seconds, not {interval:g}.")
        configurations = demand_recording_backends()
        if once:
            self._once(configurations)
            return
        stop = threading.Event()
        before = {
            number: signal.signal(number, lambda *_: stop.set())
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        self.stdout.write("The relay runs. Ctrl-C ends it.")
        self.stdout.flush()
        try:
            while not stop.is_set():
                close_old_connections()
                try:
                    done = relay_batch(configurations)
                except Exception:
                    # The database may be away for a while, as Cloud Tasks may be.
                    logger.exception("The relay failed; trying again.")
                    done = Relayed(0, 0)
                self._tell(done)
                if not done.more:
                    stop.wait(interval)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _once(self, configurations: dict[str, Configuration]) -> None:
        total = Relayed(0, 0, more=True)
        while total.more:
            done = relay_batch(configurations)
            self._tell(done)
            total = total.and_then(done)
        if not total.sent and not total.failed:
            self.stdout.write("Nothing is due.")
        for store in stores_of(configurations.values()):
            aliases = [alias for alias, c in configurations.items() if c.results is store]
            waiting = store.backlog(aliases)
            if waiting.next_at is not None:
                self.stdout.write(
                    f"Tasks that wait after failures: {waiting.count}. The next try is at "
                    f"{waiting.next_at:%Y-%m-%d %H:%M:%S} UTC. The reason of the first is: "
                    f"{waiting.error}"
                )
        if total.failed:
            raise CommandError(
                f"Tasks that Cloud Tasks did not take: {total.failed}. The log says why."
            )

    def _tell(self, done: Relayed) -> None:
        if done.sent or done.failed:
            self.stdout.write(f"Sent: {done.sent}. Not taken: {done.failed}.")
            self.stdout.flush()

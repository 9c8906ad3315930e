"""`manage.py cloudtasks_relay`: sends recorded tasks, and enqueues tasks that recur."""

from __future__ import annotations

import logging
import signal
import threading

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections

from ....core.outcomes import Relayed, Scheduled
from ....core.requests import SIGNATURE_HEADER
from ...configuration import Configuration, stores_of
from ...operating.recurring import enqueue_due
from ...operating.relay import relay_batch
from ...operating.site_schedules import site_schedules
from ...signing import sign
from ..recording import demand_recording_backends

logger = logging.getLogger("django_tasks_cloud_tasks")


class Command(BaseCommand):
    """Runs the relay once, or until it is stopped."""

    help = (
        "Sends recorded tasks that Cloud Tasks does not have, for example because their process "
        "died or Cloud Tasks was down. Enqueues the tasks of SCHEDULES. Any number of relays may "
        "run at the same time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `--once`, `--print-signature` and `--interval`."""
        parser.add_argument(
            "--once",
            action="store_true",
            help="send the tasks that are due, and exit; the exit status is 1 if Cloud Tasks did "
            "not accept a task",
        )
        parser.add_argument(
            "--print-signature",
            action="store_true",
            help="print the header that Cloud Scheduler must send to the URLs of the relay "
            "and of the schedules if AUTHENTICATION requires a signature; it authorizes nothing "
            "else",
        )
        parser.add_argument(
            "--interval",
            type=float,
            default=1.0,
            help="seconds to wait before the relay looks for tasks again (default: 1)",
        )

    def handle(self, *, once: bool, interval: float, print_signature: bool, **_: object) -> None:
        """Send tasks, or print the signature.

        Raises:
            CommandError: no backend keeps results, the interval is not more than 0, or, with
                `--once`, Cloud Tasks did not accept a task.
        """
        if print_signature:
            # The relay's URL accepts the signature of an empty body. No task has an empty body.
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
        self.stdout.write("The relay is running. Press Ctrl-C to stop it.")
        self.stdout.flush()
        try:
            while not stop.is_set():
                close_old_connections()
                try:
                    self._enqueue_due(configurations)
                    done = relay_batch(configurations)
                except Exception:
                    # For example, the database may be unavailable for a while.
                    logger.exception("The relay failed. It tries again in %g s.", interval)
                    done = Relayed(0, 0)
                self._tell(done)
                if not done.more:
                    stop.wait(interval)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _enqueue_due(self, configurations: dict[str, Configuration]) -> Scheduled:
        schedules = site_schedules(configurations)
        done = enqueue_due(schedules) if schedules else Scheduled(0, 0)
        if done.enqueued or done.failed:
            self.stdout.write(f"Schedules enqueued: {done.enqueued}. Failed: {done.failed}.")
            self.stdout.flush()
        return done

    def _once(self, configurations: dict[str, Configuration]) -> None:
        scheduled = self._enqueue_due(configurations)
        total = Relayed(0, 0, more=True)
        while total.more:
            done = relay_batch(configurations)
            self._tell(done)
            total = total.and_then(done)
        if not total.sent and not total.failed and not scheduled.enqueued:
            self.stdout.write("Nothing is due.")
        for store in stores_of(configurations.values()):
            aliases = [alias for alias, c in configurations.items() if c.results is store]
            waiting = store.backlog(aliases)
            if waiting.next_at is not None:
                self.stdout.write(
                    f"Tasks that wait after failures: {waiting.count}. The next attempt is at "
                    f"{waiting.next_at:%Y-%m-%d %H:%M:%S} UTC. The error of its task is: "
                    f"{waiting.error}"
                )
        if scheduled.failed:
            raise CommandError(
                f"Schedules that could not be enqueued: {scheduled.failed}. The log contains the "
                "reasons."
            )
        if total.failed:
            raise CommandError(
                f"Tasks that Cloud Tasks did not accept: {total.failed}. The log contains the "
                "reasons."
            )

    def _tell(self, done: Relayed) -> None:
        if done.sent or done.failed:
            self.stdout.write(f"Sent: {done.sent}. Not accepted: {done.failed}.")
            self.stdout.flush()

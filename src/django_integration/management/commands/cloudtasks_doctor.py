"""`manage.py cloudtasks_doctor`: finds out why tasks do not run."""

from __future__ import annotations

import json

import attrs
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ....core.doctor import Finding, Level
from ...checks import check_deployment
from ...operating.doctor import Examination
from ..choosing import add_backend_option, chosen_backends

_TIMEOUT = 60.0  # seconds
_MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.ERROR: "ERROR"}


class Command(BaseCommand):
    """Walks the way of a task as deployed, and tells for each step what is wrong."""

    help = (
        "Examines the settings, the app, the queues and the credentials, and sends a probe through "
        "Cloud Tasks to the endpoint. The exit status is 1 if there is an error."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--timeout",
            type=float,
            default=_TIMEOUT,
            metavar="SECONDS",
            help="how long to wait for the probe (default: 60); 0 sends no probe",
        )
        parser.add_argument(
            "--format", choices=["text", "json"], default="text", help="the format of the output"
        )
        add_backend_option(parser)

    def handle(self, *, timeout: float, format: str, backend: list[str], **_: object) -> None:  # noqa: A002 - the name of the option
        """Examine the backends.

        Raises:
            CommandError: there is an error, or no such backend.
        """
        found: list[tuple[str, Finding]] = []
        deployment = check_deployment()
        for one in chosen_backends(backend):
            if format == "text":
                self.stdout.write(f"TASKS[{one.alias!r}]")
            examination = Examination(
                backend=one, deployment=deployment, timeout=timeout, tell=self._tell
            )
            for finding in examination.findings():
                found.append((one.alias, finding))
                if format == "text":
                    self._write(finding)
        if format == "json":
            documents = [
                {"backend": alias, **attrs.asdict(finding), "level": finding.level.value}
                for alias, finding in found
            ]
            self.stdout.write(json.dumps(documents, indent=2))
        errors = sum(finding.level is Level.ERROR for _, finding in found)
        if errors:
            raise CommandError(f"Errors: {errors}.")
        if format == "text":
            self.stdout.write("Tasks can run.")

    def _tell(self, waited: float) -> None:
        """Write how long the probe has been waited for. A terminal shows only the last line."""
        if self.stderr.isatty():
            self.stderr.write(f"\rWaiting for the probe: {waited:.0f} s ", ending="")

    def _write(self, finding: Finding) -> None:
        self.stdout.write(f"  {_MARKS[finding.level]:8}{finding.step}: {finding.message}")
        if finding.remedy:
            self.stdout.write(f"          {finding.remedy}")

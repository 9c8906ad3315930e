"""`manage.py cloudtasks_emulator`: starts the emulator from a Django project."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    """Runs the Cloud Tasks emulator until Ctrl-C."""

    help = "Runs a Cloud Tasks emulator for development."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's declaration

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments of the emulator."""
        _command_line().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002, ANN401 - Django's signature
        """Run until Ctrl-C or SIGTERM.

        Raises:
            SystemExit: an argument is invalid, or the emulator cannot start.
        """
        status = _command_line().run(**options)
        if status:
            raise SystemExit(status)


def _command_line() -> Any:  # noqa: ANN401 - a module
    try:
        from ....emulator import command_line
    except ImportError as error:
        # Django would print a CommandError with a traceback in `add_arguments`.
        raise SystemExit(
            f"The emulator needs the extra [emulator], because {error.name} is missing. Run: pip "
            "install 'django-tasks-cloud-tasks[emulator]'"
        ) from error
    return command_line

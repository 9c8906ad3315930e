"""Shared by the commands for recorded tasks."""

from django.core.management.base import CommandError

from ..configuration import Configuration
from ..registry import recording_backends


def demand_recording_backends() -> dict[str, Configuration]:
    """Return the configurations of the backends that keep results, by alias.

    Raises:
        CommandError: no backend keeps results.
    """
    configurations = recording_backends()
    if not configurations:
        raise CommandError(
            "No backend in TASKS keeps results. Set RESULTS to 'database' in the OPTIONS of a "
            "backend."
        )
    return configurations

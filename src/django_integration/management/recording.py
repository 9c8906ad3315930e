"""What the commands about recorded tasks begin with."""

from django.core.management.base import CommandError

from ..configuration import Configuration
from ..registry import recording_backends


def demand_recording_backends() -> dict[str, Configuration]:
    """The configurations of the backends that keep results, by alias.

    Raises:
        CommandError: there are none.
    """
    configurations = recording_backends()
    if not configurations:
        raise CommandError("No backend keeps results: set RESULTS to 'database' in TASKS.")
    return configurations

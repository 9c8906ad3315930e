"""The option `--backend` of commands."""

from collections.abc import Collection

from django.core.management.base import CommandError, CommandParser

from ..registry import SiteBackend, backends


def add_backend_option(parser: CommandParser) -> None:
    """Add the option. `chosen_backends` takes its value."""
    parser.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="ALIAS",
        help="only this entry of TASKS; repeatable",
    )


def chosen_backends(aliases: Collection[str]) -> list[SiteBackend]:
    """Return the backends with these aliases, or all Cloud Tasks backends if there are none.

    Raises:
        CommandError: there is no such backend.
    """
    site = {backend.alias: backend for backend in backends()}
    unknown = sorted(set(aliases) - site.keys())
    if unknown or not site:
        what = f"{unknown[0]!r} is not an entry" if unknown else "There is no entry"
        raise CommandError(
            f"{what} of TASKS with a CloudTasksBackend. The entries with one are: "
            f"{', '.join(site) or 'none'}."
        )
    return [backend for alias, backend in site.items() if not aliases or alias in aliases]

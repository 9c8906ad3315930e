"""Differences between the settings and what exists, in the output of commands."""

from collections.abc import Callable, Iterable, Sequence

from django.core.management.base import OutputWrapper


def write_changes[C](
    out: OutputWrapper, where: str, changes: Sequence[C], described: Callable[[C], Iterable[str]]
) -> None:
    """Write the changes of a location; nothing if there are none.

    Args:
        out: the output.
        where: the location.
        changes: the changes.
        described: returns the lines for a change.
    """
    if changes:
        out.write(f"In {where}:")
    for change in changes:
        for line in described(change):
            out.write(f"  {line}")

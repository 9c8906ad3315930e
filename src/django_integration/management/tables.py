"""Tables in the output of commands."""

from collections.abc import Iterator, Sequence


def lines_of(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return a line for each row, with columns that are as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()

"""The formats of values in the admin."""

from __future__ import annotations

from datetime import datetime

from django.utils import formats, timezone


def moment(at: datetime | None) -> str:
    """Return a time in the format that the admin uses for fields of Django; "-" for None."""
    if at is None:
        return "-"
    return formats.date_format(timezone.localtime(at), "DATETIME_FORMAT")


def shown(text: str) -> str:
    """Return a text that can be encoded as UTF-8. Lone surrogates are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def tasks(count: int) -> str:
    """Return a number of tasks with its unit, such as "1 task"."""
    return "1 task" if count == 1 else f"{count:,} tasks"

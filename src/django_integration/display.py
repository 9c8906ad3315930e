"""How the admin shows values."""

from __future__ import annotations

from datetime import datetime

from django.utils import formats, timezone


def moment(at: datetime | None) -> str:
    """As Django's own fields show theirs."""
    if at is None:
        return "-"
    return formats.date_format(timezone.localtime(at), "DATETIME_FORMAT")


def shown(text: str) -> str:
    """Text that a page can carry: a lone surrogate has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def tasks(count: int) -> str:
    """How many tasks, in words."""
    return "1 task" if count == 1 else f"{count:,} tasks"

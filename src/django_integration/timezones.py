"""Moments between the core, where they are aware, and a site, which may keep naive ones.

Naive moments are in the site's own time zone, `TIME_ZONE`, whichever is activated for a user.
"""

from __future__ import annotations

from datetime import datetime
from typing import overload

from django.conf import settings
from django.utils import timezone


@overload
def to_site(moment: datetime) -> datetime: ...


@overload
def to_site(moment: None) -> None: ...


@overload
def to_site(moment: datetime | None) -> datetime | None: ...


def to_site(moment: datetime | None) -> datetime | None:
    """An aware moment as the site keeps and shows them: with USE_TZ off they are naive."""
    return (
        moment
        if moment is None or settings.USE_TZ
        else (timezone.make_naive(moment, timezone.get_default_timezone()))
    )


@overload
def from_site(moment: datetime) -> datetime: ...


@overload
def from_site(moment: None) -> None: ...


@overload
def from_site(moment: datetime | None) -> datetime | None: ...


def from_site(moment: datetime | None) -> datetime | None:
    """The site's moment, aware: a naive one is in the site's default time zone."""
    if moment is None or timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment, timezone.get_default_timezone())

"""Moments between the core, where they are aware, and a site, which may keep naive ones."""

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
    return moment if moment is None or settings.USE_TZ else timezone.make_naive(moment)


def from_site(moment: datetime | None) -> datetime | None:
    """The site's moment, aware: a naive one is in the site's default time zone."""
    return timezone.make_aware(moment) if moment and timezone.is_naive(moment) else moment

"""Conversions of times. The core uses aware datetimes. A site with `USE_TZ` off uses naive ones.

Naive datetimes are in the time zone of the setting `TIME_ZONE`, even if another one is activated.
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
    """Convert an aware datetime for the site. It becomes naive if `USE_TZ` is off. None stays."""
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
    """Convert a datetime of the site to an aware one. An aware datetime or None stays as it is."""
    if moment is None or timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment, timezone.get_default_timezone())

"""Recurring tasks: enqueues the tasks of the schedules that are due."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime

from django.db import InterfaceError, OperationalError

from ...core.outcomes import Scheduled
from ...core.ports import ResultStore
from ...core.schedules import Begin, Fire, ScheduleState, due, due_at
from ..enqueueing.backend import CloudTasksBackend
from ..runtime import get_runtime
from .site_schedules import SiteSchedule, states_of

logger = logging.getLogger("django_tasks_cloud_tasks")


def enqueue_due(schedules: Collection[SiteSchedule], *, at: datetime | None = None) -> Scheduled:
    """Enqueue the tasks of the schedules that are due.

    Any number of processes can call this at the same time. Each tick is enqueued once. If one
    schedule fails, the error is logged, and the other schedules go on.

    Args:
        schedules: the schedules.
        at: the time that a call of Cloud Scheduler stands for; None for another driver.
    """
    enqueued = failed = 0
    now = get_runtime().clock()
    states = states_of(schedules)
    for one in schedules:
        try:
            if one.store is None:
                tick = due_at(one.schedule, at=at or now, zone=one.zone())
                enqueued += tick is not None and _enqueue(one, tick)
            else:
                seen = states.get(one.schedule.name)
                enqueued += _enqueue_recorded(one, one.store, seen, now=now, at=at)
        except (OperationalError, InterfaceError):
            raise  # The database is unavailable, so the other schedules would fail too.
        except Exception:
            logger.exception("The schedule %r could not be enqueued.", one.schedule.name)
            failed += 1
    return Scheduled(enqueued, failed)


def _enqueue_recorded(
    one: SiteSchedule,
    store: ResultStore,
    seen: ScheduleState | None,
    *,
    now: datetime,
    at: datetime | None,
) -> bool:
    match due(one.schedule, seen, now=now, zone=one.zone(), at=at):
        case Begin(state):
            store.replace_schedule(seen, state)
        case Fire(tick, state):
            return _enqueue(one, tick, seen=seen, then=state)
    return False


def _enqueue(
    one: SiteSchedule,
    tick: datetime,
    *,
    seen: ScheduleState | None = None,
    then: ScheduleState | None = None,
) -> bool:
    """Enqueue the task of a tick. See `CloudTasksBackend.enqueue_tick`."""
    if not isinstance(one.backend, CloudTasksBackend):
        raise TypeError(f"The backend {one.backend.alias!r} is not a CloudTasksBackend.")
    return one.backend.enqueue_tick(one.task(), one.schedule, tick, seen=seen, then=then)

"""The schedule time of a task, and the queue for its priority."""

from collections.abc import Mapping
from datetime import datetime, timedelta

HORIZON = timedelta(hours=720)
"""How far ahead Cloud Tasks can schedule a task."""

# The clock of Cloud Tasks may differ from the local clock.
_SKEW = timedelta(minutes=5)
_HOP = HORIZON - timedelta(hours=1)


def is_beyond_horizon(run_after: datetime | None, *, now: datetime) -> bool:
    """Return whether the task is due later than Cloud Tasks can schedule. All times are aware.

    Cloud Tasks refuses a time beyond the horizon, so this counts from five minutes before it.
    """
    return run_after is not None and run_after - now > HORIZON - _SKEW


def schedule_time(run_after: datetime | None, *, now: datetime) -> datetime | None:
    """Return the schedule time for `run_after`; None for at once. All times are aware.

    If `run_after` is beyond the horizon, the result is one hour before the horizon. The delivery at
    that time creates another Cloud Task, and so on until `run_after`.
    """
    if run_after is None or run_after <= now:
        return None
    return now + _HOP if is_beyond_horizon(run_after, now=now) else run_after


def queue_for(queue: str, *, priority: int, thresholds: Mapping[int, str]) -> str:
    """Return the id of the Cloud Tasks queue for a task.

    Args:
        queue: the Django queue of the task.
        priority: the priority of the task.
        thresholds: the option PRIORITY_QUEUES, a mapping from thresholds to templates for the id of
            a queue. A threshold of 0 or more applies to priorities that are equal or higher. A
            negative threshold applies to priorities that are equal or lower. If several apply, the
            one furthest from 0 is used.
    """
    if priority >= 0:
        reached = [t for t in thresholds if 0 <= t <= priority]
        chosen = max(reached, default=None)
    else:
        reached = [t for t in thresholds if priority <= t < 0]
        chosen = min(reached, default=None)
    return queue if chosen is None else thresholds[chosen].replace("{queue}", queue)

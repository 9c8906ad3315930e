"""When a task runs, and which queue its priority puts it into."""

from collections.abc import Mapping
from datetime import datetime, timedelta

HORIZON = timedelta(hours=720)
"""The furthest that Cloud Tasks schedules ahead."""

_HOP = HORIZON - timedelta(hours=1)  # The clock of Cloud Tasks may differ from this one.


def is_beyond_horizon(run_after: datetime | None, *, now: datetime) -> bool:
    """Whether Cloud Tasks cannot be given the task yet (times are aware)."""
    return run_after is not None and run_after - now > HORIZON


def schedule_time(run_after: datetime | None, *, now: datetime) -> datetime | None:
    """The schedule time for `run_after` (both aware), or None for at once.

    For a time beyond the horizon it is the last that Cloud Tasks surely takes. The delivery at that
    time makes another Cloud Task, and so on until `run_after`.
    """
    if run_after is None or run_after <= now:
        return None
    return now + _HOP if is_beyond_horizon(run_after, now=now) else run_after


def queue_for(queue: str, *, priority: int, thresholds: Mapping[int, str]) -> str:
    """The id of the Cloud Tasks queue for a task of that queue and priority.

    Args:
        thresholds: `PRIORITY_QUEUES`, from a threshold to a template for the queue's id. A
            threshold of 0 or more takes the priorities from it upwards, a negative one those
            from it downwards; of several, the one furthest from 0.
    """
    if priority >= 0:
        reached = [t for t in thresholds if 0 <= t <= priority]
        chosen = max(reached, default=None)
    else:
        reached = [t for t in thresholds if priority <= t < 0]
        chosen = min(reached, default=None)
    return queue if chosen is None else thresholds[chosen].replace("{queue}", queue)

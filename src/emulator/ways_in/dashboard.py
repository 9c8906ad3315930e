"""The data of the dashboard: queues, the tasks of one queue, jobs, and the latest attempts."""

from collections.abc import Iterable
from heapq import nsmallest
from typing import Any

import attrs

from ..state.job_service import JobService
from ..state.limits import SECOND
from ..state.model import FinishedAttempt
from ..state.state_machine import Service

_MOST_TASKS = 200
_MOST_ATTEMPTS = 50


def overview(
    service: Service,
    jobs: JobService,
    finished: Iterable[FinishedAttempt],
    now: int,
    queue_name: str | None,
) -> dict[str, Any]:
    """Return the data that the dashboard shows, as a JSON document.

    Args:
        service: the queues and tasks.
        jobs: the jobs of Cloud Scheduler.
        finished: the finished attempts, oldest first.
        now: the time, in nanoseconds since the epoch.
        queue_name: the queue whose tasks to show; None or an unknown name for no tasks.

    Returns:
        `now` and other times are in seconds since the epoch. The latest attempts come first.
    """
    queues = service.queues()
    chosen = next((queue for queue in queues if queue.name == queue_name), None)
    return {
        "now": now / SECOND,
        "queues": [
            {
                "name": queue.name,
                "state": queue.state.value,
                "depth": len(queue.tasks),
                "running": queue.running,
                "rate": queue.config.limits.rate,
                "concurrent": queue.config.limits.concurrent,
                "held_until": queue.held_until / SECOND if queue.held_until > now else None,
            }
            for queue in queues
        ],
        "tasks": [
            {
                "name": task.name,
                "schedule_time": task.schedule_time / SECOND,
                "dispatches": task.dispatch_count,
                "running": task.order is None,
                "last_answer": task.last_attempt.status if task.last_attempt else None,
            }
            for task in nsmallest(
                _MOST_TASKS,
                chosen.tasks.values() if chosen else (),
                key=lambda task: (task.schedule_time, task.name),
            )
        ],
        "jobs": [
            {
                "name": job.name,
                "schedule": job.config.schedule.expression,
                "zone": job.config.schedule.zone,
                "state": job.state.value,
                "running": job.execution is not None and job.execution.running is not None,
                "schedule_time": _seconds(job.schedule_time),
                "last_attempt_time": _seconds(job.last_attempt_time),
                "last_answer": job.last_status,
            }
            for job in jobs.jobs()
        ],
        "attempts": [attrs.asdict(attempt) for attempt in [*finished][-_MOST_ATTEMPTS:][::-1]],
    }


def _seconds(moment: int | None) -> float | None:
    return None if moment is None else moment / SECOND

"""What the dashboard shows: queues, the tasks of one of them, and what was attempted last."""

from collections.abc import Iterable
from heapq import nsmallest
from typing import Any

import attrs

from .limits import SECOND
from .state import Service

_MOST_TASKS = 200
_MOST_ATTEMPTS = 50


@attrs.frozen
class FinishedAttempt:
    """An attempt that ended: for tests and pages that ask what happened."""

    task: str
    number: int
    status: int
    answered: bool


def overview(
    service: Service, finished: Iterable[FinishedAttempt], now: int, queue_name: str | None
) -> dict[str, Any]:
    """Everything the dashboard needs, as JSON."""
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
        "attempts": [attrs.asdict(attempt) for attempt in [*finished][-_MOST_ATTEMPTS:][::-1]],
    }

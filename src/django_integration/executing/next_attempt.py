"""What follows a failed attempt: the decision, and the Cloud Task for the next attempt.

For a recorded task, the record contains the next Cloud Task, and `leases` sends it. For other
tasks, this module creates it before the endpoint answers 200.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
from django.tasks.base import Task

from ...core.errors import CloudTasksError
from ...core.payload import Progress, TaskPayload
from ...core.requests import build_task_request
from ...core.retry_policy import (
    LONGEST_AGE,
    Again,
    NeedsWait,
    Over,
    Repeater,
    TaskPolicy,
    after_answer,
    after_failure,
    default_wait,
    repeater,
)
from ...core.scheduling import is_beyond_horizon
from ..configuration import Configuration
from ..signing import sign
from ..tasks import policy_of, wish_of

if TYPE_CHECKING:
    from django.tasks.base import TaskResult

logger = logging.getLogger("django_tasks_cloud_tasks")


@attrs.frozen
class NextAttempt:
    """The policy of an attempt, and what follows if it fails. Times are aware.

    Attributes:
        number: of this attempt, from 1.
        policy: of the task, completed by the defaults of its backend.
    """

    configuration: Configuration
    payload: TaskPayload
    policy: TaskPolicy
    number: int

    @classmethod
    def of(
        cls,
        task: Task[..., Any],
        payload: TaskPayload,
        configuration: Configuration,
        number: int,
    ) -> NextAttempt:
        """Combine the policy of the task with the defaults of its backend."""
        policy = policy_of(task).over(configuration.options.policy)
        return cls(configuration, payload, policy, number)

    @property
    def by(self) -> Repeater:
        """What brings the next attempt after an ordinary failure."""
        return repeater(self.policy, sends_retry_config=self.configuration.sends_retry_config)

    def after(
        self, error: BaseException, result: TaskResult[..., Any], *, recorded: bool, now: datetime
    ) -> Again | Over:
        """Decide what follows `error`. This calls the backoff function of the task, if any."""
        step = after_failure(
            wish_of(error, now=now),
            policy=self.policy,
            by=self.by,
            attempt=self.number,
            now=now,
            snooze_before=None if recorded else self._due_first + LONGEST_AGE,
        )
        if not isinstance(step, NeedsWait):
            return step
        try:
            return after_answer(step.function(error, result), now=now)
        except Exception:
            logger.exception(
                "The backoff function of the task %s (%s) failed, or returned something other than "
                "seconds, a timedelta or None. The default wait is used.",
                self.payload.task_id,
                self.payload.task_path,
            )
            return default_wait(self.policy, by=self.by, attempt=self.number, now=now)

    @property
    def _due_first(self) -> datetime:
        known = (self.payload.enqueued_at, self.payload.progress.run_after)
        return max(filter(None, known), default=datetime.max.replace(tzinfo=UTC) - LONGEST_AGE)

    def create_next(self, due_at: datetime, *, attempts: int, now: datetime) -> bool:
        """Create the Cloud Task for the next attempt at a task without a record.

        Args:
            due_at: when that attempt is due.
            attempts: the number of attempts so far.

        Returns:
            False if Cloud Tasks did not accept it. The log contains the reason.
        """
        progress = Progress(
            attempts=attempts,
            number=self.payload.progress.number + 1,
            run_after=self.payload.progress.run_after,
            due_at=due_at if is_beyond_horizon(due_at, now=now) else None,
        )
        payload = attrs.evolve(self.payload, progress=progress)
        body = payload.encode()
        configuration = self.configuration
        try:
            request = build_task_request(
                payload,
                body=body,
                signature=sign(body),
                route=configuration.route,
                policy=self.policy,
                run_after=due_at,
                now=now,
                number=progress.number,
            )
            configuration.queue.create(request, timeout=configuration.options.enqueue_timeout)
        except CloudTasksError as error:
            logger.error(  # noqa: TRY400 - the reason says it all
                "The next Cloud Task for the task %s (%s) was not created. Cloud Tasks delivers "
                "this one again. %s",
                payload.task_id,
                payload.task_path,
                error,
            )
            return False
        return True

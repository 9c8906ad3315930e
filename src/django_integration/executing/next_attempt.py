"""The decision after a failed attempt, and the Cloud Task for the next attempt.

For a recorded task, the record contains the next Cloud Task, and `leases` sends it. For other
tasks, this module creates it before the endpoint answers 200.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
from django.tasks.base import Task

from ...core.backoff import Backoff
from ...core.deliveries import Delivery
from ...core.errors import CloudTasksError, EnqueueError
from ...core.names import cloud_task_number
from ...core.payload import Progress, TaskPayload
from ...core.requests import TaskRequest, build_task_request
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

_CREATION = Backoff(first=1, longest=10)
_LAST_TRIES = 30.0  # seconds; a longer wait would keep too many threads during an outage


@attrs.frozen
class NextAttempt:
    """The policy of an attempt, and what follows if it fails. Times are aware.

    Attributes:
        number: of this attempt, from 1.
        policy: of the task, completed by the defaults of its backend.
        delivery: the delivery that brought this attempt.
    """

    configuration: Configuration
    payload: TaskPayload
    policy: TaskPolicy
    number: int
    delivery: Delivery

    @classmethod
    def of(
        cls,
        task: Task[..., Any],
        payload: TaskPayload,
        configuration: Configuration,
        delivery: Delivery,
    ) -> NextAttempt:
        """Combine the policy of the task with the defaults of its backend."""
        policy = policy_of(task).over(configuration.options.policy)
        number = delivery.earlier_attempts(payload.progress) + 1
        return cls(configuration, payload, policy, number, delivery)

    def is_early(self, now: datetime) -> bool:
        """Return whether the delivery is a hop: Cloud Tasks could not wait until the task is due.

        Args:
            now: the time by the clock of this process.
        """
        due_at = self.payload.progress.due_at
        return due_at is not None and due_at > now + self.delivery.ahead_of(now)

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
            dispatch=self._dispatch,
            now=now,
            snooze_before=None if recorded else self._due_first + LONGEST_AGE,
        )
        if not isinstance(step, NeedsWait):
            return step
        try:
            return after_answer(step.function(error, result), now=now)
        except KeyboardInterrupt:
            raise
        except BaseException:
            logger.exception(
                "The backoff function of the task %s (%s) failed, or returned something other than "
                "seconds, a timedelta or None. The default wait is used.",
                self.payload.task_id,
                self.payload.task_path,
            )
            return default_wait(
                self.policy, by=self.by, attempt=self.number, dispatch=self._dispatch, now=now
            )

    @property
    def _dispatch(self) -> int:
        """The number of this dispatch of the Cloud Task, from 1."""
        return self.delivery.retry_count + 1

    @property
    def _is_last_dispatch(self) -> bool:
        """Whether Cloud Tasks does not deliver this Cloud Task again, as it carries its limit."""
        return (
            self.by is Repeater.CLOUD_TASK
            and self.payload.progress.due_at is None
            and self._dispatch >= self.policy.limit
        )

    @property
    def _due_first(self) -> datetime:
        known = (self.payload.enqueued_at, self.payload.progress.run_after)
        return max(filter(None, known), default=datetime.max.replace(tzinfo=UTC) - LONGEST_AGE)

    def create_next(self, due_at: datetime, *, attempts: int, now: datetime) -> bool:
        """Create the Cloud Task for the next attempt at a task without a record.

        If Cloud Tasks does not accept it, this Cloud Task is delivered again. If this is its last
        dispatch, the task would be lost, so this tries again for half a minute.

        Args:
            due_at: when that attempt is due, by the clock of Cloud Tasks.
            attempts: the number of attempts so far.
            now: the time by the clock of Cloud Tasks.

        Returns:
            False if Cloud Tasks did not accept it. The log contains the reason.
        """
        # Not only the number in the payload: a recorded task has none, and RESULTS can be turned
        # off while it is on its way.
        delivered = cloud_task_number(self.delivery.cloud_task_id, self.payload.task_id) or 0
        progress = Progress(
            attempts=attempts,
            number=max(self.payload.progress.number, delivered) + 1,
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
            self._create(request)
        except CloudTasksError as error:
            logger.error(  # noqa: TRY400 - the reason says it all
                "The next Cloud Task for the task %s (%s) was not created. %s %s",
                payload.task_id,
                payload.task_path,
                "Cloud Tasks does not deliver this one again: the task is lost."
                if self._is_last_dispatch
                else "Cloud Tasks delivers this one again.",
                error,
            )
            return False
        return True

    def _create(self, request: TaskRequest) -> None:
        """Create a Cloud Task. On the last dispatch this tries again for half a minute.

        Raises:
            EnqueueError: Cloud Tasks did not accept it.
        """
        configuration, failures = self.configuration, 0
        give_up_at = time.monotonic() + _LAST_TRIES
        while True:
            try:
                configuration.queue.create(request, timeout=configuration.options.enqueue_timeout)
            except EnqueueError as error:
                failures += 1
                wait = _CREATION.seconds(failures)
                if not self._is_last_dispatch or time.monotonic() + wait > give_up_at:
                    raise
                logger.warning("Creating a Cloud Task is tried again in %g s. %s", wait, error)
                time.sleep(wait)
            else:
                return

"""The model of the emulator's state: queues, tasks and attempts."""

from enum import Enum

import attrs

from .limits import SECOND, TokenBucket, burst_for
from .retries import RetryPolicy
from .targets import (
    APP_ENGINE_USER_AGENT,
    HTTP_USER_AGENT,
    AppEngineRouting,
    HttpTarget,
    OidcToken,
    Target,
    TargetOverride,
    overridden,
)


class QueueState(Enum):
    """Whether a queue dispatches."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"


@attrs.frozen(kw_only=True)
class RateLimits:
    """The limits of a queue: dispatches a second, and concurrent dispatches."""

    rate: float = 500.0
    concurrent: int = 1000

    @property
    def burst(self) -> int:
        """Dispatches that may be made at once after an idle time."""
        return burst_for(self.rate)


@attrs.frozen(kw_only=True)
class QueueConfig:
    """The configuration of a queue. `logged_share` is kept, but has no effect."""

    limits: RateLimits = attrs.field(factory=RateLimits)
    retries: RetryPolicy = attrs.field(factory=RetryPolicy)
    override: TargetOverride | None = None
    routing: AppEngineRouting | None = None
    logged_share: float | None = None


class AttemptResult(Enum):
    """How an attempt without a response ended."""

    TIMEOUT = "timeout"
    NO_CONNECTION = "no connection"

    @property
    def http_status(self) -> int:
        """The status that the next attempt of an HTTP task gives as the previous response."""
        return 504 if self is AttemptResult.TIMEOUT else 503


@attrs.define
class AttemptRecord:
    """What the API shows of an attempt. `status` is the HTTP status; None while it runs."""

    schedule_time: int
    dispatch_time: int
    response_time: int | None = None
    status: int | None = None
    answered: bool = False


@attrs.define(eq=False)
class Task:
    """A task in a queue. `order` marks its entry in the heap; None while it is dispatched."""

    queue_name: str
    task_id: str
    target: Target
    create_time: int
    schedule_time: int
    deadline: int
    retries: RetryPolicy | None = None
    dispatch_count: int = 0
    response_count: int = 0
    execution_count: int = 0
    first_attempt: AttemptRecord | None = None
    last_attempt: AttemptRecord | None = None
    order: int | None = None

    @property
    def name(self) -> str:
        """The full name. It is built on demand to save memory."""
        return f"{self.queue_name}/tasks/{self.task_id}"


@attrs.frozen(eq=False)
class Attempt:
    """An attempt that begins, with everything that its request contains."""

    queue: "Queue"
    task: Task
    record: AttemptRecord
    retry_count: int
    execution_count: int
    previous: AttemptRecord | None

    def headers(self) -> dict[str, str]:
        """The headers that Cloud Tasks adds, as captured from production."""
        http = isinstance(self.task.target, HttpTarget)
        prefix = "X-CloudTasks-" if http else "X-AppEngine-"
        headers = {
            "User-Agent": HTTP_USER_AGENT if http else APP_ENGINE_USER_AGENT,
            prefix + "QueueName": self.queue.name.rpartition("/")[2],
            prefix + "TaskName": self.task.task_id,
            prefix + "TaskETA": f"{self.record.schedule_time / SECOND:.6f}",
            prefix + "TaskExecutionCount": str(self.execution_count),
            prefix + "TaskRetryCount": str(self.retry_count),
        }
        if self.previous is not None and self.previous.status is not None:
            answered = self.previous.answered
            headers[prefix + "TaskPreviousResponse"] = (
                str(self.previous.status) if http or answered else "0"
            )
            reason = "App Error" if answered else "Instance Unavailable"
            headers[prefix + "TaskRetryReason"] = "" if http else reason
        return headers

    def target(self) -> Target:
        """The task's target, with the overrides of its queue."""
        target = self.task.target
        if isinstance(target, HttpTarget):
            target = overridden(target, self.queue.config.override)
            if isinstance(target.token, OidcToken) and not target.token.audience:
                token = attrs.evolve(target.token, audience=target.url)
                return attrs.evolve(target, token=token)
            return target
        routing = self.queue.config.routing
        return attrs.evolve(target, routing=routing) if routing else target


@attrs.frozen
class FinishedAttempt:
    """An attempt that ended. Tests and the dashboard show it."""

    task: str
    number: int
    status: int
    answered: bool


@attrs.define(eq=False)
class Queue:
    """A queue and its tasks."""

    name: str
    config: QueueConfig
    bucket: TokenBucket
    state: QueueState = QueueState.RUNNING
    purge_time: int | None = None
    tasks: dict[str, Task] = attrs.field(factory=dict)
    waiting: list[tuple[int, int, str]] = attrs.field(factory=list)
    running: int = 0
    held_until: int = 0
    tombstones: dict[str, int] = attrs.field(factory=dict)

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
    Target,
    TargetOverride,
    overridden,
    with_audience,
)


class QueueState(Enum):
    """Whether a queue dispatches its tasks."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"


@attrs.frozen(kw_only=True)
class RateLimits:
    """The limits of a queue. The defaults are those of a new queue in Cloud Tasks.

    Attributes:
        rate: dispatches per second.
        concurrent: dispatches in progress at the same time.
    """

    rate: float = 500.0
    concurrent: int = 1000

    @property
    def burst(self) -> int:
        """The number of dispatches that an idle queue can make at once."""
        return burst_for(self.rate)


@attrs.frozen(kw_only=True)
class QueueConfig:
    """The configuration of a queue.

    Attributes:
        limits: the rate limits.
        retries: the retry policy of tasks that do not have their own.
        override: parts of the request that replace those of HTTP tasks.
        routing: the routing that replaces that of App Engine tasks.
        logged_share: the sampling ratio of Cloud Logging. It is stored, but has no effect.
    """

    limits: RateLimits = attrs.field(factory=RateLimits)
    retries: RetryPolicy = attrs.field(factory=RetryPolicy)
    override: TargetOverride | None = None
    routing: AppEngineRouting | None = None
    logged_share: float | None = None


class AttemptResult(Enum):
    """The result of an attempt that ended without a response."""

    TIMEOUT = "timeout"
    NO_CONNECTION = "no connection"

    @property
    def http_status(self) -> int:
        """The HTTP status that the next attempt of an HTTP task sends as the previous response."""
        return 504 if self is AttemptResult.TIMEOUT else 503


@attrs.define
class AttemptRecord:
    """The facts about an attempt that the API shows. Times are nanoseconds since the epoch.

    Attributes:
        response_time: the time of the response; None without a response.
        status: the HTTP status; None while the attempt runs. Without a response it is the status
            of `AttemptResult.http_status`.
        answered: whether there was a response.
    """

    schedule_time: int
    dispatch_time: int
    response_time: int | None = None
    status: int | None = None
    answered: bool = False


@attrs.define(eq=False)
class Task:
    """A task in a queue. Times are nanoseconds since the epoch.

    Attributes:
        deadline: the dispatch deadline, in nanoseconds.
        retries: the retry policy of the task; None for that of its queue.
        dispatch_count: attempts that began.
        response_count: attempts that got a response.
        execution_count: the responses that count as executions, see `Service.finish`.
        order: identifies the task's valid entry in the heap of its queue; None while the task does
            not wait.
    """

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
        """The full name, `projects/P/locations/L/queues/Q/tasks/T`. Not stored, to save memory."""
        return f"{self.queue_name}/tasks/{self.task_id}"


@attrs.frozen(eq=False)
class Attempt:
    """An attempt that begins, with the data for its request.

    Attributes:
        record: the facts about this attempt.
        retry_count: the number of earlier attempts.
        execution_count: the task's `execution_count` when the attempt began.
        previous: the facts about the previous attempt; None for the first attempt.
    """

    queue: "Queue"
    task: Task
    record: AttemptRecord
    retry_count: int
    execution_count: int
    previous: AttemptRecord | None

    @property
    def name(self) -> str:
        """The full name of the task."""
        return self.task.name

    @property
    def number(self) -> int:
        """The number of the attempt; 1 for the first."""
        return self.retry_count + 1

    @property
    def fault_key(self) -> str:
        """The text from which the injected faults of the attempt are drawn."""
        return self.task.name

    @property
    def due(self) -> int:
        """The time from which on the attempt is awaited when the clock is moved."""
        return min(self.record.schedule_time, self.record.dispatch_time)

    @property
    def deadline(self) -> int:
        """The dispatch deadline of the task, in nanoseconds."""
        return self.task.deadline

    @property
    def deadline_message(self) -> str:
        """The error message for an attempt without a response within the deadline."""
        return (
            f"no response within the dispatch deadline of {self.deadline / SECOND:g} s; the option "
            "DISPATCH_DEADLINE in OPTIONS sets it"
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that Cloud Tasks adds to the request, as captured from production."""
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
        """Return the task's target with the overrides of its queue."""
        target = self.task.target
        if isinstance(target, HttpTarget):
            return with_audience(overridden(target, self.queue.config.override))
        routing = self.queue.config.routing
        return attrs.evolve(target, routing=routing) if routing else target


@attrs.frozen
class FinishedAttempt:
    """An attempt that ended, for tests and the dashboard.

    Attributes:
        task: the full name of the task, or of the job of Cloud Scheduler.
        number: 1 for the first attempt of the task, or of an execution of the job.
        status: the HTTP status, or that of `AttemptResult.http_status`.
        answered: whether there was a response.
    """

    task: str
    number: int
    status: int
    answered: bool


@attrs.define(eq=False)
class Queue:
    """A queue and its tasks. Times are nanoseconds since the epoch.

    Attributes:
        purge_time: the time of the last purge; None if there was none.
        tasks: the tasks by task id.
        waiting: a heap of (schedule time, `Task.order`, task id). It may contain invalid entries.
        running: attempts in progress.
        held_until: the queue dispatches nothing before this time, because of a `Retry-After`
            header.
        tombstones: by the ids of removed tasks, the time until which an id is reserved.
    """

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

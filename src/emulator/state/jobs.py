"""The jobs of Cloud Scheduler: their values, and every transition of a job.

A transition is a function that takes a job and returns the changed job. It has no input, output or
clock. `job_service` keeps the jobs and calls the transitions.

An execution begins at a tick of the schedule, or when a user runs the job. It consists of an
attempt and the retries after it. Only when it has ended, the next execution begins. If several
ticks have passed by then, one execution begins, for the latest of them. The same rule applies after
the emulator was down.
"""

from enum import Enum

import attrs

from .limits import SECOND
from .model import AttemptResult
from .retries import RetryPolicy
from .schedules import Schedule
from .targets import SCHEDULER_USER_AGENT, HttpTarget, with_audience

_LONGEST_BACKOFF = 31 * 24 * 3600 * SECOND  # nanoseconds; a longer wait is shortened to this

DEFAULT_RETRIES = RetryPolicy(max_attempts=1, min_backoff=5.0)
"""The retry policy of a job that sets none: no retries."""

DEFAULT_DEADLINE = 180 * SECOND
"""How long an attempt may take if the job does not say it, in nanoseconds."""


class JobState(Enum):
    """Whether a job is executed at its ticks."""

    ENABLED = "ENABLED"
    PAUSED = "PAUSED"


@attrs.frozen(kw_only=True)
class JobConfig:
    """What a user sets about a job.

    Attributes:
        target: the request to make.
        schedule: when the job is due.
        description: a text for people.
        retries: the retry policy. `max_attempts` is 1 plus the number of retries.
        deadline: how long an attempt may take, in nanoseconds.
    """

    target: HttpTarget
    schedule: Schedule
    description: str = ""
    retries: RetryPolicy = DEFAULT_RETRIES
    deadline: int = DEFAULT_DEADLINE


@attrs.frozen(kw_only=True)
class Execution:
    """An execution that has not ended. Times are nanoseconds since the epoch.

    Attributes:
        schedule_time: the tick, or the time at which a user ran the job.
        first_attempt: when the first attempt began.
        attempts: the attempts that have begun.
        running: the id of the attempt in progress; None while the execution waits for a retry.
        retry_time: when the next attempt is due. It has no meaning while an attempt is in progress.
    """

    schedule_time: int
    first_attempt: int
    attempts: int
    running: int | None
    retry_time: int = 0


@attrs.frozen(kw_only=True)
class Job:
    """A job. Times are nanoseconds since the epoch.

    Attributes:
        name: the full name, `projects/P/locations/L/jobs/J`.
        config: what a user sets.
        user_update_time: when a user changed the job, in whole seconds.
        state: whether the job is executed at its ticks.
        next_tick: the tick of the next execution; None if the job is paused or has no more ticks.
        execution: the execution that has not ended; None between executions.
        last_attempt_time: when the last attempt began; None if there was none.
        last_status: the HTTP status of the last attempt that ended, or that of
            `AttemptResult.http_status`; None if there was none.
    """

    name: str
    config: JobConfig
    user_update_time: int
    state: JobState = JobState.ENABLED
    next_tick: int | None = None
    execution: Execution | None = None
    last_attempt_time: int | None = None
    last_status: int | None = None

    @property
    def job_id(self) -> str:
        """The short id."""
        return self.name.rpartition("/")[2]

    @property
    def due(self) -> int | None:
        """When the next attempt begins; None if it depends on another event."""
        if self.execution is None:
            return self.next_tick
        return None if self.execution.running is not None else self.execution.retry_time

    @property
    def schedule_time(self) -> int | None:
        """The time of the next attempt, a retry or a tick, as the API shows it; None for none."""
        if self.execution is not None and self.execution.running is None:
            return self.execution.retry_time
        return self.next_tick


@attrs.frozen(eq=False)
class JobAttempt:
    """An attempt that begins, with the data for its request. Times are nanoseconds since the epoch.

    Attributes:
        job: the job when the attempt began.
        attempt_id: the id of the attempt.
        number: 1 for the first attempt of an execution.
        schedule_time: the schedule time of the execution.
        dispatch_time: when the attempt began.
    """

    job: Job
    attempt_id: int
    number: int
    schedule_time: int
    dispatch_time: int

    @property
    def name(self) -> str:
        """The full name of the job."""
        return self.job.name

    @property
    def fault_key(self) -> str:
        """The text from which the injected faults of the attempt are drawn."""
        return f"{self.job.name}@{self.schedule_time}"

    @property
    def due(self) -> int:
        """The time from which on the attempt is awaited when the clock is moved."""
        return min(self.schedule_time, self.dispatch_time)

    @property
    def deadline(self) -> int:
        """How long the attempt may take, in nanoseconds."""
        return self.job.config.deadline

    @property
    def deadline_message(self) -> str:
        """The error message for an attempt without a response within the deadline."""
        return f"no response within the attempt deadline of {self.deadline / SECOND:g} s"

    def headers(self) -> dict[str, str]:
        """Return the headers that Cloud Scheduler adds to the request."""
        return {
            "User-Agent": SCHEDULER_USER_AGENT,
            "X-CloudScheduler": "true",
            "X-CloudScheduler-JobName": self.job.job_id,
            "X-CloudScheduler-ScheduleTime": (
                self.job.config.schedule.local(self.schedule_time).isoformat()
            ),
        }

    def target(self) -> HttpTarget:
        """Return the target of the job."""
        return with_audience(self.job.config.target)


# Transitions. `now` is the time of the event, in nanoseconds since the epoch.


def created(name: str, config: JobConfig, now: int) -> Job:
    """Return a new job."""
    return Job(
        name=name,
        config=config,
        user_update_time=_whole_seconds(now),
        next_tick=config.schedule.after(now),
    )


def updated(job: Job, config: JobConfig, now: int) -> Job:
    """Return the job with another configuration. An execution that has begun continues with it."""
    job = attrs.evolve(job, user_update_time=_whole_seconds(now))
    if config.schedule != job.config.schedule and job.state is JobState.ENABLED:
        job = attrs.evolve(job, next_tick=config.schedule.after(now))
    return attrs.evolve(job, config=config)


def paused(job: Job, now: int) -> Job:
    """Return the job paused. An attempt in progress continues. Retries do not happen."""
    execution = job.execution
    if execution is not None and execution.running is None:
        execution = None
    return attrs.evolve(
        job,
        state=JobState.PAUSED,
        user_update_time=_whole_seconds(now),
        next_tick=None,
        execution=execution,
    )


def resumed(job: Job, now: int) -> Job:
    """Return the job enabled. The ticks that passed while it was paused are skipped."""
    return attrs.evolve(
        job,
        state=JobState.ENABLED,
        user_update_time=_whole_seconds(now),
        next_tick=job.config.schedule.after(now),
    )


def begun(job: Job, attempt_id: int, now: int) -> tuple[Job, JobAttempt]:
    """Return the job with the attempt that is due, and the attempt.

    Args:
        job: a job that is due.
        attempt_id: the id of the attempt.
        now: the time of this event.
    """
    if job.execution is not None:
        again = attrs.evolve(job.execution, attempts=job.execution.attempts + 1, running=attempt_id)
        return _with_attempt(attrs.evolve(job, execution=again), attempt_id, again, now)
    schedule = job.config.schedule
    tick = schedule.latest(job.next_tick or now, now)
    job = attrs.evolve(job, next_tick=schedule.after(max(tick, now)))
    return _new_execution(job, attempt_id, tick, now)


def forced(job: Job, attempt_id: int, now: int) -> tuple[Job, JobAttempt]:
    """Return the job with an attempt that a user demands, and the attempt.

    If an execution has not ended, the attempt is made beside it, and is not retried.

    Args:
        job: a job, also a paused one.
        attempt_id: the id of the attempt.
        now: the time of this event.
    """
    if job.execution is None:
        return _new_execution(job, attempt_id, now, now)
    beside = Execution(schedule_time=now, first_attempt=now, attempts=1, running=attempt_id)
    return _with_attempt(job, attempt_id, beside, now)


def ended(job: Job, attempt_id: int, result: int | AttemptResult, now: int) -> Job:
    """Return the job after an attempt. Its execution has ended, or waits for a retry.

    Args:
        job: the job.
        attempt_id: the id of the attempt.
        result: the HTTP status of the response, or the reason why there is no response.
        now: the time of this event.
    """
    status = result if isinstance(result, int) else result.http_status
    job = attrs.evolve(job, last_status=status)
    execution = job.execution
    if execution is None or execution.running != attempt_id:
        return job  # A user ran the job beside an execution.
    retries = job.config.retries
    if (
        200 <= status < 300  # noqa: PLR2004 - the statuses of success
        or job.state is JobState.PAUSED
        or retries.exhausted(
            attempts=execution.attempts, since_first=(now - execution.first_attempt) / SECOND
        )
    ):
        return attrs.evolve(job, execution=None)
    wait = min(round(retries.backoff(execution.attempts) * SECOND), _LONGEST_BACKOFF)
    return attrs.evolve(job, execution=attrs.evolve(execution, running=None, retry_time=now + wait))


def _new_execution(
    job: Job, attempt_id: int, schedule_time: int, now: int
) -> tuple[Job, JobAttempt]:
    execution = Execution(
        schedule_time=schedule_time, first_attempt=now, attempts=1, running=attempt_id
    )
    return _with_attempt(attrs.evolve(job, execution=execution), attempt_id, execution, now)


def _with_attempt(
    job: Job, attempt_id: int, execution: Execution, now: int
) -> tuple[Job, JobAttempt]:
    job = attrs.evolve(job, last_attempt_time=now)
    return job, JobAttempt(job, attempt_id, execution.attempts, execution.schedule_time, now)


def _whole_seconds(now: int) -> int:
    return now // SECOND * SECOND

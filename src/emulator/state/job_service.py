"""The state machine of jobs. It has no input, output or clock.

Each method is an event, as in `state_machine`. `now` is the time of the event in nanoseconds since
the epoch. `jobs` contains the transitions. A change is recorded in the journal before it is made,
except the end of an attempt: if the journal refuses to record it, `catch_up` records it later.
"""

from collections.abc import Callable
from contextlib import suppress
from itertools import count

from ..errors import ApiError, Status, job_exists, no_job
from .jobs import (
    Job,
    JobAttempt,
    JobConfig,
    JobState,
    begun,
    created,
    ended,
    forced,
    paused,
    resumed,
    updated,
)
from .journal import JobJournal, NullJournal
from .model import AttemptResult

MOST_JOBS = 5000
"""The maximum number of jobs in a location."""


class JobService:
    """All jobs of all projects.

    Args:
        new_id: returns an id for a job that is created without a name.
        journal: records every change; None to record nothing.
    """

    def __init__(self, *, new_id: Callable[[], str], journal: JobJournal | None = None) -> None:
        self._new_id = new_id
        self._journal = journal or NullJournal()
        self._jobs: dict[str, Job] = {}
        self._attempt_ids = count(1)
        # The names of jobs by the ids of their attempts in progress. An attempt of a job that was
        # deleted is not in it, so its end has no effect.
        self._running: dict[int, str] = {}
        self._late: set[str] = set()

    def create(self, parent: str, job_id: str | None, config: JobConfig, now: int) -> Job:
        """Create a job.

        Args:
            parent: the full name of its location.
            job_id: the id; None for an id from `new_id`.
            config: its configuration.
            now: the time of this event.

        Raises:
            ApiError: the name is taken, the location has too many jobs, or the journal refuses.
        """
        name = f"{parent}/jobs/{job_id or self._new_id()}"
        if name in self._jobs:
            raise job_exists(name)
        if len(self.jobs(parent)) >= MOST_JOBS:
            raise ApiError(
                Status.RESOURCE_EXHAUSTED, f"A location can have at most {MOST_JOBS} jobs."
            )
        return self._put(created(name, config, now))

    def job(self, name: str) -> Job:
        """Return the job with this full name.

        Raises:
            ApiError: NOT_FOUND.
        """
        job = self._jobs.get(name)
        if job is None:
            raise no_job()
        return job

    def jobs(self, parent: str = "") -> list[Job]:
        """Return the jobs in `projects/P/locations/L`, or all jobs, sorted by name."""
        prefix = f"{parent}/jobs/" if parent else ""
        return [job for name, job in sorted(self._jobs.items()) if name.startswith(prefix)]

    def update(self, name: str, config: JobConfig, now: int) -> Job:
        """Change the configuration of a job."""
        return self._put(updated(self.job(name), config, now))

    def delete(self, name: str) -> None:
        """Delete a job. Its attempts in progress have no effect when they end."""
        self.job(name)
        self._journal.job_removed(name)
        del self._jobs[name]
        self._late.discard(name)
        self._running = {key: other for key, other in self._running.items() if other != name}

    def pause(self, name: str, now: int) -> Job:
        """Pause an enabled job.

        Raises:
            ApiError: the job does not exist or is paused, or the journal refuses.
        """
        return self._put(paused(self._in_state(name, JobState.ENABLED), now))

    def resume(self, name: str, now: int) -> Job:
        """Enable a paused job.

        Raises:
            ApiError: the job does not exist or is enabled, or the journal refuses.
        """
        return self._put(resumed(self._in_state(name, JobState.PAUSED), now))

    def reset(self) -> None:
        """Remove all jobs. The caller has recorded it in the journal."""
        self._jobs.clear()
        self._running.clear()
        self._late.clear()

    def restore(self, job: Job, now: int) -> None:
        """Restore a job from a journal. This records nothing.

        An attempt that was in progress when the emulator ended counts as one without a response.
        """
        if job.execution is not None and job.execution.running is not None:
            job = ended(job, job.execution.running, AttemptResult.NO_CONNECTION, now)
        self._jobs[job.name] = job

    # Attempts

    def run(self, name: str, now: int) -> JobAttempt:
        """Begin an attempt now, also of a paused job.

        Returns:
            The attempt. The caller makes it.
        """
        return self._begin(forced, self.job(name), now)

    def dispatch(self, name: str, now: int) -> JobAttempt | None:
        """Begin the attempt of a job that is due; None if none is due.

        Returns:
            The attempt. The caller makes it.

        Raises:
            ApiError: the journal refuses. The job stays due.
        """
        self.catch_up()
        due = self.next_event(name)
        return None if due is None or due > now else self._begin(begun, self.job(name), now)

    def next_event(self, name: str) -> int | None:
        """Return the time of the next attempt of a job; None if it depends on another event."""
        job = self._jobs.get(name)
        return None if job is None else job.due

    def finish(self, attempt: JobAttempt, result: int | AttemptResult, now: int) -> None:
        """Report that an attempt ended.

        Args:
            attempt: the attempt.
            result: the HTTP status of the response, or the reason why there is no response.
            now: the time of this event.
        """
        name = self._running.pop(attempt.attempt_id, None)
        if name is None:
            return  # The job was deleted while this attempt ran.
        self._jobs[name] = ended(self._jobs[name], attempt.attempt_id, result, now)
        self._late.add(name)
        # If the journal refuses, it has logged the error. The next `dispatch` asks it again.
        with suppress(ApiError):
            self.catch_up()

    def catch_up(self) -> None:
        """Record the ends of attempts that the journal refused to record when they happened.

        Raises:
            ApiError: the journal still refuses.
        """
        for name in list(self._late):
            self._journal.job_changed(self._jobs[name])
            self._late.discard(name)

    def _begin(
        self,
        transition: Callable[[Job, int, int], tuple[Job, JobAttempt]],
        job: Job,
        now: int,
    ) -> JobAttempt:
        job, attempt = transition(job, next(self._attempt_ids), now)
        self._put(job)
        self._running[attempt.attempt_id] = job.name
        return attempt

    def _put(self, job: Job) -> Job:
        """Record a new or changed job, and keep it."""
        self._journal.job_changed(job)
        self._late.discard(job.name)
        self._jobs[job.name] = job
        return job

    def _in_state(self, name: str, state: JobState) -> Job:
        job = self.job(name)
        if job.state is not state:
            raise ApiError(
                Status.FAILED_PRECONDITION,
                f"The job is in state {job.state.name}, not {state.name}.",
            )
        return job

"""The scheduler: it dispatches attempts when they are due by the emulator's clock.

It dispatches the attempts of tasks and of jobs. The jobs themselves, those of the service Cloud
Scheduler, are in `state.job_service`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from .clock import LATEST, Clock, ManualClock
from .errors import ApiError, invalid
from .state.job_service import JobService
from .state.jobs import JobAttempt
from .state.limits import SECOND
from .state.model import Attempt, AttemptResult, FinishedAttempt
from .state.state_machine import Service
from .state.targets import HttpTarget, Token
from .ways_out.chaos import Chaos
from .ways_out.dispatcher import Dispatcher, Response

logger = logging.getLogger(__name__)

_LONGEST_TIMER = 60.0  # seconds
_RETRY = 1.0  # seconds until the next dispatch after the journal refused one
_REMEMBERED = 10_000  # finished attempts that are kept for tests and the dashboard


class EventLog(Protocol):
    """A function that logs an event: its name, and its facts as keyword arguments."""

    def __call__(self, event: str, **facts: object) -> None: ...


class Scheduler:
    """Makes attempts when they are due, and moves the clock.

    It implements `Driver` for the methods of the API. Call its methods on the event loop of the
    emulator.

    Args:
        service: the queues and tasks.
        jobs: the jobs of Cloud Scheduler.
        clock: the source of the time.
        log: called with every event.
        issue_token: returns the token for an attempt.
        app_engine: HOST:PORT or URL for App Engine tasks; with None their attempts fail.
        chaos: the faults to inject into attempts; None for no faults.
        in_turns: see `Emulator`.

    Attributes:
        finished: the latest finished attempts, oldest first.
    """

    def __init__(
        self,
        service: Service,
        jobs: JobService,
        clock: Clock,
        *,
        log: EventLog,
        issue_token: Callable[[Token], str],
        app_engine: str | None,
        chaos: Chaos | None,
        in_turns: bool,
    ) -> None:
        self.chaos = chaos
        self.finished: deque[FinishedAttempt] = deque(maxlen=_REMEMBERED)
        self._service = service
        self._jobs = jobs
        self._clock = clock
        self._log = log
        self._issue_token = issue_token
        self._app_engine = app_engine
        self._in_turns = in_turns
        self._turn = asyncio.Lock()
        self._awaited = asyncio.Event()
        # By the full names of queues and jobs.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._deliveries: dict[asyncio.Task[None], Attempt | JobAttempt] = {}
        self._stopping = False

    def start(self) -> None:
        """Begin to dispatch. What is already due is dispatched, also restored tasks and jobs."""
        self._dispatcher = Dispatcher(self._issue_token, self._app_engine)
        for queue in self._service.queues():
            self.touched(queue.name)
        for job in self._jobs.jobs():
            self.job_touched(job.name)

    def stop(self) -> None:
        """Stop dispatching. Attempts in progress continue."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()

    async def close(self) -> None:
        """Close the connections of the dispatcher."""
        await self._dispatcher.close()

    # Dispatching

    def now(self) -> int:
        """See `Driver`."""
        return self._clock.now()

    def touched(self, queue: str) -> None:
        """See `Driver`. It also sets the timer of the queue."""
        # If the journal refuses, it has logged the error. The tasks stay due, and a timer calls
        # this method again.
        with suppress(ApiError):
            self._dispatch(queue)

    def job_touched(self, job: str) -> None:
        """See `Driver`. It also sets the timer of the job."""
        with suppress(ApiError):  # As in `touched`.
            self._execute(job)

    def log(self, event: str, **facts: object) -> None:
        """See `Driver`."""
        self._log(event, **facts)

    def _dispatch(self, queue: str) -> None:
        """Dispatch the due tasks of the queue, and set its timer for the next event.

        Raises:
            ApiError: the journal refuses.
        """
        self._cancel_timer(queue)
        if self._stopping:
            return
        now = self._clock.now()
        try:
            for attempt in self._service.dispatch(queue, now):
                self.begin(attempt)
        except ApiError:
            self._set_timer(queue, _RETRY, self.touched)
            raise
        self._wait_for(queue, self._service.next_event(queue, now), self.touched)

    def _execute(self, job: str) -> None:
        """Begin the attempt of the job that is due, and set its timer for the next event.

        Raises:
            ApiError: the journal refuses.
        """
        self._cancel_timer(job)
        if self._stopping:
            return
        try:
            attempt = self._jobs.dispatch(job, self._clock.now())
        except ApiError:
            self._set_timer(job, _RETRY, self.job_touched)
            raise
        if attempt is not None:
            self.begin(attempt)
        self._wait_for(job, self._jobs.next_event(job), self.job_touched)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _set_timer(self, name: str, wait: float, call: Callable[[str], None]) -> None:
        """Set the timer of a queue or job, so that `call(name)` happens after `wait` seconds."""
        self._timers[name] = asyncio.get_running_loop().call_later(wait, call, name)

    def _wait_for(self, name: str, when: int | None, call: Callable[[str], None]) -> None:
        """Set the timer of a queue or job for its next event; None means there is no event.

        With a `ManualClock` there is no timer, because only `advance` moves that clock.
        """
        if when is not None and not isinstance(self._clock, ManualClock):
            # The clock of the loop stops while the computer sleeps. So a long wait is split into
            # short waits.
            wait = min(max(0, when - self._clock.now()) / SECOND, _LONGEST_TIMER)
            self._set_timer(name, wait, call)

    # Attempts in progress

    def begin(self, attempt: Attempt | JobAttempt) -> None:
        """See `Driver`. It does not wait for the response."""
        delivery = asyncio.get_running_loop().create_task(self._deliver(attempt))
        self._deliveries[delivery] = attempt
        delivery.add_done_callback(self._deliveries.pop)

    async def break_off(self) -> None:
        """Cancel the attempts in progress, and wait until they have ended."""
        deliveries = list(self._deliveries)
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until no attempt is in progress."""
        async with self._waiting():
            while self._deliveries:
                await asyncio.wait(set(self._deliveries))

    async def _deliver(self, attempt: Attempt | JobAttempt) -> None:
        kind = "job" if isinstance(attempt, JobAttempt) else "task"
        facts = {kind: attempt.name, "attempt": attempt.number}
        try:
            self.log("attempt started", **facts, to=_address(attempt))
            response = await self._send(attempt)
        except Exception:
            # An unexpected exception of the HTTP client is a failed attempt.
            logger.exception(
                "The attempt %d of the %s %s failed with an unexpected exception.",
                attempt.number,
                kind,
                attempt.name,
            )
            response = Response(AttemptResult.NO_CONNECTION)
        now, result = self._clock.now(), response.result
        if isinstance(attempt, JobAttempt):
            self._jobs.finish(attempt, result, now)
            following = self._jobs.next_event(attempt.name)
        else:
            self._service.finish(attempt, result, now, response.retry_after)
            following = attempt.task.schedule_time if attempt.task.order is not None else None
        status = result if isinstance(result, int) else result.http_status
        self.finished.append(
            FinishedAttempt(attempt.name, attempt.number, status, isinstance(result, int))
        )
        self.log(
            "attempt finished",
            **facts,
            answer=result if isinstance(result, int) else result.value,
            **({"because": response.detail} if response.detail else {}),
            **({} if following is None else {"next_in": (following - now) / SECOND}),
        )
        if isinstance(attempt, JobAttempt):
            self.job_touched(attempt.name)
        else:
            self.touched(attempt.queue.name)

    async def _send(self, attempt: Attempt | JobAttempt) -> Response:
        """Make an attempt with the fault that `chaos` injects into it, and return the response."""
        if self.chaos is None:
            return await self._call(attempt)
        fault = self.chaos.fault_for(attempt.fault_key, attempt.number)
        if fault.refuse:
            return Response(AttemptResult.NO_CONNECTION, detail="chaos")
        await asyncio.sleep(fault.delay)
        if fault.duplicate:
            first, _ = await asyncio.gather(self._call(attempt), self._call(attempt))
        else:
            first = await self._call(attempt)
        return Response(AttemptResult.TIMEOUT, detail="chaos") if fault.drop else first

    async def _call(self, attempt: Attempt | JobAttempt) -> Response:
        """Send the request of an attempt. With `in_turns`, wait first until it may begin."""
        if not self._in_turns:
            return await self._dispatcher.send(attempt)
        async with self._turn:
            await self._awaited.wait()
            return await self._dispatcher.send(attempt)

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[None]:
        """A context in which attempts may begin although `in_turns` is set."""
        self._awaited.set()
        try:
            yield
        finally:
            self._awaited.clear()

    # Moving the clock

    async def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Attempts that become due are dispatched in the order of their times. The method returns
        when they have ended.

        Args:
            seconds: how far to move the clock.

        Raises:
            ApiError: INVALID_ARGUMENT for a time after `LATEST`. UNAVAILABLE if the journal
                refuses a dispatch; the clock then stays at the time of that dispatch.
        """
        async with self._waiting():
            await self._advance(seconds)
        self.log("clock advanced", by=float(seconds))

    async def _advance(self, seconds: float) -> None:
        clock = self._clock
        target = clock.now() + round(seconds * SECOND)
        if target > LATEST:
            raise invalid("The clock cannot be moved beyond the year 2261.")
        while True:
            await self._done(clock.now())
            event = min(self._events(), key=lambda event: event[:2], default=None)
            if event is None or event[0] > target:
                break
            when, name, happen = event
            clock.move_to(when)
            happen(name)
        clock.move_to(target)
        for queue in self._service.queues():
            self._dispatch(queue.name)
        for job in self._jobs.jobs():
            self._execute(job.name)
        await self._done(target)

    def _events(self) -> Iterator[tuple[int, str, Callable[[str], None]]]:
        """Iterate over the next events: the time, the name, and what to call with the name."""
        now = self._clock.now()
        for queue in self._service.queues():
            when = self._service.next_event(queue.name, now)
            if when is not None:
                yield when, queue.name, self._dispatch
        for job in self._jobs.jobs():
            if job.due is not None:
                yield job.due, job.name, self._execute

    async def _done(self, moment: int) -> None:
        """Wait for the attempts that were due or began at `moment` or earlier."""
        while pending := {
            delivery for delivery, attempt in self._deliveries.items() if attempt.due <= moment
        }:
            await asyncio.wait(pending)


def _address(attempt: Attempt | JobAttempt) -> str:
    """The URL or path that an attempt calls, for the log."""
    target = attempt.target()
    return target.url if isinstance(target, HttpTarget) else target.relative_uri

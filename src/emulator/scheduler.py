"""The scheduler: it dispatches attempts when they are due by the emulator's clock."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from .clock import LATEST, Clock, ManualClock
from .errors import ApiError, invalid
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
        self._clock = clock
        self._log = log
        self._issue_token = issue_token
        self._app_engine = app_engine
        self._in_turns = in_turns
        self._turn = asyncio.Lock()
        self._awaited = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._deliveries: dict[asyncio.Task[None], Attempt] = {}
        self._stopping = False

    def start(self) -> None:
        """Begin to dispatch. Tasks that are already due are dispatched, also restored ones."""
        self._dispatcher = Dispatcher(self._issue_token, self._app_engine)
        for queue in self._service.queues():
            self.touched(queue.name)

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

    def log(self, event: str, **facts: object) -> None:
        """See `Driver`."""
        self._log(event, **facts)

    def _dispatch(self, queue: str) -> None:
        """Dispatch the due tasks of the queue, and set its timer for the next event.

        Raises:
            ApiError: the journal refuses.
        """
        timer = self._timers.pop(queue, None)
        if timer is not None:
            timer.cancel()
        if self._stopping:
            return
        loop = asyncio.get_running_loop()
        now = self._clock.now()
        try:
            for attempt in self._service.dispatch(queue, now):
                self.begin(attempt)
        except ApiError:
            self._timers[queue] = loop.call_later(_RETRY, self.touched, queue)
            raise
        when = self._service.next_event(queue, now)
        if when is not None and not isinstance(self._clock, ManualClock):
            # The clock of the loop stops while the computer sleeps. So a long wait is split into
            # short waits.
            wait = min(max(0, when - now) / SECOND, _LONGEST_TIMER)
            self._timers[queue] = loop.call_later(wait, self.touched, queue)

    # Attempts in progress

    def begin(self, attempt: Attempt) -> None:
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

    async def _deliver(self, attempt: Attempt) -> None:
        number = attempt.retry_count + 1
        try:
            self.log(
                "attempt started", task=attempt.task.name, attempt=number, to=_address(attempt)
            )
            response = await self._send(attempt, number)
        except Exception:
            # An unexpected exception of the HTTP client fails the attempt, and the task is retried.
            logger.exception(
                "The attempt %d of the task %s failed with an unexpected exception.",
                number,
                attempt.task.name,
            )
            response = Response(AttemptResult.NO_CONNECTION)
        now, result = self._clock.now(), response.result
        self._service.finish(attempt, result, now, response.retry_after)
        status = result if isinstance(result, int) else result.http_status
        self.finished.append(
            FinishedAttempt(attempt.task.name, number, status, isinstance(result, int))
        )
        self.log(
            "attempt finished",
            task=attempt.task.name,
            attempt=number,
            answer=result if isinstance(result, int) else result.value,
            **({"because": response.detail} if response.detail else {}),
            **(
                {"next_in": (attempt.task.schedule_time - now) / SECOND}
                if attempt.task.order is not None
                else {}
            ),
        )
        self.touched(attempt.queue.name)

    async def _send(self, attempt: Attempt, number: int) -> Response:
        """Make an attempt with the fault that `chaos` injects into it, and return the response."""
        if self.chaos is None:
            return await self._call(attempt)
        fault = self.chaos.fault_for(attempt.task.name, number)
        if fault.refuse:
            return Response(AttemptResult.NO_CONNECTION, detail="chaos")
        await asyncio.sleep(fault.delay)
        if fault.duplicate:
            first, _ = await asyncio.gather(self._call(attempt), self._call(attempt))
        else:
            first = await self._call(attempt)
        return Response(AttemptResult.TIMEOUT, detail="chaos") if fault.drop else first

    async def _call(self, attempt: Attempt) -> Response:
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
            events = [
                (when, queue.name)
                for queue in self._service.queues()
                if (when := self._service.next_event(queue.name, clock.now())) is not None
                and when <= target
            ]
            if not events:
                break
            when, queue_name = min(events)
            clock.move_to(when)
            self._dispatch(queue_name)
        clock.move_to(target)
        for queue in self._service.queues():
            self._dispatch(queue.name)
        await self._done(target)

    async def _done(self, moment: int) -> None:
        """Wait for the attempts that were due or began at `moment` or earlier."""
        while pending := {
            delivery
            for delivery, attempt in self._deliveries.items()
            if min(attempt.record.schedule_time, attempt.record.dispatch_time) <= moment
        }:
            await asyncio.wait(pending)


def _address(attempt: Attempt) -> str:
    """The URL or path that an attempt calls, for the log."""
    target = attempt.target()
    return target.url if isinstance(target, HttpTarget) else target.relative_uri

"""Dispatching attempts when they are due, by the emulator's clock."""

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
_RETRY = 1.0  # seconds until the next try after the journal refused a dispatch
_REMEMBERED = 10_000  # latest attempts that ended


class EventLog(Protocol):
    """Logs an event with its facts."""

    def __call__(self, event: str, **facts: object) -> None: ...


class Scheduler:
    """Makes attempts when they are due, and moves the clock.

    It is the `Driver` of the API's methods. Its methods run on the event loop of the emulator.

    Args:
        log: is called with every event.
        issue_token: makes the token of an attempt.
        app_engine: where App Engine tasks go, HOST:PORT; None for nowhere.
        chaos: the faults that attempts meet.
        in_turns: as for `Emulator`.

    Attributes:
        finished: the latest attempts that ended, oldest first.
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
        """Dispatch what is due already, for example what a storage brought."""
        self._dispatcher = Dispatcher(self._issue_token, self._app_engine)
        for queue in self._service.queues():
            self.touched(queue.name)

    def stop(self) -> None:
        """Dispatch nothing from now on; attempts that are under way run on."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()

    async def close(self) -> None:
        """Close the connections of the dispatcher."""
        await self._dispatcher.close()

    # Dispatching

    def now(self) -> int:
        """The time, in nanoseconds since the epoch."""
        return self._clock.now()

    def touched(self, queue: str) -> None:
        """Dispatch what is due in the queue, and set its timer."""
        # When the journal refuses, it has logged that. What is due stays due and is tried again.
        with suppress(ApiError):
            self._dispatch(queue)

    def log(self, event: str, **facts: object) -> None:
        """Log an event."""
        self._log(event, **facts)

    def _dispatch(self, queue: str) -> None:
        """Dispatch what is due in the queue, and set its timer for the next event.

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
            # The loop's clock stops while a computer sleeps, so a long wait is split into short
            # ones.
            wait = min(max(0, when - now) / SECOND, _LONGEST_TIMER)
            self._timers[queue] = loop.call_later(wait, self.touched, queue)

    # Attempts under way

    def begin(self, attempt: Attempt) -> None:
        """Make the attempt."""
        delivery = asyncio.get_running_loop().create_task(self._deliver(attempt))
        self._deliveries[delivery] = attempt
        delivery.add_done_callback(self._deliveries.pop)

    async def break_off(self) -> None:
        """Cancel the attempts that are under way."""
        deliveries = list(self._deliveries)
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until no attempt is under way."""
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
            # An unexpected exception of the HTTP client ends the attempt, but not the task.
            logger.exception("An attempt at %s broke", attempt.task.name)
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
        """Make an attempt, with the fault that `chaos` injects into it."""
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
        """Call the app, when it is this attempt's turn."""
        if not self._in_turns:
            return await self._dispatcher.send(attempt)
        async with self._turn:
            await self._awaited.wait()
            return await self._dispatcher.send(attempt)

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[None]:
        """Let attempts `in_turns` begin while the caller waits for them."""
        self._awaited.set()
        try:
            yield
        finally:
            self._awaited.clear()

    # Moving the clock

    async def advance(self, seconds: float) -> None:
        """Move the clock on. What becomes due in between is dispatched in order and completed.

        Raises:
            ApiError: INVALID_ARGUMENT beyond the clock's last moment. UNAVAILABLE when the journal
                refuses a dispatch; the clock then stays at the time of that dispatch.
        """
        async with self._waiting():
            await self._advance(seconds)
        self.log("clock advanced", by=float(seconds))

    async def _advance(self, seconds: float) -> None:
        clock = self._clock
        target = clock.now() + round(seconds * SECOND)
        if target > LATEST:
            raise invalid("The clock cannot be moved on beyond the year 2261.")
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
        """Wait for the attempts that were due, or began, at that moment or earlier."""
        while pending := {
            delivery
            for delivery, attempt in self._deliveries.items()
            if min(attempt.record.schedule_time, attempt.record.dispatch_time) <= moment
        }:
            await asyncio.wait(pending)


def _address(attempt: Attempt) -> str:
    """What an attempt calls, for the log."""
    target = attempt.target()
    return target.url if isinstance(target, HttpTarget) else target.relative_uri

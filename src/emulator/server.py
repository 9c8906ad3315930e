"""The emulator put together: one port in front, the dispatcher behind, the clock in between."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from time import time
from typing import Any
from uuid import uuid4

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from ..core.errors import ConfigurationError
from .api import Api
from .chaos import Chaos
from .clock import LATEST, Clock, ManualClock, SystemClock
from .dispatcher import Answer, Dispatcher
from .errors import ApiError, invalid
from .grpc_protocol import PREFACE, GrpcProtocol
from .hosts import AllowedHosts
from .identity import GOOGLE_ISSUER, TokenIssuer
from .limits import SECOND
from .overview import FinishedAttempt, overview
from .rest import Rest
from .state import Service
from .storage import Storage
from .targets import HttpTarget
from .values import Attempt, AttemptResult, QueueConfig
from .web import make_web

logger = logging.getLogger(__name__)


def _on_one_line(record: logging.LogRecord) -> bool:
    """Tell of what a client did in one line; of a fault of the emulator's own, everything."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | ClientError | OSError):
        record.msg, record.args = "A request over HTTP/1.1 broke: %.300r", (error,)
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


_http_logger = logging.getLogger(f"{__name__}.http")
_http_logger.addFilter(_on_one_line)

type Log = Callable[[str, dict[str, object]], None]
"""Takes an event and its facts."""

# Clients see the end of the server and come back; nobody is waited for.
_NO_PATIENCE = 0.1

_LONGEST_TIMER = 60.0  # seconds
_RETRY = 1.0  # seconds before what is due is tried again where the journal has refused it

_LONGEST_LINGERING = 10.0  # seconds for what a client still sends when it is answered already

_LONGEST_HEAD = 65_536  # bytes of a request before its body

_REMEMBERED = 10_000  # attempts that ended, the latest


class Emulator:
    """A Cloud Tasks on one port. Make, start and stop it on the same event loop.

    Args:
        clock: where the time comes from; with a `ManualClock` only `advance` moves things on.
        queues: names of queues to begin with.
        create_queues: whether creating a task creates its queue.
        log: is told of every event.
        app_engine: where App Engine tasks go, HOST:PORT; None for the environment's
            `APP_ENGINE_EMULATOR_HOST`.
        chaos: the trouble that attempts meet.
        storage: where queues and tasks are kept beyond the emulator's life.
        issuer: the `iss` of identity tokens.
        allowed_hosts: names, beside loopback's and the address it listens on, under which requests
            reach the emulator.
        idle_timeout: seconds after which a connection is dropped over which nothing happens.
        in_turns: whether attempts are made one at a time, and only while somebody waits for them
            in `settle` or `advance`: for tests whose threads share a database connection.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        queues: Iterable[str] = (),
        create_queues: bool = False,
        log: Log | None = None,
        app_engine: str | None = None,
        chaos: Chaos | None = None,
        storage: Storage | None = None,
        issuer: str = GOOGLE_ISSUER,
        allowed_hosts: Iterable[str] = (),
        idle_timeout: float = 300.0,
        in_turns: bool = False,
    ) -> None:
        self._clock = clock or SystemClock()
        self._log = log
        self._allowed_hosts = tuple(allowed_hosts)
        self._idle_timeout = idle_timeout
        self._in_turns = in_turns
        self._turn = asyncio.Lock()
        self._awaited = asyncio.Event()
        self._app_engine = app_engine or os.environ.get("APP_ENGINE_EMULATOR_HOST")
        self.chaos = chaos
        self._storage = storage
        self._initial = list(queues)
        self.service = Service(
            new_id=lambda: str(uuid4().int)[:20], create_queues=create_queues, journal=storage
        )
        if storage:
            # A clock that was moved on shall not fall behind what is stored.
            self._clock.move_to(storage.latest())
            storage.restore(self.service, self._clock.now())
        try:
            self._make_initial_queues()
        except ApiError as error:
            raise ConfigurationError(f"The queues cannot be made: {error.message}") from error
        self._issuer = TokenIssuer(time=time, issuer=issuer)
        self.changes = asyncio.Event()
        self._api = Api(self.service, self)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._deliveries: dict[asyncio.Task[None], Attempt] = {}
        self._connections: set[asyncio.Transport] = set()
        self._stopping = False
        self.finished: deque[FinishedAttempt] = deque(maxlen=_REMEMBERED)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which is chosen where 0 is asked for.

        Raises:
            OSError: the address is taken, or is none.
        """
        self._loop = asyncio.get_running_loop()
        self._hosts = AllowedHosts(host, self._allowed_hosts)
        self._runner = web.AppRunner(
            make_web(self._issuer, Rest(self._api), self, self._hosts, patience=self._idle_timeout),
            access_log=None,
            logger=_http_logger,
            shutdown_timeout=_NO_PATIENCE,
            keepalive_timeout=self._idle_timeout,
            lingering_time=min(self._idle_timeout, _LONGEST_LINGERING),
            auto_decompress=False,
        )
        await self._runner.setup()
        try:
            self._server = await self._loop.create_server(self._accept, host, port)
        except BaseException:
            await self._runner.cleanup()
            raise
        self._dispatcher = Dispatcher(self._issuer.issue, self._app_engine)
        for queue in self.service.queues():
            self.touched(queue.name)  # What a storage brought may be due.
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, break off what is under way, close every connection."""
        self._stopping = True
        self._server.close()
        for timer in self._timers.values():
            timer.cancel()
        # First who could ask for more, then what was asked for.
        for connection in list(self._connections):
            connection.close()
        await self._break_off()
        await self._runner.cleanup()
        await self._dispatcher.close()
        if self._storage:
            # Else what is done would be done again. A refusal is in the log already.
            with suppress(ApiError):
                self.service.catch_up()
            self._storage.close()

    # Driver of the API

    def now(self) -> int:
        """See `Driver`."""
        return self._clock.now()

    def touched(self, queue: str) -> None:
        """See `Driver`."""
        # A journal that refuses has said so; what is due stays due, and is tried again.
        with suppress(ApiError):
            self._dispatch(queue)

    def _dispatch(self, queue: str) -> None:
        """Dispatch what the queue has to dispatch, and set its timer for what comes next.

        Raises:
            ApiError: the journal refuses.
        """
        timer = self._timers.pop(queue, None)
        if timer is not None:
            timer.cancel()
        if self._stopping:
            return
        now = self._clock.now()
        try:
            for attempt in self.service.dispatch(queue, now):
                self.begin(attempt)
        except ApiError:
            self._timers[queue] = self._loop.call_later(_RETRY, self.touched, queue)
            raise
        when = self.service.next_event(queue, now)
        if when is not None and not isinstance(self._clock, ManualClock):
            # The loop's clock stands still while a laptop sleeps: a long wait is looked at again.
            wait = min(max(0, when - now) / SECOND, _LONGEST_TIMER)
            self._timers[queue] = self._loop.call_later(wait, self.touched, queue)

    def begin(self, attempt: Attempt) -> None:
        """See `Driver`."""
        delivery = self._loop.create_task(self._deliver(attempt))
        self._deliveries[delivery] = attempt
        delivery.add_done_callback(self._deliveries.pop)

    def log(self, event: str, **facts: object) -> None:
        """See `Driver`."""
        self.changes.set()
        if self._log:
            try:
                self._log(event, facts)
            except Exception as error:  # noqa: BLE001 - what happened has happened, told or not
                logger.error("The event %r was not told: %r", event, error)  # noqa: TRY400 - one line

    async def _deliver(self, attempt: Attempt) -> None:
        number = attempt.retry_count + 1
        try:
            self.log(
                "attempt started", task=attempt.task.name, attempt=number, to=_address(attempt)
            )
            answer = await self._send(attempt, number)
        except Exception:
            # Whatever a strange answer does to the client: the attempt ends, the task lives on.
            logger.exception("An attempt at %s broke", attempt.task.name)
            answer = Answer(AttemptResult.NO_CONNECTION)
        now, result = self._clock.now(), answer.result
        self.service.finish(attempt, result, now, answer.retry_after)
        status = result if isinstance(result, int) else result.http_status
        self.finished.append(
            FinishedAttempt(attempt.task.name, number, status, isinstance(result, int))
        )
        self.log(
            "attempt finished",
            task=attempt.task.name,
            attempt=number,
            answer=result if isinstance(result, int) else result.value,
            **({"because": answer.detail} if answer.detail else {}),
            **(
                {"next_in": (attempt.task.schedule_time - now) / SECOND}
                if attempt.task.order is not None
                else {}
            ),
        )
        self.touched(attempt.queue.name)

    async def _send(self, attempt: Attempt, number: int) -> Answer:
        """Make an attempt, with whatever trouble there is for it."""
        if self.chaos is None:
            return await self._call(attempt)
        trouble = self.chaos.trouble(attempt.task.name, number)
        if trouble.refuse:
            return Answer(AttemptResult.NO_CONNECTION, detail="chaos")
        await asyncio.sleep(trouble.delay)
        if trouble.duplicate:
            first, _ = await asyncio.gather(self._call(attempt), self._call(attempt))
        else:
            first = await self._call(attempt)
        return Answer(AttemptResult.TIMEOUT, detail="chaos") if trouble.drop else first

    async def _call(self, attempt: Attempt) -> Answer:
        """Call the app, when it is this attempt's turn."""
        if not self._in_turns:
            return await self._dispatcher.send(attempt)
        async with self._turn:
            await self._awaited.wait()
            return await self._dispatcher.send(attempt)

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[None]:
        """Somebody does nothing but wait for attempts meanwhile."""
        self._awaited.set()
        try:
            yield
        finally:
            self._awaited.clear()

    def _make_initial_queues(self) -> None:
        for queue in self._initial:
            if not self.service.has_queue(queue):
                self.service.allow_again(queue)
                self.service.create_queue(queue, QueueConfig(), self._clock.now())

    # What the pages see and do

    def overview(self, queue: str | None) -> dict[str, Any]:
        """See `Controls`."""
        return overview(self.service, self.finished, self._clock.now(), queue)

    async def reset(self) -> None:
        """See `Controls`."""
        self.service.reset(self._initial, self._clock.now())
        self._api.extras.reset()
        self.finished.clear()
        await self._break_off()
        self.log("emulator reset")

    # Time

    async def settle(self) -> None:
        """Wait until no attempt is under way."""
        async with self._waiting():
            while self._deliveries:
                await asyncio.wait(set(self._deliveries))

    async def _done(self, moment: int) -> None:
        """Wait until no attempt is under way that was due, or begun, by then."""
        while pending := {
            delivery
            for delivery, attempt in self._deliveries.items()
            if min(attempt.record.schedule_time, attempt.record.dispatch_time) <= moment
        }:
            await asyncio.wait(pending)

    async def _break_off(self) -> None:
        """Cancel the attempts that are under way."""
        deliveries = list(self._deliveries)
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)

    async def advance(self, seconds: float) -> None:
        """Move the clock on; what becomes due in between happens in order, and to its end.

        Raises:
            ApiError: INVALID_ARGUMENT beyond the last moment that can be told; UNAVAILABLE when the
                journal refuses what was due, at which the clock then stands.
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
                for queue in self.service.queues()
                if (when := self.service.next_event(queue.name, clock.now())) is not None
                and when <= target
            ]
            if not events:
                break
            when, queue_name = min(events)
            clock.move_to(when)
            self._dispatch(queue_name)
        clock.move_to(target)
        for queue in self.service.queues():
            self._dispatch(queue.name)
        await self._done(target)

    # The port

    def _accept(self) -> asyncio.Protocol:
        return _FirstBytes(
            lambda: GrpcProtocol(self._api.methods, self._connections, self._idle_timeout),
            self._http_connection,
            self._connections,
            self._idle_timeout,
        )

    def _http_connection(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None  # noqa: S101 - set up in `start`
        return server()


def _address(attempt: Attempt) -> str:
    """What an attempt calls, for the log."""
    target = attempt.target()
    return target.url if isinstance(target, HttpTarget) else target.relative_uri


class _FirstBytes(asyncio.Protocol):
    """Looks at how a connection begins, and gives the rest to the protocol that it speaks.

    An HTTP/1.1 connection is given on with the whole head of its first request, so that one that
    never sends it is dropped here.

    Args:
        connections: holds the transports that the server has to close itself.
        idle_timeout: seconds in which the beginning must arrive.
    """

    def __init__(
        self,
        grpc: Callable[[], asyncio.Protocol],
        http: Callable[[], asyncio.Protocol],
        connections: set[asyncio.Transport],
        idle_timeout: float,
    ) -> None:
        self._grpc = grpc
        self._http = http
        self._connections = connections
        self._idle_timeout = idle_timeout
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what loops give to servers
        self._transport = transport
        self._connections.add(transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._idle_timeout, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._timer.cancel()
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._seen.startswith(PREFACE):
            protocol = self._grpc()
        elif PREFACE.startswith(self._seen):
            return  # Not enough to tell.
        elif b"\r\n\r\n" not in self._seen and len(self._seen) < _LONGEST_HEAD:
            return
        else:
            self._connections.discard(self._transport)  # aiohttp looks after its own.
            protocol = self._http()
        self._timer.cancel()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._seen)

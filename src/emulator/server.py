"""The emulator put together: one port for everything that comes in, and a scheduler behind it."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import time
from typing import Any
from uuid import uuid4

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from ..core.errors import ConfigurationError
from .api.table import Api
from .clock import Clock, SystemClock
from .errors import ApiError
from .scheduler import Scheduler
from .state.model import QueueConfig
from .state.state_machine import Service
from .storage import Storage
from .ways_in.dashboard import overview
from .ways_in.grpc_protocol import GrpcProtocol
from .ways_in.hosts import AllowedHosts
from .ways_in.rest import Rest
from .ways_in.sniffing import SniffingProtocol
from .ways_in.web import make_web
from .ways_out.chaos import Chaos
from .ways_out.identity import GOOGLE_ISSUER, TokenIssuer

logger = logging.getLogger(__name__)


def _on_one_line(record: logging.LogRecord) -> bool:
    """Log what a client caused as one line. Log the emulator's own errors in full."""
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

_SHUTDOWN_TIMEOUT = 0.1  # seconds; clients see that the server ends, and connect again later

_LONGEST_LINGERING = 10.0  # seconds to read on what a client sends after its response


class Emulator:
    """A Cloud Tasks on one port. Make, start and stop it on the same event loop.

    Args:
        clock: where the time comes from; a `ManualClock` moves only in `advance`.
        queues: names of queues that exist from the start.
        create_queues: whether creating a task creates its queue.
        log: is called with every event.
        app_engine: where App Engine tasks go, HOST:PORT; None for the environment's
            `APP_ENGINE_EMULATOR_HOST`.
        chaos: the faults that attempts meet.
        storage: keeps queues and tasks after the emulator ends.
        issuer: the `iss` of identity tokens.
        allowed_hosts: names under which requests may reach the emulator, in addition to those of
            loopback and the address that it listens on.
        idle_timeout: seconds after which an idle connection is dropped.
        in_turns: whether attempts are made one at a time, and only while a caller waits for them
            in `settle` or `advance`: for tests whose threads share a database connection.

    Attributes:
        finished: the latest attempts that ended, oldest first.
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
        self._storage = storage
        self._initial = list(queues)
        self.service = Service(
            new_id=lambda: str(uuid4().int)[:20], create_queues=create_queues, journal=storage
        )
        if storage:
            # A clock that was moved on must not start before what is stored.
            self._clock.move_to(storage.latest())
            storage.restore(self.service, self._clock.now())
        try:
            self._make_initial_queues()
        except ApiError as error:
            raise ConfigurationError(f"The queues cannot be made: {error.message}") from error
        self._issuer = TokenIssuer(time=time, issuer=issuer)
        self._scheduler = Scheduler(
            self.service,
            self._clock,
            log=self.log,
            issue_token=self._issuer.issue,
            app_engine=app_engine or os.environ.get("APP_ENGINE_EMULATOR_HOST"),
            chaos=chaos,
            in_turns=in_turns,
        )
        self.finished = self._scheduler.finished
        self.changes = asyncio.Event()
        self._api = Api(self.service, self._scheduler)
        self._connections: set[asyncio.Transport] = set()

    def _make_initial_queues(self) -> None:
        for queue in self._initial:
            if not self.service.has_queue(queue):
                self.service.allow_again(queue)
                self.service.create_queue(queue, QueueConfig(), self._clock.now())

    # Start and stop

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port; with port 0 a free one is chosen.

        Raises:
            OSError: the address is taken or does not exist.
        """
        loop = asyncio.get_running_loop()
        hosts = AllowedHosts(host, self._allowed_hosts)
        self._runner = web.AppRunner(
            make_web(self._issuer, Rest(self._api), self, hosts, patience=self._idle_timeout),
            access_log=None,
            logger=_http_logger,
            shutdown_timeout=_SHUTDOWN_TIMEOUT,
            keepalive_timeout=self._idle_timeout,
            lingering_time=min(self._idle_timeout, _LONGEST_LINGERING),
            auto_decompress=False,
        )
        await self._runner.setup()
        try:
            self._server = await loop.create_server(self._accept, host, port)
        except BaseException:
            await self._runner.cleanup()
            raise
        self._scheduler.start()
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, cancel the attempts under way, and close every connection."""
        self._scheduler.stop()
        self._server.close()
        # Connections are closed first, because their clients could start more attempts.
        for connection in list(self._connections):
            connection.close()
        await self._scheduler.break_off()
        await self._runner.cleanup()
        await self._scheduler.close()
        if self._storage:
            # Without this, tasks that are done would be dispatched again after the next start. A
            # journal that refuses has logged that already.
            with suppress(ApiError):
                self.service.catch_up()
            self._storage.close()

    def _accept(self) -> asyncio.Protocol:
        return SniffingProtocol(
            lambda: GrpcProtocol(self._api.methods, self._connections, self._idle_timeout),
            self._http_connection,
            self._connections,
            self._idle_timeout,
        )

    def _http_connection(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None  # noqa: S101 - set up in `start`
        return server()

    # What pages and tests see and do

    def log(self, event: str, **facts: object) -> None:
        """Log an event, and notify the dashboards."""
        self.changes.set()
        if self._log:
            try:
                self._log(event, facts)
            except Exception as error:  # noqa: BLE001 - the event has happened, logged or not
                logger.error("The event %r was not told: %r", event, error)  # noqa: TRY400 - one line

    def overview(self, queue: str | None) -> dict[str, Any]:
        """See `Controls`."""
        return overview(self.service, self.finished, self._clock.now(), queue)

    def now(self) -> int:
        """See `Controls`."""
        return self._clock.now()

    async def advance(self, seconds: float) -> None:
        """See `Scheduler.advance`."""
        await self._scheduler.advance(seconds)

    async def settle(self) -> None:
        """Wait until no attempt is under way."""
        await self._scheduler.settle()

    async def reset(self) -> None:
        """See `Controls`."""
        self.service.reset(self._initial, self._clock.now())
        self._api.reset()
        self.finished.clear()
        await self._scheduler.break_off()
        self.log("emulator reset")

    def touched(self, queue: str) -> None:
        """Dispatch what is due in the queue, because something in it changed."""
        self._scheduler.touched(queue)

    @property
    def chaos(self) -> Chaos | None:
        """The faults that attempts meet."""
        return self._scheduler.chaos

    @chaos.setter
    def chaos(self, chaos: Chaos | None) -> None:
        self._scheduler.chaos = chaos

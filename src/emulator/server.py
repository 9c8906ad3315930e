"""The emulator: a server on one port for gRPC and HTTP/1.1, and a scheduler that dispatches."""

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
from .state.job_service import JobService
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
    """A logging filter that shortens errors that clients cause to one line.

    Errors of the emulator itself keep their tracebacks.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | ClientError | OSError):
        record.msg, record.args = "A client's HTTP/1.1 request failed: %.300r", (error,)
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


_http_logger = logging.getLogger(f"{__name__}.http")
_http_logger.addFilter(_on_one_line)


def _new_id() -> str:
    """Return an id for a task or job that is created without a name."""
    return str(uuid4().int)[:20]


type Log = Callable[[str, dict[str, object]], None]
"""A function that logs an event: its name, and its facts by name."""

_SHUTDOWN_TIMEOUT = 0.1  # seconds; clients notice the closed connection and connect again later

_LONGEST_LINGERING = 10.0  # seconds to read the rest of a request after its response was sent


class Emulator:
    """An emulator of Cloud Tasks and Cloud Scheduler on one port.

    Create, start and stop it on the same event loop.

    Args:
        clock: the source of the time; None for the system clock. A `ManualClock` moves only in
            `advance`.
        queues: full names of the queues to create at the start.
        create_queues: whether creating a task also creates its queue if that does not exist.
        log: called with every event.
        app_engine: HOST:PORT or URL for App Engine tasks; None for the environment variable
            `APP_ENGINE_EMULATOR_HOST`.
        chaos: the faults to inject into attempts; None for no faults.
        storage: keeps queues, tasks and jobs in a file; None to keep them in memory only.
        issuer: the `iss` claim of OIDC tokens.
        allowed_hosts: additional host names that requests may use. The names of loopback and the
            address that the emulator listens on are always allowed.
        idle_timeout: seconds after which an idle connection is closed.
        in_turns: whether to make attempts one at a time, and only while a caller waits in `settle`
            or `advance`. Tests whose threads share a database connection need this.

    Attributes:
        service: the queues and tasks.
        jobs: the jobs of Cloud Scheduler.
        finished: the latest finished attempts, oldest first.
        changes: set when an event was logged. The dashboards wait for it.

    Raises:
        ConfigurationError: the storage cannot be read, or a queue cannot be created.
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
        self.service = Service(new_id=_new_id, create_queues=create_queues, journal=storage)
        self.jobs = JobService(new_id=_new_id, journal=storage)
        try:
            self._restore()
        except BaseException:
            if storage:
                storage.close()  # Otherwise the file stays locked while this process runs.
            raise
        self._issuer = TokenIssuer(time=time, issuer=issuer)
        self._scheduler = Scheduler(
            self.service,
            self.jobs,
            self._clock,
            log=self.log,
            issue_token=self._issuer.issue,
            app_engine=app_engine or os.environ.get("APP_ENGINE_EMULATOR_HOST"),
            chaos=chaos,
            in_turns=in_turns,
        )
        self.finished = self._scheduler.finished
        self.changes = asyncio.Event()
        self._api = Api(self.service, self.jobs, self._scheduler)
        self._connections: set[asyncio.Transport] = set()

    def _restore(self) -> None:
        """Read the state file, and create the initial queues.

        Raises:
            ConfigurationError: the file is damaged, or a queue cannot be created.
        """
        if self._storage:
            # Moving the clock forward may have put the stored times ahead of the system clock.
            self._clock.move_to(self._storage.latest())
            self._storage.restore(self.service, self.jobs, self._clock.now())
        try:
            self._make_initial_queues()
        except ApiError as error:
            raise ConfigurationError(
                f"The initial queues cannot be created: {error.message}"
            ) from error

    def _make_initial_queues(self) -> None:
        for queue in self._initial:
            if not self.service.has_queue(queue):
                self.service.allow_again(queue)
                self.service.create_queue(queue, QueueConfig(), self._clock.now())

    # Start and stop

    async def start(self, host: str, port: int) -> int:
        """Listen, begin to dispatch, and return the port.

        Args:
            host: the address to listen on.
            port: the port to listen on; 0 chooses a free port.

        Raises:
            OSError: the address is in use or does not exist.
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
        """Stop listening, cancel the attempts in progress, and close all connections."""
        self._scheduler.stop()
        self._server.close()
        # Close the connections first, because their clients could start more attempts.
        for connection in list(self._connections):
            connection.close()
        await self._scheduler.break_off()
        await self._runner.cleanup()
        await self._scheduler.close()
        if self._storage:
            # Without this call, the next start would dispatch finished tasks again. If the journal
            # refuses, it has already logged the error.
            with suppress(ApiError):
                self.service.catch_up()
                self.jobs.catch_up()
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

    # Controls for the web pages and for tests

    def log(self, event: str, **facts: object) -> None:
        """Log an event, and notify the dashboards."""
        self.changes.set()
        if self._log:
            try:
                self._log(event, facts)
            except Exception as error:  # noqa: BLE001 - a failed log must not stop a delivery
                logger.error("Logging the event %r failed: %r", event, error)  # noqa: TRY400 - one line

    def overview(self, queue: str | None) -> dict[str, Any]:
        """See `Controls`."""
        return overview(self.service, self.jobs, self.finished, self._clock.now(), queue)

    def now(self) -> int:
        """See `Controls`."""
        return self._clock.now()

    async def advance(self, seconds: float) -> None:
        """See `Scheduler.advance`."""
        await self._scheduler.advance(seconds)

    async def settle(self) -> None:
        """Wait until no attempt is in progress."""
        await self._scheduler.settle()

    async def reset(self) -> None:
        """See `Controls`."""
        self.service.reset(self._initial, self._clock.now())
        self.jobs.reset()
        self._api.reset()
        self.finished.clear()
        await self._scheduler.break_off()
        self.log("emulator reset")

    def touched(self, queue: str) -> None:
        """Dispatch the due tasks of a queue. Call this after a change of the queue."""
        self._scheduler.touched(queue)

    @property
    def chaos(self) -> Chaos | None:
        """The faults to inject into attempts; None for no faults."""
        return self._scheduler.chaos

    @chaos.setter
    def chaos(self, chaos: Chaos | None) -> None:
        self._scheduler.chaos = chaos

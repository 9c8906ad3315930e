"""The adapters of a process: environment, metadata server, queues, token verifiers, result stores.

Each adapter is created once per process, when it is first needed. Tests replace the adapters with
`use_runtime`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import attrs
from django.core.signals import setting_changed

from ..adapters.forks import renew_in_children
from ..adapters.heartbeat import Heartbeat
from ..adapters.metadata import NoMetadataServer, answer_finding, metadata_server
from ..core import detection
from ..core.detection import Detected
from ..core.ports import (
    MetadataServer,
    ResultStore,
    TaskQueue,
    TokenVerifier,
)

if TYPE_CHECKING:
    from ..core.administration import QueueAdmin, SchedulerAdmin

type Find = Callable[[str | None, detection.Platform], detection.Finding[Detected]]

_STORE_THREADS = 4


def _grpc_queue(emulator_host: str | None) -> TaskQueue:
    from ..adapters.cloud_tasks import GrpcTaskQueue

    return GrpcTaskQueue(emulator_host)


def _grpc_queue_admin(emulator_host: str | None) -> QueueAdmin:
    from ..adapters.queue_admin import GrpcQueueAdmin

    return GrpcQueueAdmin(emulator_host)


def _grpc_scheduler_admin(emulator_host: str | None) -> SchedulerAdmin:
    from ..adapters.scheduler_admin import GrpcSchedulerAdmin

    return GrpcSchedulerAdmin(emulator_host)


def _google_tokens(emulator_host: str | None) -> TokenVerifier:
    from ..adapters import tokens

    url = f"http://{emulator_host}/oauth2/v1/certs" if emulator_host else tokens.GOOGLE_CERTIFICATES
    return tokens.GoogleTokenVerifier(
        tokens.CertificateStore(
            partial(tokens.fetch_certificates, url, proxied=emulator_host is None)
        )
    )


def _database_results(database: str, clock: Callable[[], datetime]) -> ResultStore:
    from .results.store import DatabaseResultStore

    return DatabaseResultStore(database, clock=clock)


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()


def _store_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="cloud-tasks-store")


def _now() -> datetime:
    return datetime.now(UTC)


def _random_id() -> str:
    """Return 32 random hexadecimal digits. Cloud Tasks needs ids that are evenly distributed."""
    return os.urandom(16).hex()


@attrs.define(eq=False)
class Runtime:
    """The adapters that the backends and the views use.

    Attributes:
        environ: the environment variables.
        make_queue: creates the queue for an emulator (HOST:PORT), or for Cloud Tasks (None).
        make_queue_admin: creates the administration of queues for an emulator (HOST:PORT), or for
            Cloud Tasks (None).
        make_scheduler_admin: the same for Cloud Scheduler.
        make_tokens: creates the verifier for an emulator (HOST:PORT), or for Google (None).
        make_metadata: creates the metadata server for an environment.
        make_results: creates the result store for the alias of a database and a clock.
        clock: returns the time, as an aware datetime. Records and leases use this clock.
        new_id: returns a new unique id for a task, or a new token for a claim.
        configurations: the configurations of `configuration_for`, by alias.
    """

    environ: Mapping[str, str] = attrs.field(factory=lambda: os.environ)
    make_queue: Callable[[str | None], TaskQueue] = _grpc_queue
    make_queue_admin: Callable[[str | None], QueueAdmin] = _grpc_queue_admin
    make_scheduler_admin: Callable[[str | None], SchedulerAdmin] = _grpc_scheduler_admin
    make_tokens: Callable[[str | None], TokenVerifier] = _google_tokens
    make_metadata: Callable[[Mapping[str, str]], MetadataServer] = metadata_server
    make_results: Callable[[str, Callable[[], datetime]], ResultStore] = _database_results
    clock: Callable[[], datetime] = _now
    new_id: Callable[[], str] = _random_id
    configurations: dict[str, object] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _queues: dict[str | None, TaskQueue] = attrs.field(factory=dict, init=False)
    _tokens: dict[str | None, TokenVerifier] = attrs.field(factory=dict, init=False)
    _metadata: MetadataServer | None = attrs.field(default=None, init=False)
    _results: dict[str, ResultStore] = attrs.field(factory=dict, init=False)
    _pools: dict[int, ThreadPoolExecutor] = attrs.field(factory=dict, init=False)
    _heartbeats: dict[int, Heartbeat] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        renew_in_children(self)

    def after_fork_in_child(self) -> None:
        """See `Forkable`."""
        self._lock = threading.Lock()

    def queue(self, emulator_host: str | None) -> TaskQueue:
        """Return the queue for the emulator at this address, or for Cloud Tasks if it is None."""
        return _kept(self._queues, emulator_host, self.make_queue, self._lock)

    def tokens(self, emulator_host: str | None) -> TokenVerifier:
        """Return the verifier for tokens of this emulator, or of Google if it is None."""
        return _kept(self._tokens, emulator_host, self.make_tokens, self._lock)

    def results(self, database: str) -> ResultStore:
        """Return the result store in the database with this alias."""
        return _kept(
            self._results, database, lambda name: self.make_results(name, self.clock), self._lock
        )

    @property
    def store_threads(self) -> ThreadPoolExecutor:
        """The threads that read and write the records of coroutine tasks.

        There are only a few, because each needs a database connection.
        """
        return _kept(self._pools, os.getpid(), lambda _: _store_threads(), self._lock)

    @property
    def heartbeat(self) -> Heartbeat:
        """The heartbeat of the process. A forked child has its own."""
        return _kept(
            self._heartbeats, os.getpid(), lambda _: Heartbeat(idle=_close_connections), self._lock
        )

    def metadata(self, emulator_host: str | None) -> MetadataServer:
        """Return the metadata server. With an emulator it is a server without values."""
        if emulator_host:
            return NoMetadataServer()
        with self._lock:
            if self._metadata is None:
                self._metadata = self.make_metadata(self.environ)
            return self._metadata

    def detect(self, find: Find, option: str | None, emulator_host: str | None) -> Detected:
        """Run a detection of `core.detection` and return its result.

        Args:
            find: the function of `core.detection`.
            option: the value of the option; None if it is not set.
            emulator_host: HOST:PORT of the emulator; None without one.

        Raises:
            ConfigurationError: see the function.
        """
        platform = detection.Platform(environ=self.environ, emulated=emulator_host is not None)
        return answer_finding(find(option, platform), self.metadata(emulator_host))


def _kept[K, V](kept: dict[K, V], key: K, make: Callable[[K], V], lock: threading.Lock) -> V:
    value = kept.get(key)
    if value is None:
        with lock:
            value = kept.get(key)
            if value is None:
                value = kept[key] = make(key)
    return value


_current = Runtime()


def get_runtime() -> Runtime:
    """Return the current runtime."""
    return _current


@contextmanager
def use_runtime(runtime: Runtime) -> Iterator[None]:
    """Return a context that uses another runtime, for tests. It discards existing backends."""
    global _current  # noqa: PLW0603 - the only place that holds the runtime of the process
    before, _current = _current, runtime
    _forget_backends()
    try:
        yield
    finally:
        _current = before
        _forget_backends()


def _forget_backends() -> None:
    setting_changed.send(use_runtime, setting="TASKS", value=None, enter=True)


# The public functions for detection.


def detect_gcp_project() -> str | None:
    """Return the id of the Google Cloud project; None if it is not known.

    The sources are the environment and the metadata server.

    Raises:
        ConfigurationError: the value in the environment is not valid, or the metadata server does
            not answer.
    """
    return _value(detection.find_project)


def detect_gcp_location() -> str | None:
    """Return the region of this process, such as `europe-west1`; None if it is not known.

    The sources are the environment and the metadata server.

    Raises:
        ConfigurationError: the value in the environment is not valid, or the metadata server does
            not answer.
    """
    return _value(detection.find_location)


def detect_task_handler_host() -> str | None:
    """Return the address of this app, such as `https://app-123.europe-west1.run.app`.

    None if it is not known. The sources are the environment and the metadata server. On App Engine
    the result is a guess, because a host name there contains a region id that is not available.

    Raises:
        ConfigurationError: the value in the environment is not valid, or the metadata server does
            not answer.
    """
    return _value(detection.find_handler_host)


def detect_default_service_account() -> str | None:
    """Return the e-mail of the service account of this process; None if it is not known.

    The sources are the environment and the metadata server.

    Raises:
        ConfigurationError: the value in the environment is not valid, or the metadata server does
            not answer.
    """
    return _value(detection.find_service_account)


def is_cloud_run() -> bool:
    """Return whether this process is part of a Cloud Run service. The source is the environment."""
    return detection.is_cloud_run(get_runtime().environ)


def is_app_engine() -> bool:
    """Return whether this process is part of an App Engine app. The source is the environment."""
    return detection.is_app_engine(get_runtime().environ)


def _value(find: Find) -> str | None:
    detected = get_runtime().detect(find, None, None)
    return detected.value if isinstance(detected, detection.Found) else None

"""The outside world of a process: environment, metadata server, queue, token verifier.

The adapters are chosen and made here, once a process, when they are first needed; tests put
other runtime in their place with `use`.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import attrs
from django.core.signals import setting_changed

from ..adapters.forks import renew_in_children
from ..adapters.heartbeat import Heartbeat
from ..adapters.metadata import NoMetadataServer, answer_finding, metadata_server
from ..core import detection
from ..core.detection import Detected
from ..core.ports import MetadataServer, ResultStore, TaskQueue, TokenVerifier

type Find = Callable[[str | None, detection.Platform], detection.Finding[Detected]]

_STORE_THREADS = 4


def _grpc_queue(emulator_host: str | None) -> TaskQueue:
    from ..adapters.cloud_tasks import GrpcTaskQueue

    return GrpcTaskQueue(emulator_host)


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
    """Of a form that Cloud Tasks takes and spreads evenly: 32 hexadecimal digits."""
    return os.urandom(16).hex()


@attrs.define(eq=False)
class Runtime:
    """What the backend and the view reach the outside with.

    Attributes:
        environ: the environment's variables.
        make_queue: a queue on the service (None) or on the emulator at that address.
        make_tokens: a verifier of the tokens that Google (None) or that emulator issues.
        make_metadata: the metadata server that such an environment tells of.
        make_results: the result store in the database of that alias.
        clock: the time, aware. What is recorded about tasks, and their leases, go by it.
        new_id: an id of a task, or a token of a claim, that nobody else has.
        configurations: what `configuration_for` worked out, by alias.
    """

    environ: Mapping[str, str] = attrs.field(factory=lambda: os.environ)
    make_queue: Callable[[str | None], TaskQueue] = _grpc_queue
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
        """The process's queue on the service, or on the emulator at that address."""
        return _kept(self._queues, emulator_host, self.make_queue, self._lock)

    def tokens(self, emulator_host: str | None) -> TokenVerifier:
        """The process's verifier for the tokens of Google, or of that emulator."""
        return _kept(self._tokens, emulator_host, self.make_tokens, self._lock)

    def results(self, database: str) -> ResultStore:
        """The process's result store in that database."""
        return _kept(
            self._results, database, lambda name: self.make_results(name, self.clock), self._lock
        )

    @property
    def store_threads(self) -> ThreadPoolExecutor:
        """The threads that read and write records for coroutine tasks; few, for few connections."""
        return _kept(self._pools, os.getpid(), lambda _: _store_threads(), self._lock)

    @property
    def heartbeat(self) -> Heartbeat:
        """The process's heartbeat; a forked child has another than its parent."""
        return _kept(
            self._heartbeats, os.getpid(), lambda _: Heartbeat(idle=_close_connections), self._lock
        )

    def metadata(self, emulator_host: str | None) -> MetadataServer:
        """The metadata server; where an emulator is in use nothing is Google Cloud's."""
        if emulator_host:
            return NoMetadataServer()
        with self._lock:
            if self._metadata is None:
                self._metadata = self.make_metadata(self.environ)
            return self._metadata

    def detect(self, find: Find, option: str | None, emulator_host: str | None) -> Detected:
        """What `find` of `core.detection` finds for that option.

        Raises:
            ConfigurationError: see there.
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
    """The runtime in use."""
    return _current


@contextmanager
def use_runtime(runtime: Runtime) -> Iterator[None]:
    """Put other runtime in place, for tests; backends made before are forgotten."""
    global _current  # noqa: PLW0603 - the one place where the process's runtime live
    before, _current = _current, runtime
    _forget_backends()
    try:
        yield
    finally:
        _current = before
        _forget_backends()


def _forget_backends() -> None:
    setting_changed.send(use_runtime, setting="TASKS", value=None, enter=True)


# The public functions of detection.


def detect_gcp_project() -> str | None:
    """The id of the Google Cloud project that this process runs in; None off Google Cloud."""
    return _value(detection.find_project)


def detect_gcp_location() -> str | None:
    """The region that this process runs in, such as `europe-west1`; None off Google Cloud."""
    return _value(detection.find_location)


def detect_task_handler_host() -> str | None:
    """The address of this app, such as `https://app-123.europe-west1.run.app`, if it is known.

    On App Engine it is a guess: its host names have a region id that stands nowhere.
    """
    return _value(detection.find_handler_host)


def detect_default_service_account() -> str | None:
    """The e-mail of the service account that this process runs as; None off Google Cloud."""
    return _value(detection.find_service_account)


def is_cloud_run() -> bool:
    """Whether this process is part of a Cloud Run service."""
    return detection.is_cloud_run(get_runtime().environ)


def is_app_engine() -> bool:
    """Whether this process is part of an App Engine app."""
    return detection.is_app_engine(get_runtime().environ)


def _value(find: Find) -> str | None:
    detected = get_runtime().detect(find, None, None)
    return detected.value if isinstance(detected, detection.Found) else None

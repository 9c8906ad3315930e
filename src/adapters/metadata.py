"""The client of Google Cloud's metadata server.

Outside Google Cloud, the name of the server does not resolve, or the connection hangs. So each
request runs in a thread with a timeout. If the process does not seem to run on Google Cloud, the
first request without a response means that there is no metadata server. This result is kept.
"""

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import attrs

from ..core.detection import Finding, MetadataAnswer, is_app_engine, is_cloud_run
from ..core.errors import ConfigurationError
from ..core.ports import MetadataServer
from .forks import renew_in_children
from .timeouts import call_with_timeout

DEFAULT_HOST = "metadata.google.internal"
_PREFIX = "/computeMetadata/v1/"
_FLAVOR = ("Metadata-Flavor", "Google")
_LONGEST_VALUE = 65_536  # bytes
_OK, _NOT_FOUND = 200, 404
_PAUSE = 5.0  # seconds before a failed request for a value is repeated
_PRODUCT = Path("/sys/class/dmi/id/product_name")  # the product name of the machine, on Linux


def answer_finding[R](finding: Finding[R], metadata: MetadataServer) -> R:
    """Run a finding with the values of a metadata server, and return its result.

    Args:
        finding: the generator from `core.detection`. It yields requests for values.
        metadata: the server that answers these requests.

    Raises:
        ConfigurationError: the finding raises it, or there is a server that returns no valid value.
    """
    try:
        step = next(finding)
        while True:
            value = metadata.get(step.path, step.is_valid)
            step = finding.send(MetadataAnswer(value, metadata.is_absent))
    except StopIteration as end:
        result: R = end.value
        return result


class NoMetadataServer:
    """A `MetadataServer` for a machine outside Google Cloud. It has no values."""

    is_absent = True

    def get(self, path: str, is_valid: Callable[[str], bool] = bool) -> str | None:  # noqa: ARG002 - the port's signature
        """Return None."""
        return None


class HttpMetadataServer:
    """A `MetadataServer` over HTTP. Values are cached for the lifetime of the process.

    A failure is cached for only 5 seconds. Then the next call of `get` makes the request again.
    Otherwise a short network error would leave the app without its identity, and the app would
    create tasks whose deliveries are refused.

    Args:
        host: the host of the server, with the port if it is not 80.
        expected: whether there is or may be a server. If True, a request without a response is an
            error. If False, it means that there is no server, unless the server has answered
            before.
        budget: seconds to wait for a response.
        clock: returns a monotonic time, in seconds.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        *,
        expected: bool = False,
        budget: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._is_there = expected
        self._budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}
        self._misses: dict[str, _Miss] = {}
        self.is_absent = False
        renew_in_children(self)

    def after_fork_in_child(self) -> None:
        """See `Forkable`."""
        self._lock = threading.Lock()

    def get(self, path: str, is_valid: Callable[[str], bool] = bool) -> str | None:
        """See `MetadataServer.get`.

        Raises:
            ConfigurationError: there is a server, and it returns no response or no valid value.
        """
        with self._lock:
            if path in self._values:
                return self._values[path]
            if self.is_absent:
                return None
            miss = self._misses.get(path)
            if miss is None or self._clock() >= miss.until:
                miss = self._ask(path, is_valid)
                if miss is None:
                    return self._values.get(path)
                self._misses[path] = miss
            if miss.trouble is None:
                return None
            raise ConfigurationError(
                f"The metadata server ({self._host}) {miss.trouble}. It is asked again in a few "
                "seconds. If there is no such server, set NO_GCE_CHECK=true in the environment."
            )

    def _ask(self, path: str, is_valid: Callable[[str], bool] = bool) -> "_Miss | None":
        """Request a value and cache it. If that fails, return the reason.

        None means that the value is cached, or that there is no server.
        """
        # A name lookup has no timeout of its own.
        answer = call_with_timeout(self._budget, partial(_fetch, self._host, path, self._budget))
        if answer is None and not self._is_there:
            self.is_absent = True
            return None
        until = self._clock() + _PAUSE
        if answer is None:
            return _Miss(until, f"did not answer within {self._budget:g} s")
        self._is_there = True
        if answer.status == _NOT_FOUND:
            return _Miss(until, None)
        if answer.status != _OK:
            return _Miss(until, f"answered the request for {path} with status {answer.status}")
        if not is_valid(answer.value):
            shown = answer.value[:100]
            return _Miss(until, f"answered the request for {path} with the invalid value {shown!r}")
        self._values[path] = answer.value
        return None


@attrs.frozen
class _Miss:
    """A failed request for a value.

    Attributes:
        until: the time before which the request is not repeated.
        trouble: the error; None if the server does not have the value.
    """

    until: float
    trouble: str | None


@attrs.frozen
class _Answer:
    """The response of the server."""

    status: int
    value: str


def _fetch(host: str, path: str, timeout: float) -> _Answer | None:
    """Return the response; None if there is no response, or it is not from a metadata server."""
    try:
        connection = http.client.HTTPConnection(host, timeout=timeout)
        try:
            connection.request("GET", _PREFIX + path, headers=dict([_FLAVOR]))
            response = connection.getresponse()
            if response.getheader(_FLAVOR[0]) != _FLAVOR[1]:
                return None  # This is another server, for example a captive portal or a proxy.
            text = response.read(_LONGEST_VALUE).decode("utf-8", "replace")
            return _Answer(response.status, text.strip())
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        return None


def metadata_server(
    environ: Mapping[str, str], product: Path = _PRODUCT
) -> HttpMetadataServer | NoMetadataServer:
    """Return the metadata server for an environment.

    Args:
        environ: the environment variables. `NO_GCE_CHECK=true` means that there is no server, and
            `GCE_METADATA_HOST` is the host of the server.
        product: the file in which Linux keeps the product name of the machine.
    """
    if environ.get("NO_GCE_CHECK", "").lower() == "true":
        return NoMetadataServer()
    certain = is_cloud_run(environ) or is_app_engine(environ)
    return HttpMetadataServer(
        environ.get("GCE_METADATA_HOST") or DEFAULT_HOST,
        expected=certain or _may_be_google_cloud(environ, product),
        budget=5.0 if certain else 1.0,
    )


def _may_be_google_cloud(environ: Mapping[str, str], product: Path) -> bool:
    """Return whether this may be Compute Engine or GKE.

    Then a request without a response does not prove that there is no metadata server.
    """
    if environ.get("GCE_METADATA_HOST"):
        return True
    try:
        return product.read_text().strip().startswith("Google")
    except (OSError, ValueError):
        # A sandbox can hide the file. Then only a Kubernetes pod may run on Google Cloud.
        return "KUBERNETES_SERVICE_HOST" in environ

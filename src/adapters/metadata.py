"""Google Cloud's metadata server over HTTP.

Off Google Cloud its name does not resolve, or the connection hangs. So the first question is
asked from a thread that can be left behind, and where there can be none, silence is remembered.
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
_LONGEST_VALUE = 65_536
_OK, _NOT_FOUND = 200, 404
_PAUSE = 5.0  # seconds before a server that did not give a value is asked for it again
_PRODUCT = Path("/sys/class/dmi/id/product_name")  # what the machine says it is, on Linux


def found[R](finding: Finding[R], metadata: MetadataServer) -> R:
    """What a finding comes to, asking that server.

    Raises:
        ConfigurationError: what the finding raises, or the server is there and does not answer.
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
    """For a machine that is known to be off Google Cloud."""

    is_absent = True

    def get(self, path: str, is_valid: Callable[[str], bool] = bool) -> str | None:  # noqa: ARG002 - the port's signature
        """None, always."""
        return None


class HttpMetadataServer:
    """`MetadataServer` over HTTP. Values are kept for the life of the process.

    What is no value is not: a server that is silent, errs, or answers with something else for a
    moment is asked again a little later. An app that forgot its identity for a network hiccup
    would create tasks that nobody accepts.

    Args:
        host: where it is, with a port if it is not 80.
        expected: whether there is one, or may be one: then its silence is an error. Otherwise the
            first silence says that there is none; a server that has answered once is there.
        budget: seconds that silence may cost.
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
            ConfigurationError: there is a server, and it does not answer, or not with a value.
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
        """Ask for a value and keep it; or why there is none now. None as well if no server is."""
        # Resolving a name cannot be bounded in time; waiting for it can.
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
            return _Miss(until, f"answered {answer.status} when it was asked for {path}")
        if not is_valid(answer.value):
            return _Miss(until, f"answered {answer.value[:100]!r} when it was asked for {path}")
        self._values[path] = answer.value
        return None


@attrs.frozen
class _Miss:
    """Until when a value is not asked for again, and what was wrong; None if it has none."""

    until: float
    trouble: str | None


@attrs.frozen
class _Answer:
    """What the server said."""

    status: int
    value: str


def _fetch(host: str, path: str, timeout: float) -> _Answer | None:
    """The server's answer; None if there is no server, or what is there is none."""
    try:
        connection = http.client.HTTPConnection(host, timeout=timeout)
        try:
            connection.request("GET", _PREFIX + path, headers=dict([_FLAVOR]))
            response = connection.getresponse()
            if response.getheader(_FLAVOR[0]) != _FLAVOR[1]:
                return None  # Something else listens there: a captive portal, a proxy.
            text = response.read(_LONGEST_VALUE).decode("utf-8", "replace")
            return _Answer(response.status, text.strip())
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        return None


def metadata_server(
    environ: Mapping[str, str], product: Path = _PRODUCT
) -> HttpMetadataServer | NoMetadataServer:
    """The metadata server that the environment tells of.

    Args:
        product: the file in which Linux keeps what the machine says it is.
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
    """Whether this may be Compute Engine or GKE, so that silence proves nothing."""
    if environ.get("GCE_METADATA_HOST"):
        return True
    try:
        return product.read_text().strip().startswith("Google")
    except (OSError, ValueError):
        # A sandbox hides it: then only a pod may be one of GKE's.
        return "KUBERNETES_SERVICE_HOST" in environ

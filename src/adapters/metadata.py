"""Google Cloud's metadata server over HTTP.

Off Google Cloud its name does not resolve, or the connection hangs. So the first question is
asked from a thread that can be left behind, and silence is remembered.
"""

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import attrs

from ..core.detection import is_app_engine, is_cloud_run
from ..core.errors import ConfigurationError
from .patience import within

DEFAULT_HOST = "metadata.google.internal"
_PREFIX = "/computeMetadata/v1/"
_FLAVOR = ("Metadata-Flavor", "Google")
_LONGEST_VALUE = 65_536
_OK, _NOT_FOUND = 200, 404
_PAUSE = 5.0  # seconds before a server that must be there, and is silent, is asked again


class NoMetadataServer:
    """For a machine that is known to be off Google Cloud."""

    def get(self, path: str) -> str | None:  # noqa: ARG002 - the port's signature
        """None, always."""
        return None


class HttpMetadataServer:
    """`MetadataServer` over HTTP. Answers are kept for the life of the process.

    Args:
        host: where it is, with a port if it is not 80.
        expected: whether this machine must have one (Cloud Run and App Engine say so in the
            environment). Then its silence is an error, and it is asked again a little later,
            instead of the fact that there is none: an app that forgot its identity for a
            network hiccup would create tasks that nobody accepts.
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
        self._expected = expected
        self._budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._values: dict[str, str | None] = {}
        self._absent = False
        self._silent_until = float("-inf")

    def get(self, path: str) -> str | None:
        """See `MetadataServer.get`.

        Raises:
            ConfigurationError: there must be a server, and it does not answer.
        """
        with self._lock:
            if path in self._values:
                return self._values[path]
            if self._absent:
                return None
            if self._clock() < self._silent_until:
                raise self._silence()
            # Resolving a name cannot be bounded in time; waiting for it can.
            answer = within(self._budget, partial(_fetch, self._host, path, self._budget))
            if answer is not None:
                self._values[path] = answer.value
                return answer.value
            if self._expected:
                self._silent_until = self._clock() + _PAUSE
                raise self._silence()
            self._absent = True
            return None

    def _silence(self) -> ConfigurationError:
        return ConfigurationError(
            f"The metadata server ({self._host}) did not answer within {self._budget:g} s, "
            "though this is Google Cloud."
        )


@attrs.frozen
class _Answer:
    """What the server said: a value, or that it has none."""

    value: str | None


def _fetch(host: str, path: str, timeout: float) -> _Answer | None:
    """The server's answer; None if there is no server, or what is there is none."""
    try:
        connection = http.client.HTTPConnection(host, timeout=timeout)
        try:
            connection.request("GET", _PREFIX + path, headers=dict([_FLAVOR]))
            response = connection.getresponse()
            if response.getheader(_FLAVOR[0]) != _FLAVOR[1]:
                return None  # Something else listens there: a captive portal, a proxy.
            if response.status == _NOT_FOUND:
                return _Answer(None)
            if response.status != _OK:
                return None
            return _Answer(response.read(_LONGEST_VALUE).decode("utf-8").strip() or None)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        return None


def metadata_server(environ: Mapping[str, str]) -> HttpMetadataServer | NoMetadataServer:
    """The metadata server that the environment tells of."""
    if environ.get("NO_GCE_CHECK", "").lower() == "true":
        return NoMetadataServer()
    expected = is_cloud_run(environ) or is_app_engine(environ)
    return HttpMetadataServer(
        environ.get("GCE_METADATA_HOST") or DEFAULT_HOST,
        expected=expected,
        budget=5.0 if expected else 1.0,
    )

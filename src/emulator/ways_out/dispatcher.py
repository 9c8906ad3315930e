"""The HTTP client that makes the requests of attempts."""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import aiohttp
import attrs
from aiohttp import ClientTimeout, hdrs
from yarl import URL

from ..state.limits import SECOND
from ..state.model import AttemptResult
from ..state.targets import AppEngineTarget, Target, Token

# aiohttp adds these headers by default. A request must have exactly the headers that the service
# sends.
_SILENT = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


_CHUNK = 65_536
_FEW_DIGITS = 8


class Outgoing(Protocol):
    """An attempt, of a task or of a job."""

    @property
    def deadline(self) -> int:
        """How long the attempt may take, in nanoseconds."""

    @property
    def deadline_message(self) -> str:
        """The error message for an attempt without a response within the deadline."""

    def headers(self) -> dict[str, str]:
        """Return the headers that the service adds to the request."""

    def target(self) -> Target:
        """Return the target of the request."""


@attrs.frozen
class Response:
    """The response to an attempt, or the reason why there is none.

    Attributes:
        result: the HTTP status, or the reason why there is no response.
        retry_after: the value of the `Retry-After` header, in nanoseconds; 0 without one.
        detail: the error message if there is no response.
    """

    result: int | AttemptResult
    retry_after: int = 0
    detail: str = ""


class Dispatcher:
    """Makes the requests of attempts, and reuses connections.

    Args:
        issue_token: returns the token for an attempt.
        app_engine: HOST:PORT or URL for App Engine tasks; with None their attempts fail.
    """

    def __init__(self, issue_token: Callable[[Token], str], app_engine: str | None = None) -> None:
        self._issue_token = issue_token
        self._app_engine = (
            app_engine if not app_engine or "://" in app_engine else (f"http://{app_engine}")
        )
        # The queues limit the number of concurrent requests, so the connector has no limit.
        self._session = aiohttp.ClientSession(
            # Close idle connections before the server closes them. A request on a connection that
            # the server closes would be a failed attempt.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_SILENT,
        )

    async def send(self, attempt: Outgoing) -> Response:
        """Make the request of an attempt, and return the response.

        Errors of the network are part of the response. They do not raise.
        """
        target = attempt.target()
        # Headers of the service replace headers of the target with the same name.
        headers = {**target.headers, **attempt.headers()}
        if isinstance(target, AppEngineTarget):
            if self._app_engine is None:
                why = (
                    "App Engine tasks need a host: set APP_ENGINE_EMULATOR_HOST and restart the "
                    "emulator"
                )
                return Response(AttemptResult.NO_CONNECTION, detail=why)
            url = self._app_engine.rstrip("/") + target.relative_uri
        else:
            url = target.url
            if target.token:
                headers["Authorization"] = f"Bearer {self._issue_token(target.token)}"
        try:
            async with self._session.request(
                target.method,
                URL(url, encoded=True),  # The URL must not be normalized.
                headers=headers,
                data=target.body or None,
                allow_redirects=False,
                timeout=ClientTimeout(total=attempt.deadline / SECOND, ceil_threshold=float("inf")),
            ) as response:
                # Only the status matters. An error while the body is read has no effect.
                with suppress(aiohttp.ClientError):
                    async for _ in response.content.iter_chunked(_CHUNK):
                        pass
                after = _retry_after(response.headers.get(hdrs.RETRY_AFTER, ""))
                return Response(response.status, after)
        except TimeoutError:
            return Response(AttemptResult.TIMEOUT, detail=attempt.deadline_message)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: the API accepts the URL, but no client can call it. An example is a port
            # that is not a number.
            return Response(AttemptResult.NO_CONNECTION, detail=str(error) or type(error).__name__)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _retry_after(header: str) -> int:
    """Convert the seconds in a `Retry-After` header to nanoseconds. A date in it is ignored."""
    return int(header) * SECOND if header.isdecimal() and len(header) < _FEW_DIGITS else 0

"""The dispatcher: it makes the HTTP requests of attempts."""

from collections.abc import Callable
from contextlib import suppress

import aiohttp
import attrs
from aiohttp import ClientTimeout, hdrs
from yarl import URL

from ..state.limits import SECOND
from ..state.model import Attempt, AttemptResult
from ..state.targets import AppEngineTarget, Token

# aiohttp would add these headers. An attempt has exactly the headers that the service sends.
_SILENT = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


_CHUNK = 65_536
_FEW_DIGITS = 8


@attrs.frozen
class Response:
    """The response to an attempt, or the reason why there is none.

    Attributes:
        result: the HTTP status, or how the attempt ended without a response.
        retry_after: the value of `Retry-After`, in nanoseconds.
        detail: the error of the network if there is no response.
    """

    result: int | AttemptResult
    retry_after: int = 0
    detail: str = ""


class Dispatcher:
    """Sends attempts, and keeps connections open between them.

    Args:
        issue_token: makes the token of an attempt.
        app_engine: HOST:PORT or URL where App Engine tasks go; None for nowhere.
    """

    def __init__(self, issue_token: Callable[[Token], str], app_engine: str | None = None) -> None:
        self._issue_token = issue_token
        self._app_engine = (
            app_engine if not app_engine or "://" in app_engine else (f"http://{app_engine}")
        )
        # Queues limit the number of concurrent requests, so the connector must not.
        self._session = aiohttp.ClientSession(
            # Idle connections are closed before the server closes them. A request on a connection
            # that the server is closing would count as a failed attempt.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_SILENT,
        )

    async def send(self, attempt: Attempt) -> Response:
        """Make the attempt, and return the response."""
        target = attempt.target()
        # The service's own headers replace the headers of a task with the same names.
        headers = {**target.headers, **attempt.headers()}
        if isinstance(target, AppEngineTarget):
            if self._app_engine is None:
                why = "APP_ENGINE_EMULATOR_HOST is not set"
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
                timeout=ClientTimeout(
                    total=attempt.task.deadline / SECOND, ceil_threshold=float("inf")
                ),
            ) as response:
                # Only the status matters, even if reading the body fails.
                with suppress(aiohttp.ClientError):
                    async for _ in response.content.iter_chunked(_CHUNK):
                        pass
                after = _retry_after(response.headers.get(hdrs.RETRY_AFTER, ""))
                return Response(response.status, after)
        except TimeoutError:
            why = (
                f"no answer within the dispatch deadline, {attempt.task.deadline / SECOND:g} s; "
                "DISPATCH_DEADLINE in OPTIONS sets it"
            )
            return Response(AttemptResult.TIMEOUT, detail=why)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError means a URL that the API accepts but no client can call, for example with
            # a port that is not a number.
            return Response(AttemptResult.NO_CONNECTION, detail=str(error) or type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def _retry_after(header: str) -> int:
    """Nanoseconds of a `Retry-After` in seconds. Dates are ignored, because they need a clock."""
    return int(header) * SECOND if header.isdecimal() and len(header) < _FEW_DIGITS else 0

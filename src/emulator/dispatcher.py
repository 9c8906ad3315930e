"""Making attempts: the HTTP requests that Cloud Tasks sends to the app."""

from collections.abc import Callable
from contextlib import suppress

import aiohttp
import attrs
from aiohttp import ClientTimeout, hdrs
from yarl import URL

from .limits import SECOND
from .targets import AppEngineTarget, Token
from .values import Attempt, AttemptResult

# What aiohttp would add on its own account; an attempt says exactly what the service says.
_SILENT = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


_CHUNK = 65_536
_FEW_DIGITS = 8


@attrs.frozen
class Answer:
    """How an attempt ended.

    Attributes:
        result: an HTTP status, or why there was none.
        retry_after: what a `Retry-After` asked for, in nanoseconds.
        detail: what the network said where there was no answer.
    """

    result: int | AttemptResult
    retry_after: int = 0
    detail: str = ""


class Dispatcher:
    """Sends attempts over connections that it keeps.

    Args:
        issue_token: makes the token of an attempt.
        app_engine: HOST:PORT or URL where App Engine tasks go; None for nowhere.
    """

    def __init__(self, issue_token: Callable[[Token], str], app_engine: str | None = None) -> None:
        self._issue_token = issue_token
        self._app_engine = (
            app_engine if not app_engine or "://" in app_engine else (f"http://{app_engine}")
        )
        # Queues limit how many requests there are at a time; this must not.
        self._session = aiohttp.ClientSession(
            # Connections are dropped before a server drops them: a request that meets a closing
            # connection would count as an attempt that failed.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_SILENT,
        )

    async def send(self, attempt: Attempt) -> Answer:
        """Make the attempt: the status of the answer, or why there was none."""
        target = attempt.target()
        # The service's own headers replace what a task gives under the same names.
        headers = {**target.headers, **attempt.headers()}
        if isinstance(target, AppEngineTarget):
            if self._app_engine is None:
                why = "APP_ENGINE_EMULATOR_HOST is not set"
                return Answer(AttemptResult.NO_CONNECTION, detail=why)
            url = self._app_engine.rstrip("/") + target.relative_uri
        else:
            url = target.url
            if target.token:
                headers["Authorization"] = f"Bearer {self._issue_token(target.token)}"
        try:
            async with self._session.request(
                target.method,
                URL(url, encoded=True),  # The URL as it is, not as it could be written.
                headers=headers,
                data=target.body or None,
                allow_redirects=False,
                timeout=ClientTimeout(
                    total=attempt.task.deadline / SECOND, ceil_threshold=float("inf")
                ),
            ) as response:
                # The status counts, whatever becomes of the body behind it.
                with suppress(aiohttp.ClientError):
                    async for _ in response.content.iter_chunked(_CHUNK):
                        pass
                after = _retry_after(response.headers.get(hdrs.RETRY_AFTER, ""))
                return Answer(response.status, after)
        except TimeoutError:
            why = (
                f"no answer within the dispatch deadline, {attempt.task.deadline / SECOND:g} s; "
                "DISPATCH_DEADLINE in OPTIONS sets it"
            )
            return Answer(AttemptResult.TIMEOUT, detail=why)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: an address that the API accepts but no client can call, such as a port
            # that is no number.
            return Answer(AttemptResult.NO_CONNECTION, detail=str(error) or type(error).__name__)

    async def close(self) -> None:
        """Drop the connections."""
        await self._session.close()


def _retry_after(header: str) -> int:
    """Nanoseconds of a `Retry-After` in seconds; dates, which need a clock, count as none."""
    return int(header) * SECOND if header.isdecimal() and len(header) < _FEW_DIGITS else 0

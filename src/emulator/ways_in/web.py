"""The HTTP/1.1 application: REST, the keys of OIDC tokens, the clock and the dashboard."""

import asyncio
import json
from contextlib import suppress
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ..errors import ApiError
from ..ways_out.identity import TokenIssuer
from .hosts import AllowedHosts
from .rest import Rest

_LARGEST_BODY = 150 * 1024 * 1024  # bytes; enough for a full batch of the largest tasks in base64
_PUBLIC = ("/oauth2/", "/.well-known/")
_HOUR = {"Cache-Control": "public, max-age=3600"}
_FURTHEST = 10 * 366 * 86_400  # seconds by which one request may move the clock
_HEARTBEAT = 30.0  # seconds between events without a change; they detect closed pages
_PAUSE = 0.15  # seconds at least between two events to the same page


class Controls(Protocol):
    """The functions for the web pages of the emulator that are not part of the API.

    Attributes:
        changes: set when an event was logged.
    """

    changes: asyncio.Event

    def overview(self, queue: str | None) -> dict[str, Any]:
        """Return a JSON document with all queues and jobs, and the tasks of one queue."""

    async def advance(self, seconds: float) -> None:
        """Move the clock forward, and wait for the attempts that become due.

        Raises:
            ApiError: the time is too late, or the journal refuses a dispatch.
        """

    async def reset(self) -> None:
        """Remove all tasks, queues and jobs, and create the initial queues.

        Raises:
            ApiError: the journal refuses.
        """

    def now(self) -> int:
        """Return the time, in nanoseconds since the epoch."""


def make_web(
    issuer: TokenIssuer,
    rest: Rest,
    controls: Controls,
    hosts: AllowedHosts,
    *,
    patience: float,
) -> web.Application:
    """Create the application for HTTP/1.1. REST and the keys have the same paths as at Google.

    Args:
        issuer: issues the OIDC tokens.
        rest: answers the requests to `/v1/` and `/v2/`.
        controls: the functions for the web pages.
        hosts: the allowed host names.
        patience: seconds within which the whole body of a request must arrive.
    """
    application = web.Application(
        client_max_size=_LARGEST_BODY,
        middlewares=[_own_names_only(hosts), _own_pages_only, _whole_bodies_only(patience)],
    )
    streams = _ChangeStreams(controls)
    page = (files(__package__) / "dashboard.html").read_text(encoding="utf-8")
    add = application.router.add_route
    for version in ("v1", "v2"):
        add("*", f"/{version}/{{path:.*}}", rest.handle)

    async def configuration(request: web.Request) -> web.Response:
        try:
            here = request.url.origin()
        except ValueError:
            error = "The Host header contains no valid host name."
            return web.json_response({"error": error}, status=400)
        return web.json_response(
            {
                "issuer": issuer.issuer,
                "jwks_uri": f"{here}/oauth2/v3/certs",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            headers=_HOUR,
        )

    async def certificates(_: web.Request) -> web.Response:
        return web.json_response(issuer.certificates(), headers=_HOUR)

    async def keys(_: web.Request) -> web.Response:
        return web.json_response(issuer.jwks(), headers=_HOUR)

    async def clock(request: web.Request) -> web.Response:
        if request.method == "POST":
            seconds = await _seconds(request)
            if seconds is None:
                error = {
                    "error": 'The body must be {"advance": SECONDS}. SECONDS must be a number from '
                    f"0 to {_FURTHEST}."
                }
                return web.json_response(error, status=400)
            try:
                await controls.advance(seconds)
            except ApiError as error:
                return _refusal(error)
        return web.json_response({"now": controls.now() / 1e9})

    async def reset(_: web.Request) -> web.Response:
        try:
            await controls.reset()
        except ApiError as error:
            return _refusal(error)
        return web.json_response({})

    async def overview(request: web.Request) -> web.Response:
        return web.json_response(controls.overview(request.query.get("queue")))

    async def dashboard(_: web.Request) -> web.Response:
        policy = "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
        return web.Response(text=page, content_type="text/html", headers=headers)

    add("GET", "/.well-known/openid-configuration", configuration)
    add("GET", "/oauth2/v1/certs", certificates)
    add("GET", "/oauth2/v3/certs", keys)
    add("GET", "/emulator/clock", clock)
    add("POST", "/emulator/clock", clock)
    add("POST", "/emulator/reset", reset)
    add("GET", "/emulator/state", overview)
    add("GET", "/emulator/events", streams.handle)
    add("GET", "/", dashboard)
    application.on_shutdown.append(streams.end)
    return application


class _ChangeStreams:
    """Server-sent events for dashboards: one event after every change."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._open: set[asyncio.Task[Any]] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Send events to a page until the page is closed."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._open.add(task)
        changes = self._controls.changes
        try:
            while True:
                await response.write(b"data: changed\n\n")
                changes.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(changes.wait(), _HEARTBEAT)
                await asyncio.sleep(_PAUSE)
        except ConnectionError:
            return response  # The page was closed.
        finally:
            self._open.discard(task)

    async def end(self, _: web.Application) -> None:
        """End all streams. Otherwise the streams of closed pages would stay open."""
        for task in self._open:
            task.cancel()


def _own_names_only(hosts: AllowedHosts) -> Middleware:
    """Return a middleware that refuses requests with a host that is not allowed.

    The public keys of OIDC tokens are available under any host.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = request.headers.get("Host")
        is_public = request.path.startswith(_PUBLIC) or request.match_info.http_exception
        if named is not None and not is_public and not hosts.allows(named):
            return web.json_response({"error": hosts.refusal(named)}, status=403)
        return await handler(request)

    return middleware


@web.middleware
async def _own_pages_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests from pages of other sites. They could make the emulator call any URL."""
    origin = request.headers.get("Origin")
    if origin and _host_of(origin) != request.host:
        return web.json_response(
            {"error": "The emulator refuses requests from web pages of other sites."}, status=403
        )
    return await handler(request)


def _whole_bodies_only(patience: float) -> Middleware:
    """Return a middleware that limits the time to read a body, and refuses compressed bodies."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "Content-Encoding" in request.headers:
            error = {
                "error": "The emulator does not accept compressed bodies. Send the body without "
                "Content-Encoding."
            }
            return web.json_response(error, status=415)
        try:
            async with asyncio.timeout(patience):
                await request.read()
        except TimeoutError:
            error = {"error": f"The body did not arrive within {patience:g} s."}
            response = web.json_response(error, status=408)
            response.force_close()
            return response
        return await handler(request)

    return middleware


def _host_of(origin: str) -> str | None:
    """Return host and port of an origin; None if the origin is invalid."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _refusal(error: ApiError) -> web.Response:
    return web.json_response({"error": error.message}, status=error.status.http)


async def _seconds(request: web.Request) -> float | None:
    try:
        seconds = float(json.loads(await request.read())["advance"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return seconds if 0 <= seconds <= _FURTHEST else None

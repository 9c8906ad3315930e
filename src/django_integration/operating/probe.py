"""A synthetic delivery: would a request of Cloud Tasks reach the view that executes tasks?

It goes through the site's own middleware, host rules and URLs, in this process, with a body as
large as a task's can be. The view recognizes it and executes nothing. What stops it is told, and
then left out of the way, so that what is behind it is told as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import attrs
from django.conf import settings
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.http.request import split_domain_port
from django.urls import set_urlconf
from django.utils.module_loading import import_string

from ...core.requests import MAX_STORED_SIZE, SIGNATURE_HEADER

# No header of a request can have this name.
_KEY = "django_tasks_cloud_tasks.probe"
_LOGGERS = ("django.request", "django.security")
_FAILED = 300  # statuses from here on are no success to Cloud Tasks
_BAD_REQUEST = 400
_MOST_OBSTACLES = 20


@attrs.define(eq=False)
class Probe:
    """Travels with a synthetic delivery, and learns how far it came.

    Attributes:
        arrived: whether the view was reached.
        is_whole: whether the body arrived as well.
    """

    arrived: bool = False
    is_whole: bool = False

    @staticmethod
    def of(environ: Mapping[str, object]) -> Probe | None:
        """The probe of a request; None for requests that came over a network."""
        probe = environ.get(_KEY)
        return probe if isinstance(probe, Probe) else None

    def arrive(self, body: bytes | None) -> HttpResponse:
        """The view's answer.

        Args:
            body: None where the site does not take it.
        """
        self.arrived, self.is_whole = True, body is not None
        return HttpResponse(status=204)


@attrs.frozen
class Obstacle:
    """What keeps deliveries from the view.

    Attributes:
        what: what it is; the same obstacle is told once.
        hint: what to do.
    """

    what: str
    hint: str


@attrs.frozen
class _Ended:
    """How a synthetic delivery ended: the answer, and what Django logged about it."""

    status: int
    location: str
    reason: str
    error: BaseException | None
    probe: Probe

    @property
    def is_success(self) -> bool:
        return self.probe.arrived and self.status < _FAILED


def obstacles(host: str | None, path: str, *, carries_token: bool) -> Iterator[Obstacle]:
    """What keeps deliveries to `path` from the view, from the outside inwards.

    Args:
        host: the site's address, `https://app.example.com`; None if it is not known, and no rule
            about hosts can be tried.
        carries_token: whether tasks have an identity token in their `Authorization` header.
    """
    url = urlsplit(host or "https://cloud-tasks.invalid")
    environ = _environ(url.scheme, url.netloc, path, carries_token=carries_token)
    changed: dict[str, Any] = {"MIDDLEWARE": list(settings.MIDDLEWARE)}
    if host is None:
        changed["ALLOWED_HOSTS"] = ["*"]
    for _ in range(_MOST_OBSTACLES):
        ended = _deliver(environ, changed)
        if ended.is_success and ended.probe.is_whole:
            return
        if isinstance(ended.error, DisallowedHost):
            yield _host_obstacle(url.netloc, str(ended.error))
            changed["ALLOWED_HOSTS"] = ["*"]
            environ["HTTP_HOST"] = "cloud-tasks.invalid"
        elif isinstance(ended.error, RequestDataTooBig) or (
            ended.is_success and not ended.probe.is_whole
        ):
            yield Obstacle(
                f"DATA_UPLOAD_MAX_MEMORY_SIZE is {settings.DATA_UPLOAD_MAX_MEMORY_SIZE}, and the "
                f"body of a task may have nearly {MAX_STORED_SIZE} bytes: larger ones are refused",
                f"Set DATA_UPLOAD_MAX_MEMORY_SIZE to {MAX_STORED_SIZE} or more, or remove it.",
            )
            if changed.get("DATA_UPLOAD_MAX_MEMORY_SIZE", 0) is None:
                return  # The view itself does not get it, for another reason.
            changed["DATA_UPLOAD_MAX_MEMORY_SIZE"] = None
        else:
            middleware = _responsible(environ, changed)
            yield _answered(ended, middleware, url.scheme, environ)
            if middleware is None:
                return
            changed["MIDDLEWARE"] = [m for m in changed["MIDDLEWARE"] if m != middleware]


def _environ(scheme: str, netloc: str, path: str, *, carries_token: bool) -> dict[str, Any]:
    """The request as a WSGI server has it, behind the proxy that ends TLS."""
    body = b'{"task_id": "probe", "args": ["' + b"x" * (MAX_STORED_SIZE - 1024) + b'"]}'
    name, _, port = netloc.partition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(urlsplit(path).path).decode("latin-1"),
        "QUERY_STRING": urlsplit(path).query,
        "SERVER_NAME": name,
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": netloc,
        "HTTP_USER_AGENT": "Google-Cloud-Tasks",
        "HTTP_X_CLOUDTASKS_QUEUENAME": "default",
        "HTTP_X_CLOUDTASKS_TASKNAME": "probe",
        "HTTP_X_CLOUDTASKS_TASKRETRYCOUNT": "0",
        "HTTP_X_CLOUDTASKS_TASKEXECUTIONCOUNT": "0",
        "HTTP_X_FORWARDED_PROTO": scheme,
        "HTTP_" + SIGNATURE_HEADER.upper().replace("-", "_"): "probe",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.body": body,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if carries_token:
        environ["HTTP_AUTHORIZATION"] = "Bearer probe.probe.probe"
    if scheme == "https" and settings.SECURE_PROXY_SSL_HEADER:
        name, value = settings.SECURE_PROXY_SSL_HEADER
        environ[name] = value
    return environ


def _deliver(environ: Mapping[str, Any], changed: Mapping[str, Any]) -> _Ended:
    """Send the request through the site, with these settings changed."""
    # Its module is for tests, and loaded only where a check has asked for it.
    from django.test.utils import override_settings

    probe = Probe()
    own = {**environ, _KEY: probe, "wsgi.input": BytesIO(environ["wsgi.body"])}
    with override_settings(**changed), _listening() as heard:
        try:
            handler = BaseHandler()
            handler.load_middleware()
            response = handler.get_response(WSGIRequest(own))
        except Exception as error:  # noqa: BLE001 - whatever a middleware does is the answer
            return _Ended(500, "", f"{type(error).__name__}: {error}", error, probe)
        finally:
            set_urlconf(None)
    # The first is the nearest to the cause; the next ones tell of the answer that came of it.
    record = next(iter(heard), None)
    cause = record.exc_info[1] if record and record.exc_info else None
    reason = f"{type(cause).__name__}: {cause}" if cause else record.getMessage() if record else ""
    location = response.headers.get("Location", "")
    return _Ended(response.status_code, location, reason, cause, probe)


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _listening() -> Iterator[list[logging.LogRecord]]:
    """What Django says about requests meanwhile, which the site's log does not have to have."""
    listener, before = _Listener(), []
    for logger in map(logging.getLogger, _LOGGERS):
        before.append((logger, logger.handlers, logger.propagate, logger.level))
        logger.handlers, logger.propagate = [listener], False
        logger.setLevel(logging.DEBUG)
    try:
        yield listener.records
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def _responsible(environ: Mapping[str, Any], changed: Mapping[str, Any]) -> str | None:
    """The middleware that stops a delivery: the outermost ones alone let it pass.

    None if it is none of them.
    """
    names: list[str] = changed["MIDDLEWARE"]
    for count in range(len(names) + 1):
        if not _deliver(environ, {**changed, "MIDDLEWARE": names[:count]}).is_success:
            return names[count - 1] if count else None
    return None


def _host_obstacle(netloc: str, said: str) -> Obstacle:
    what = f"Django refuses the host {netloc!r}: {said.partition('. ')[0]}"
    domain, _ = split_domain_port(netloc)
    if not domain:
        hint = (
            "Reach the app by a name of letters, digits, hyphens and dots, and set "
            "TASK_HANDLER_HOST to it."
        )
    else:
        hint = f"Add {domain!r} to ALLOWED_HOSTS."
    return Obstacle(what, hint)


def _answered(
    ended: _Ended, middleware: str | None, scheme: str, environ: Mapping[str, Any]
) -> Obstacle:
    """A part of the site answers in the place of the view."""
    path = environ["PATH_INFO"]
    who = middleware or f"the URLconf, or what is around the view at {path},"
    to = f" (to {ended.location})" if ended.location else ""
    because = f": {ended.reason}" if ended.reason else ""
    what = f"{who} answers {ended.status}{to} in the place of the view{because}"
    target = urlsplit(ended.location)
    if ended.location and target.path == path and target.scheme == scheme == "https":
        if target.netloc in {"", environ["HTTP_HOST"]}:
            hint = (
                "Set SECURE_PROXY_SSL_HEADER to the header in which the proxy tells that a request "
                "came over https: without it SECURE_SSL_REDIRECT redirects all that come."
            )
        else:
            hint = f"Set TASK_HANDLER_HOST to https://{target.netloc}: redirects are not followed."
    elif middleware is None:
        hint = f"Have the view that executes tasks answer at {path} by itself."
    else:
        hint = f"Have {_short(middleware)} let requests to {path} pass."
    return Obstacle(what, hint)


def _short(middleware: str) -> str:
    """The middleware's own name, as far as it tells which one is meant."""
    name: str = getattr(import_string(middleware), "__name__", middleware)
    return name

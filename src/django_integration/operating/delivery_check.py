"""A synthetic delivery. It checks that requests of Cloud Tasks reach the view that executes tasks.

The delivery goes through the middleware, the host rules, the URLs and the view of the site, in this
process. Its body has the maximum size of a task. The view recognizes it, and executes nothing. If
something stops the delivery, it is reported. Then another delivery is made without it, so that the
obstacles behind it are reported too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import attrs
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest
from django.http.request import HttpRequest, split_domain_port
from django.http.response import HttpResponseBase
from django.urls import set_urlconf

from ...core.payload import TaskPayload
from ...core.requests import MAX_STORED_SIZE, SIGNATURE_HEADER
from ..executing.probe import PROBE_KEY, Probe

_LOGGERS = ("django.request", "django.security")
_FAILED = 300  # for Cloud Tasks, this status and all higher ones are failures
_NOT_FOUND, _SERVER_ERROR = 404, 500
_MOST_OBSTACLES = 20
_UNKNOWN_HOST = "cloud-tasks.invalid"
_PROXY = "169.254.169.126"  # the address from which requests come on Cloud Run
_GOOGLE = "35.187.132.10"  # an address of Google, which a proxy puts into X-Forwarded-For
_BODY_LIMIT = "DATA_UPLOAD_MAX_MEMORY_SIZE"

# Settings with which the middleware of Django may answer, each with a value that prevents this.
_SETTINGS: Mapping[str, object] = {
    "SECURE_SSL_REDIRECT": False,
    "PREPEND_WWW": False,
    "APPEND_SLASH": False,
    "DISALLOWED_USER_AGENTS": [],
}


@attrs.frozen
class Obstacle:
    """Something that prevents deliveries from reaching the view.

    Attributes:
        cause: the setting, the host, the middleware or the path. Each cause is reported once, so
            obstacles with the same cause are equal.
        what: a description of what happens.
        hint: a description of what to do.
    """

    cause: str
    what: str = attrs.field(eq=False)
    hint: str = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class Trial:
    """The parameters of the synthetic deliveries.

    Attributes:
        host: the address of the site, such as `https://app.example.com`; None if it is not known.
            Then the rules about hosts are not checked.
        path: the path of the endpoint, with its query.
        carries_token: whether tasks have an identity token in their `Authorization` header.
        over_asgi: whether the site is served over ASGI.
    """

    host: str | None
    path: str
    carries_token: bool
    over_asgi: bool

    @property
    def scheme(self) -> str:
        """The scheme: http or https."""
        return urlsplit(self.host or "https://").scheme

    @property
    def netloc(self) -> str:
        """The host and the port."""
        return urlsplit(self.host).netloc if self.host else _UNKNOWN_HOST

    def headers(self) -> dict[str, str]:
        """Return the headers that Cloud Tasks sends, and those that a proxy that ends TLS adds."""
        headers = {
            "User-Agent": "Google-Cloud-Tasks",
            "X-CloudTasks-QueueName": "default",
            "X-CloudTasks-TaskName": "probe",
            "X-CloudTasks-TaskRetryCount": "0",
            "X-CloudTasks-TaskExecutionCount": "0",
            "X-CloudTasks-TaskETA": "0.000000",
            "Content-Type": "application/json",
            "Content-Length": str(len(_body())),
            SIGNATURE_HEADER: "probe",
        }
        if self.carries_token:
            headers["Authorization"] = "Bearer probe.probe.probe"
        if self.scheme == "https":
            headers |= {"X-Forwarded-Proto": "https", "X-Forwarded-For": _GOOGLE}
            if settings.SECURE_PROXY_SSL_HEADER:
                name, value = settings.SECURE_PROXY_SSL_HEADER
                headers[name.removeprefix("HTTP_").replace("_", "-")] = value
        return headers


@cache
def _body() -> bytes:
    """Return the body of the largest task."""
    empty = TaskPayload(task_id="probe", task_path="probe.probe", args=[""], kwargs={}).encode()
    filling = "x" * (MAX_STORED_SIZE - len(empty))
    return TaskPayload(task_id="probe", task_path="probe.probe", args=[filling], kwargs={}).encode()


@attrs.frozen
class _Ended:
    """The result of a synthetic delivery.

    Attributes:
        status: the status of the response.
        location: the target of a redirect; empty without one.
        error: the exception that was raised, or that Django logged first; None without one.
        probe: the probe of the delivery.
    """

    status: int
    location: str
    error: BaseException | None
    probe: Probe

    @property
    def kind(self) -> tuple[object, ...]:
        """The values by which two results are compared."""
        return self.status, self.location, type(self.error), self.probe.arrived

    @property
    def is_success(self) -> bool:
        return self.probe.arrived and self.status < _FAILED

    @property
    def is_too_large(self) -> bool:
        """Whether the site's limit for the size of a body stopped the delivery."""
        lost = self.probe.arrived and not self.probe.is_whole
        return _is_limited() and (lost or isinstance(self.error, RequestDataTooBig))


def obstacles(trial: Trial) -> Iterator[Obstacle]:
    """Yield the obstacles that prevent deliveries from reaching the view, the outermost first."""
    changed: dict[str, Any] = {"MIDDLEWARE": list(settings.MIDDLEWARE)}
    if trial.host is None:
        changed["ALLOWED_HOSTS"] = ["*"]
    netloc, is_thinned, knows_limit = trial.netloc, False, False
    for _ in range(_MOST_OBSTACLES):
        ended = _deliver(trial, netloc, changed)
        if isinstance(ended.error, DisallowedHost):
            yield _host_obstacle(netloc, str(ended.error))
            changed["ALLOWED_HOSTS"] = ["*"]
            netloc = netloc.replace("_", "-")
        elif ended.is_too_large and not knows_limit:
            knows_limit = True
            yield _limit_obstacle()
            changed[_BODY_LIMIT] = None
        elif ended.is_success and ended.probe.is_whole:
            return
        elif setting := _responsible_setting(trial, netloc, changed, ended):
            yield _setting_obstacle(setting, ended, trial, netloc)
            changed[setting] = _SETTINGS[setting]
        else:
            middleware = _responsible_middleware(trial, netloc, changed, ended)
            # After a middleware was left out, another one may fail only because it needs the first.
            # So such a failure is not reported.
            if not (is_thinned and ended.status == _SERVER_ERROR):
                yield _answer_obstacle(middleware, ended, trial)
            if middleware is None:
                break
            changed["MIDDLEWARE"] = [m for m in changed["MIDDLEWARE"] if m != middleware]
            is_thinned = True
    if not knows_limit and _is_limited():
        yield _limit_obstacle()


def _is_limited() -> bool:
    """Return whether the site refuses the bodies of the largest tasks."""
    limit: int | None = settings.DATA_UPLOAD_MAX_MEMORY_SIZE  # never None in the stubs
    return limit is not None and limit < len(_body())


def _deliver(trial: Trial, netloc: str, changed: Mapping[str, Any]) -> _Ended:
    """Send a delivery through the site with changed settings, and return its result.

    Args:
        netloc: the host and the port of the request.
        changed: the values of the changed settings, by name.
    """
    # This module of Django is for tests, so it is imported only if a check needs it.
    from django.test.utils import override_settings

    probe = Probe()
    make = _asgi_request if trial.over_asgi else _wsgi_request
    with override_settings(**changed), _listening() as heard:
        try:
            request = make(trial, netloc)
            request.META[PROBE_KEY] = probe
            response = _answer(request, over_asgi=trial.over_asgi)
        except Exception as error:  # noqa: BLE001 - a middleware can raise anything
            return _Ended(_SERVER_ERROR, "", error, probe)
        finally:
            set_urlconf(None)
    # The first exception is the closest to the cause. Later ones are about the response to it.
    causes = (record.exc_info[1] for record in heard if record.exc_info)
    location = response.headers.get("Location", "")
    return _Ended(response.status_code, location, next(causes, None), probe)


def _answer(request: HttpRequest, *, over_asgi: bool) -> HttpResponseBase:
    handler = BaseHandler()
    handler.load_middleware(is_async=over_asgi)
    if over_asgi:
        answered: HttpResponseBase = async_to_sync(handler.get_response_async)(request)
        return answered
    return handler.get_response(request)


def _wsgi_request(trial: Trial, netloc: str) -> HttpRequest:
    """Return the request as a WSGI server creates it."""
    url, (name, _, port) = urlsplit(trial.path), netloc.partition(":")
    headers = {"HTTP_" + k.upper().replace("-", "_"): v for k, v in trial.headers().items()}
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(url.path).decode("latin-1"),
        "QUERY_STRING": url.query,
        "SERVER_NAME": name,
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": _PROXY,
        "HTTP_HOST": netloc,
        "CONTENT_TYPE": headers.pop("HTTP_CONTENT_TYPE"),
        "CONTENT_LENGTH": headers.pop("HTTP_CONTENT_LENGTH"),
        **headers,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(_body()),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    return WSGIRequest(environ)


def _asgi_request(trial: Trial, netloc: str) -> HttpRequest:
    """Return the request as an ASGI server creates it."""
    url, (name, _, port) = urlsplit(trial.path), netloc.partition(":")
    headers = {"Host": netloc, **trial.headers()}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": unquote(url.path),
        "raw_path": url.path.encode(),
        "query_string": url.query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
        "client": (_PROXY, 443),
        "server": (name, int(port or 80)),
    }
    return ASGIRequest(scope, BytesIO(_body()))


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _listening() -> Iterator[list[logging.LogRecord]]:
    """Return a context that collects the log records of Django about requests.

    The log of the site does not receive these records.
    """
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


def _responsible_setting(
    trial: Trial, netloc: str, changed: Mapping[str, Any], ended: _Ended
) -> str | None:
    """Return the name of the setting that causes this result; None if no setting causes it.

    That is the first setting whose neutral value leads to another result.
    """
    if ended.status == _NOT_FOUND:
        return None
    for name, neutral in _SETTINGS.items():
        if changed.get(name, getattr(settings, name)) == neutral:
            continue
        otherwise = _deliver(trial, netloc, {**changed, name: neutral})
        if otherwise.kind != ended.kind:
            return name
    return None


def _responsible_middleware(
    trial: Trial, netloc: str, changed: Mapping[str, Any], ended: _Ended
) -> str | None:
    """Return the middleware that causes this result; None if no middleware causes it.

    It is the last one in the shortest beginning of MIDDLEWARE that leads to the same result.
    """
    names: list[str] = changed["MIDDLEWARE"]
    for count in range(len(names) + 1):
        shortened = _deliver(trial, netloc, {**changed, "MIDDLEWARE": names[:count]})
        if shortened.kind == ended.kind:
            return names[count - 1] if count else None
    return names[-1] if names else None


# The texts of the obstacles.


def _host_obstacle(netloc: str, said: str) -> Obstacle:
    domain, _ = split_domain_port(netloc)
    what = f"Django refuses the host {netloc!r} with 400: {said.partition('. ')[0]}"
    if domain:
        return Obstacle(f"host {netloc}", what, f"Add {domain!r} to ALLOWED_HOSTS.")
    hint = (
        "Give the app a host name of letters, digits, hyphens and dots, and set TASK_HANDLER_HOST "
        "to it."
    )
    return Obstacle(f"host {netloc}", what, hint)


def _limit_obstacle() -> Obstacle:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return Obstacle(
        _BODY_LIMIT,
        f"{_BODY_LIMIT} is {limit}, so the site refuses larger bodies, but the body of a task can "
        f"have nearly {MAX_STORED_SIZE} bytes",
        f"Set {_BODY_LIMIT} to {MAX_STORED_SIZE} or more, or remove it.",
    )


def _setting_obstacle(setting: str, ended: _Ended, trial: Trial, netloc: str) -> Obstacle:
    what = f"because of {setting} the site answers {_told(ended)}, and does not execute the task"
    match setting:
        case "SECURE_SSL_REDIRECT" if trial.scheme == "https":
            hint = (
                "Set SECURE_PROXY_SSL_HEADER to the header with which the proxy marks requests "
                "that came over https."
            )
        case "SECURE_SSL_REDIRECT":
            hint = (
                f"Set TASK_HANDLER_HOST to https://{netloc}: Cloud Tasks does not follow redirects."
            )
        case "PREPEND_WWW" if trial.host is not None:
            hint = (
                f"Set TASK_HANDLER_HOST to {trial.scheme}://www.{netloc}: Cloud Tasks does not "
                "follow redirects."
            )
        case "DISALLOWED_USER_AGENTS":
            hint = "Remove the pattern that matches Google-Cloud-Tasks."
        case _:
            hint = f"Turn {setting} off, or set TASK_HANDLER_PATH to the path it redirects to."
    return Obstacle(setting, what, hint)


def _answer_obstacle(middleware: str | None, ended: _Ended, trial: Trial) -> Obstacle:
    """Return the obstacle if another part of the site answers, or the view gets no body."""
    path = urlsplit(trial.path).path
    if middleware is not None:
        name = middleware.rpartition(".")[2]
        what = f"the middleware {middleware} answers {_told(ended)} instead of the view"
        hint = f"Change {name}, so that requests to {path} reach the view."
        if ended.error is not None and ended.status == _SERVER_ERROR:
            hint = f"Fix {name}, or change it, so that requests to {path} reach the view."
        return Obstacle(middleware, what, hint)
    if ended.probe.arrived:
        what = f"the view at {path} does not get the body of the request"
        return Obstacle(path, what, "Do not read the request's stream before the view.")
    what = f"{path} answers {_told(ended)} instead of the view that executes tasks"
    hint = f"Route {path} to the view, and remove decorators that answer instead of it."
    return Obstacle(path, what, hint)


def _told(ended: _Ended) -> str:
    """Return a description of the response, for use in a sentence."""
    to = f" to {ended.location}" if ended.location else ""
    because = f" ({type(ended.error).__name__}: {ended.error})" if ended.error else ""
    return f"{ended.status}{to}{because}"

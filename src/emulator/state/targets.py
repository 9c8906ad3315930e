"""The targets of tasks, HTTP and App Engine, and the overrides that a queue sets."""

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

import attrs

HTTP_USER_AGENT = "Google-Cloud-Tasks"
APP_ENGINE_USER_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"


@attrs.frozen(kw_only=True)
class OidcToken:
    """The identity token to send. The default audience is the URL of the request."""

    email: str
    audience: str = ""


@attrs.frozen(kw_only=True)
class OAuthToken:
    """The access token to send."""

    email: str
    scope: str


type Token = OidcToken | OAuthToken


@attrs.frozen(kw_only=True)
class HttpTarget:
    """A URL, and what to send to it."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    token: Token | None = None


@attrs.frozen(kw_only=True)
class AppEngineRouting:
    """Which service, version and instance of an App Engine app."""

    service: str = ""
    version: str = ""
    instance: str = ""


@attrs.frozen(kw_only=True)
class AppEngineTarget:
    """A path of an App Engine app, and what to send to it. `headers` are the stored ones."""

    relative_uri: str = "/"
    method: str = "POST"
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    routing: AppEngineRouting = attrs.field(factory=AppEngineRouting)


type Target = HttpTarget | AppEngineTarget


@attrs.frozen(kw_only=True)
class UriOverride:
    """Parts of a URL that a queue sets. None keeps a part; an empty text or 0 removes it.

    Attributes:
        always: whether the parts replace those of a task's URL; otherwise they only fill in missing
            ones.
    """

    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    query: str | None = None
    always: bool = True


@attrs.frozen(kw_only=True)
class TargetOverride:
    """What a queue sets for all its HTTP tasks."""

    uri: UriOverride | None = None
    method: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    token: Token | None = None


def overridden(target: HttpTarget, override: TargetOverride | None) -> HttpTarget:
    """The target with the overrides of the queue."""
    if override is None:
        return target
    method = override.method or target.method
    headers = dict(target.headers)
    for name, value in override.headers:
        headers = {k: v for k, v in headers.items() if k.lower() != name.lower()}
        headers[name] = value
    return HttpTarget(
        url=overridden_url(target.url, override.uri) if override.uri else target.url,
        method=method,
        headers=headers,
        # The service sends no body with GET.
        body=target.body if method in {"POST", "PUT", "PATCH"} else b"",
        token=override.token or target.token,
    )


def overridden_url(url: str, override: UriOverride) -> str:
    """A URL with the overrides of a queue."""
    parts = urlsplit(url)

    def choose(own: str, wanted: str | None) -> str:
        if wanted is None or (own and not override.always):
            return own
        return wanted

    host, colon, port = parts.netloc.rpartition(":")
    if not colon or not port.isdecimal():
        host, port = parts.netloc, ""
    host = choose(host, override.host)
    wanted_port = None if override.port is None else str(override.port or "")
    port = choose(port, wanted_port)
    return urlunsplit(
        (
            choose(parts.scheme, override.scheme) or "https",
            f"{host}:{port}" if port else host,
            choose(parts.path, override.path),
            choose(parts.query, override.query),
            "",
        )
    )

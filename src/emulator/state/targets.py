"""The targets of HTTP and App Engine tasks, and the overrides that a queue sets."""

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

import attrs

HTTP_USER_AGENT = "Google-Cloud-Tasks"
APP_ENGINE_USER_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"
SCHEDULER_USER_AGENT = "Google-Cloud-Scheduler"


@attrs.frozen(kw_only=True)
class OidcToken:
    """The OIDC token to send.

    Attributes:
        email: the service account.
        audience: the `aud` claim; an empty text for the URL of the request.
    """

    email: str
    audience: str = ""


@attrs.frozen(kw_only=True)
class OAuthToken:
    """The OAuth access token to send.

    Attributes:
        email: the service account.
        scope: the OAuth scope.
    """

    email: str
    scope: str


type Token = OidcToken | OAuthToken


@attrs.frozen(kw_only=True)
class HttpTarget:
    """The HTTP request of a task. `token` is the token to send in `Authorization`, or None."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    token: Token | None = None


@attrs.frozen(kw_only=True)
class AppEngineRouting:
    """The service, version and instance of an App Engine app. Empty texts mean the defaults."""

    service: str = ""
    version: str = ""
    instance: str = ""


@attrs.frozen(kw_only=True)
class AppEngineTarget:
    """The request of an App Engine task.

    Attributes:
        relative_uri: the path and query in the app.
        headers: the stored headers, including those that the service adds when it stores the task.
    """

    relative_uri: str = "/"
    method: str = "POST"
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    routing: AppEngineRouting = attrs.field(factory=AppEngineRouting)


type Target = HttpTarget | AppEngineTarget


@attrs.frozen(kw_only=True)
class UriOverride:
    """Parts of a URL that a queue sets. None keeps a part. An empty text or 0 removes a part.

    Attributes:
        always: whether the parts replace those of a task's URL; otherwise they only add missing
            parts.
    """

    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    query: str | None = None
    always: bool = True


@attrs.frozen(kw_only=True)
class TargetOverride:
    """The parts of the request that a queue sets for all its HTTP tasks. None keeps a part.

    Attributes:
        headers: pairs of name and value. They replace headers with the same name.
    """

    uri: UriOverride | None = None
    method: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    token: Token | None = None


def with_audience(target: HttpTarget) -> HttpTarget:
    """Return the target. If its OIDC token names no audience, the URL becomes the audience."""
    if isinstance(target.token, OidcToken) and not target.token.audience:
        return attrs.evolve(target, token=attrs.evolve(target.token, audience=target.url))
    return target


def overridden(target: HttpTarget, override: TargetOverride | None) -> HttpTarget:
    """Return the target with the overrides of its queue applied."""
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
    """Return the URL with the overrides of a queue applied."""
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

"""Converts targets, tokens, headers and overrides from messages to objects and back."""

import re
from collections.abc import Mapping
from functools import lru_cache

from ..errors import invalid
from ..state.targets import (
    AppEngineRouting,
    OAuthToken,
    OidcToken,
    TargetOverride,
    Token,
    UriOverride,
)
from .wire import METHOD_NUMBERS, METHODS, Message

_SCHEMES = {1: "http", 2: "https"}
_SCHEME_NUMBERS = {name: number for number, name in _SCHEMES.items()}
_IF_NOT_EXISTS, _ALWAYS = 1, 2
_HIGHEST_PORT = 65535
_MOST_HEADERS = 80 * 1024
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = re.compile(
    r"(host|content-length|transfer-encoding|user-agent)$|x-(google|appengine|cloudtasks)-",
    re.IGNORECASE,
)


def read_override(message: Message) -> TargetOverride:
    uri = None
    if message.HasField("uri_override"):
        wanted = message.uri_override
        if wanted.HasField("host") and not wanted.host:
            raise invalid("HttpTarget.uriOverride.host cannot be empty.")
        if wanted.HasField("port") and not 0 <= wanted.port <= _HIGHEST_PORT:
            raise invalid("HttpTarget.uriOverride.port must be a port.")
        uri = UriOverride(
            scheme=_SCHEMES.get(wanted.scheme) if wanted.HasField("scheme") else None,
            host=wanted.host if wanted.HasField("host") else None,
            port=wanted.port if wanted.HasField("port") else None,
            path=wanted.path_override.path if wanted.HasField("path_override") else None,
            query=wanted.query_override.query_params if wanted.HasField("query_override") else None,
            always=wanted.uri_override_enforce_mode != _IF_NOT_EXISTS,
        )
    headers = tuple((h.header.key, h.header.value) for h in message.header_overrides)
    _check_headers(dict(headers))
    return TargetOverride(
        uri=uri,
        method=METHODS.get(message.http_method),
        headers=tuple((k, v) for k, v in headers if not _OWN_HEADERS.match(k)),
        token=read_token(message),
    )


def write_override(override: TargetOverride, message: Message) -> None:
    if override.uri:
        uri, wanted = message.uri_override, override.uri
        if wanted.scheme is not None:
            uri.scheme = _SCHEME_NUMBERS[wanted.scheme]
        if wanted.host is not None:
            uri.host = wanted.host
        if wanted.port is not None:
            uri.port = wanted.port
        if wanted.path is not None:
            uri.path_override.path = wanted.path
            uri.path_override.SetInParent()
        if wanted.query is not None:
            uri.query_override.query_params = wanted.query
            uri.query_override.SetInParent()
        uri.uri_override_enforce_mode = _ALWAYS if wanted.always else _IF_NOT_EXISTS
    if override.method:
        message.http_method = METHOD_NUMBERS[override.method]
    for key, value in override.headers:
        message.header_overrides.add(header={"key": key, "value": value})
    write_token(override.token, message)
    message.SetInParent()


def read_routing(message: Message) -> AppEngineRouting:
    return AppEngineRouting(
        service=message.service, version=message.version, instance=message.instance
    )


def write_routing(routing: AppEngineRouting, project: str, message: Message) -> None:
    message.service, message.version = routing.service, routing.version
    message.instance = routing.instance
    parts = (routing.instance, routing.version, routing.service, project)
    message.host = ".".join(part for part in parts if part) + ".appspot.com"


def read_token(message: Message) -> Token | None:
    if message.HasField("oidc_token"):
        oidc = message.oidc_token
        return OidcToken(email=oidc.service_account_email, audience=oidc.audience)
    if message.HasField("oauth_token"):
        oauth = message.oauth_token
        return OAuthToken(
            email=oauth.service_account_email,
            scope=oauth.scope or "https://www.googleapis.com/auth/cloud-platform",
        )
    return None


def write_token(token: Token | None, message: Message) -> None:
    match token:
        case OidcToken(email=email, audience=audience):
            message.oidc_token.service_account_email = email
            message.oidc_token.audience = audience
        case OAuthToken(email=email, scope=scope):
            message.oauth_token.service_account_email = email
            message.oauth_token.scope = scope


def read_headers(request: Message) -> Mapping[str, str]:
    """Return the headers of a task, without those that the API reference reserves for the service.

    The mapping must not be changed.

    Raises:
        ApiError: INVALID_ARGUMENT, a header is invalid, or the headers are too large.
    """
    headers = dict(request.headers)
    _check_headers(headers)
    kept = [(k, v) for k, v in headers.items() if not _OWN_HEADERS.match(k)]
    return _shared(tuple(kept))


@lru_cache(maxsize=1000)
def _shared(headers: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Return headers as a mapping. Tasks with equal headers share one mapping to save memory."""
    return dict(headers)


def _check_headers(headers: dict[str, str]) -> None:
    if sum(len(name) + len(value) for name, value in headers.items()) > _MOST_HEADERS:
        raise invalid("HttpRequest.headers must be at most 80 KB.")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or any(c in "\r\n\0" for c in value):
            raise invalid(f"HttpRequest.headers has an invalid header: {name[:100]!r}.")

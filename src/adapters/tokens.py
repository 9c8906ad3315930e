"""Verification of OIDC tokens by google-auth, with a cache of certificates.

google-auth fetches the certificates again for every token. This module caches them for as long as
the `Cache-Control` header of the response allows. So most verifications need no request.
"""

import base64
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import cast

import attrs

from ..core.errors import InvalidTokenError
from ..core.ports import Claims
from .forks import renew_in_children
from .timeouts import call_with_timeout

logger = logging.getLogger(__name__)

GOOGLE_CERTIFICATES = "https://www.googleapis.com/oauth2/v1/certs"

_CLOCK_SKEW = 10  # seconds by which the clocks of the issuer and the site may differ
_LAST_MOMENT = 253_402_300_799  # the end of the year 9999, in seconds since the epoch
_FETCH_TIMEOUT = 5.0  # seconds for the whole request
_REFRESH_INTERVAL = 60.0  # seconds between fetches because of an unknown key id or a failure
_FIRST_RETRY = 1.0  # seconds after a failure with an empty cache; each further failure doubles it
_SHORTEST_LIFETIME = 60.0  # seconds; a shorter max-age would cause a fetch for each delivery
_DEFAULT_LIFETIME = 3600.0
_MAX_AGE = re.compile(r"max-age=(\d{1,9})")
_OK = 200

type Certificates = Mapping[str, str]


@attrs.frozen
class FetchedCertificates:
    """The certificates of an issuer.

    Attributes:
        certificates: certificates in PEM format by key id.
        lifetime: the seconds for which they may be cached.
    """

    certificates: Certificates
    lifetime: float


class CertificateStore:
    """A cache of the certificates of an issuer. It fetches them when they are needed.

    All threads of a process can share an instance.

    Args:
        fetch: fetches the certificates. Any exception counts as a failed fetch.
        clock: returns a monotonic time, in seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], FetchedCertificates],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._certificates: Certificates = {}
        self._good_until = float("-inf")
        self._refresh_after = float("-inf")
        self._failures = 0
        renew_in_children(self)

    def after_fork_in_child(self) -> None:
        """See `Forkable`."""
        self._lock = threading.Lock()

    def ready(self, key_id: str | None) -> bool:
        """Return whether `certificates` returns without a request."""
        now = self._clock()
        in_hand = now < self._good_until and (key_id is None or key_id in self._certificates)
        return in_hand or now < self._refresh_after

    def certificates(self, key_id: str | None) -> Certificates:
        """Return the certificates for a token with this key id, by key id; empty if there are none.

        They are fetched again if they are too old or do not contain the key. An unknown key id or a
        failed fetch causes at most one fetch per minute, so that invalid tokens cannot cause many
        requests. If a fetch fails, the cached certificates stay in use. While the cache is empty, a
        failed fetch is repeated after 1, 2, 4 seconds and so on, up to 60 seconds.

        Args:
            key_id: the `kid` of the token; None for any key.
        """
        # If the cache is not empty, a thread does not wait for the fetch of another thread.
        if not self.ready(key_id) and self._lock.acquire(blocking=not self._certificates):
            try:
                if not self.ready(key_id):
                    self._refresh()
            finally:
                self._lock.release()
        return self._certificates

    def _refresh(self) -> None:
        try:
            fetched = self._fetch()
        except Exception:
            logger.exception(
                "Fetching the certificates for OIDC tokens failed: %s.",
                "the cached ones stay in use"
                if self._certificates
                else "deliveries with a token are refused until a fetch succeeds",
            )
            wait = _REFRESH_INTERVAL
            if not self._certificates:
                # Without certificates every delivery is refused and costs an attempt of its task.
                wait = min(_FIRST_RETRY * 2**self._failures, _REFRESH_INTERVAL)
                self._failures += 1
            self._refresh_after = self._clock() + wait
            return
        self._failures = 0
        now = self._clock()
        if now < self._good_until:
            # The cache was still valid, so an unknown key id caused this fetch. The token may be
            # invalid. So the next unknown key id causes a fetch only after a minute.
            self._refresh_after = now + _REFRESH_INTERVAL
        self._certificates = fetched.certificates
        self._good_until = now + max(fetched.lifetime, _SHORTEST_LIFETIME)


def fetch_certificates(url: str, *, proxied: bool = True) -> FetchedCertificates:
    """Fetch certificates over HTTP, in the format of Google's `/oauth2/v1/certs`.

    Args:
        url: the URL of the certificates.
        proxied: whether to use the proxy in the environment. An emulator is never behind a proxy.

    Raises:
        OSError, ValueError, google.auth.exceptions.TransportError: there is no response, or the
            response contains no certificates.
    """
    import google.auth.transport.requests
    import requests

    session = requests.Session()
    session.trust_env = proxied
    request = google.auth.transport.requests.Request(session)
    # The timeout of requests applies to each read. `call_with_timeout` limits the whole request,
    # because a slow server could send one byte at a time.
    response = call_with_timeout(_FETCH_TIMEOUT, partial(request, url, timeout=_FETCH_TIMEOUT))
    if response is None:
        raise OSError(f"{url} did not answer within {_FETCH_TIMEOUT:g} s")
    if response.status != _OK:
        raise OSError(f"{url} answered with the status {response.status}")
    certificates = json.loads(response.data)
    if not isinstance(certificates, dict) or not all(
        isinstance(pem, str) for pem in certificates.values()
    ):
        raise ValueError(f"{url} did not answer with a JSON object of certificates by key id")
    age = _MAX_AGE.search(response.headers.get("cache-control", ""))
    return FetchedCertificates(certificates, float(age.group(1)) if age else _DEFAULT_LIFETIME)


class GoogleTokenVerifier:
    """A `TokenVerifier` that uses `jwt.decode` of google-auth.

    Args:
        store: the certificates of the issuer.
        time: returns the time, in seconds since the epoch.
    """

    def __init__(self, store: CertificateStore, *, time: Callable[[], float] = time.time) -> None:
        self._store = store
        self._time = time

    def verify(self, token: str, *, may_wait: bool) -> Claims | None:
        """See `TokenVerifier.verify`."""
        key_id = _key_id(token)
        is_imported = "google.auth.jwt" in sys.modules
        if not may_wait and not (is_imported and self._store.ready(key_id)):
            return None  # The first import can take as long as a request.
        from google.auth import jwt

        certificates = self._store.certificates(key_id)
        if not certificates:
            raise InvalidTokenError("there are no certificates to check the token with")
        if key_id not in certificates:
            raise InvalidTokenError("the token is signed with an unknown key")
        try:
            claims = cast(
                "Claims",
                jwt.decode(  # type: ignore[no-untyped-call]  # google-auth publishes no types
                    token, certs=certificates, clock_skew_in_seconds=_CLOCK_SKEW
                ),
            )
        except Exception as error:
            # A malicious token can cause other exceptions than those of google-auth, for example
            # TypeError if `exp` is a list. Every exception means that the token is invalid.
            raise InvalidTokenError(f"the token is not valid: {_reason(error)}") from error
        self._check_times(claims)
        return claims

    def _check_times(self, claims: Claims) -> None:
        """Make the checks that google-auth omits: `nbf`, and numbers that are not times.

        Raises:
            InvalidTokenError: a check fails.
        """
        for name in ("iat", "exp", "nbf"):
            moment = claims.get(name, 0)
            if not isinstance(moment, int | float) or not 0 <= moment <= _LAST_MOMENT:
                raise InvalidTokenError(f"the token's {name} is not a time")
            if name == "nbf" and moment > self._time() + _CLOCK_SKEW:
                raise InvalidTokenError("the token is not valid yet")


def _reason(error: Exception) -> str:
    """Return the message of google-auth, or a general message if that could contain the token."""
    said = str(error)
    return said[:200] if said.startswith("Token ") else "its signature or its format is wrong"


def _key_id(token: str) -> str:
    key_id = _key_id_of_header(token.partition(".")[0])
    if key_id is None:
        raise InvalidTokenError("the token's header contains no key id")
    return key_id


@lru_cache(maxsize=64)
def _key_id_of_header(encoded: str) -> str | None:
    """Return the `kid` in a token's header; None without one.

    All tokens with the same key have the same header, so the result is cached.
    """
    try:
        header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        key_id = header["kid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return key_id if isinstance(key_id, str) else None

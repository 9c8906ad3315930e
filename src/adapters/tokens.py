"""Verification of OIDC tokens by google-auth, with certificates that are kept.

google-auth fetches the certificates for every token it verifies; here they are fetched once and
kept for as long as their answer allows, so that verification costs no request.
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

_CLOCK_SKEW = 10  # seconds by which the clocks of issuer and site may differ
_LAST_MOMENT = 253_402_300_799  # seconds since the epoch, of the year 9999
_FETCH_TIMEOUT = 5.0  # seconds in all
_REFRESH_INTERVAL = 60.0  # seconds between fetches that an unknown key id or a failure causes
_FIRST_RETRY = 1.0  # seconds after a failure with nothing in hand; doubled by each that follows
_SHORTEST_LIFETIME = 60.0  # seconds, whatever the answer allows: no fetch for each delivery
_DEFAULT_LIFETIME = 3600.0
_MAX_AGE = re.compile(r"max-age=(\d{1,9})")
_OK = 200

type Certificates = Mapping[str, str]


@attrs.frozen
class FetchedCertificates:
    """Certificates in PEM by key id, and for how many seconds they are good."""

    certificates: Certificates
    lifetime: float


class CertificateStore:
    """The certificates of an issuer, fetched when they are needed and not in hand.

    Args:
        fetch: gets them; any exception counts as a failure of the network.
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
        """Whether `certificates` will answer without a request."""
        now = self._clock()
        in_hand = now < self._good_until and (key_id is None or key_id in self._certificates)
        return in_hand or now < self._refresh_after

    def certificates(self, key_id: str | None) -> Certificates:
        """The certificates to check a token of that key with; empty if none could be had.

        They are fetched again when they are over age or lack the key, but at most once a
        minute, so that rubbish cannot make the site ask. A failure leaves the old ones in use;
        while there are none, the next try comes after 1, 2, 4 seconds and so on.
        """
        # Whoever has old certificates goes on with them while another thread fetches.
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
                "Certificates for identity tokens could not be fetched; %s.",
                "the cached ones stay in use" if self._certificates else "tokens are refused",
            )
            wait = _REFRESH_INTERVAL
            if not self._certificates:
                # Every delivery is refused, and uses up an attempt of its queue.
                wait = min(_FIRST_RETRY * 2**self._failures, _REFRESH_INTERVAL)
                self._failures += 1
            self._refresh_after = self._clock() + wait
            return
        self._failures = 0
        now = self._clock()
        if now < self._good_until:
            # They were good, and a key was unknown: rubbish, perhaps, which may ask once a minute.
            self._refresh_after = now + _REFRESH_INTERVAL
        self._certificates = fetched.certificates
        self._good_until = now + max(fetched.lifetime, _SHORTEST_LIFETIME)


def fetch_certificates(url: str, *, proxied: bool = True) -> FetchedCertificates:
    """Get certificates by HTTP, in the form of Google's `/oauth2/v1/certs`.

    Args:
        proxied: whether a proxy of the environment is used; an emulator is never behind one.

    Raises:
        OSError, ValueError, google.auth.exceptions.TransportError: no answer, or no certificates.
    """
    import google.auth.transport.requests
    import requests

    session = requests.Session()
    session.trust_env = proxied
    request = google.auth.transport.requests.Request(session)
    # Its time-out is for each read; a server that drips must not hold requests for longer.
    response = call_with_timeout(_FETCH_TIMEOUT, partial(request, url, timeout=_FETCH_TIMEOUT))
    if response is None:
        raise OSError(f"{url} did not answer within {_FETCH_TIMEOUT:g} s")
    if response.status != _OK:
        raise OSError(f"{url} answered {response.status}")
    certificates = json.loads(response.data)
    if not isinstance(certificates, dict) or not all(
        isinstance(pem, str) for pem in certificates.values()
    ):
        raise ValueError(f"{url} answered with something that is not a map of certificates")
    age = _MAX_AGE.search(response.headers.get("cache-control", ""))
    return FetchedCertificates(certificates, float(age.group(1)) if age else _DEFAULT_LIFETIME)


class GoogleTokenVerifier:
    """`TokenVerifier` on google-auth's `jwt.decode`."""

    def __init__(self, store: CertificateStore, *, time: Callable[[], float] = time.time) -> None:
        self._store = store
        self._time = time

    def verify(self, token: str, *, may_wait: bool) -> Claims | None:
        """See `TokenVerifier.verify`."""
        key_id = _key_id(token)
        is_imported = "google.auth.jwt" in sys.modules
        if not may_wait and not (is_imported and self._store.ready(key_id)):
            return None  # The first import takes as long as a request.
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
            # google-auth lets what a hostile token makes of the standard library through
            # (TypeError for an exp that is a list, say); whatever it is, the token is bad.
            raise InvalidTokenError(f"the token is not valid: {_reason(error)}") from error
        self._check_times(claims)
        return claims

    def _check_times(self, claims: Claims) -> None:
        """What google-auth leaves out: `nbf`, and times that are none (NaN, infinity)."""
        for name in ("iat", "exp", "nbf"):
            moment = claims.get(name, 0)
            if not isinstance(moment, int | float) or not 0 <= moment <= _LAST_MOMENT:
                raise InvalidTokenError(f"the token's {name} is not a time")
            if name == "nbf" and moment > self._time() + _CLOCK_SKEW:
                raise InvalidTokenError("the token is not valid yet")


def _reason(error: Exception) -> str:
    """What google-auth says, unless it may quote the token."""
    said = str(error)
    return said[:200] if said.startswith("Token ") else "its signature or its form is wrong"


def _key_id(token: str) -> str:
    key_id = _key_id_of_header(token.partition(".")[0])
    if key_id is None:
        raise InvalidTokenError("the token's header names no key")
    return key_id


@lru_cache(maxsize=64)
def _key_id_of_header(encoded: str) -> str | None:
    """The `kid` of a token's header: the same few characters for all tokens of a key."""
    try:
        header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        key_id = header["kid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return key_id if isinstance(key_id, str) else None

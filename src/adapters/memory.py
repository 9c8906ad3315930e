"""Ports held in memory, for tests: tasks are kept instead of sent, tokens are made on the spot."""

import base64
import json
from collections.abc import Callable

from ..core.errors import InvalidTokenError
from ..core.ports import Claims
from ..core.requests import OidcToken, TaskRequest


class MemoryTaskQueue:
    """`TaskQueue` that keeps the requests, oldest first."""

    def __init__(self) -> None:
        self.requests: list[TaskRequest] = []

    def create(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ARG002 - the port's signature
        """Keep the request."""
        self.requests.append(request)

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - the port's word
        """Keep the request."""
        self.create(request, timeout=timeout)


class MemoryTokens:
    """Issues tokens in the form of Google's, and a `TokenVerifier` that knows its own ones."""

    def __init__(self, *, time: Callable[[], float]) -> None:
        self._time = time
        self._issued: dict[str, Claims] = {}

    def issue(self, oidc: OidcToken) -> str:
        """A token for that account and audience, good for an hour."""
        now = int(self._time())
        claims = {
            "iss": "https://accounts.google.com",
            "aud": oidc.audience,
            "email": oidc.service_account_email,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        }
        parts = ({"alg": "memory"}, claims, {"serial": len(self._issued)})
        token = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in parts
        )
        self._issued[token] = claims
        return token

    def ready(self, token: str) -> bool:  # noqa: ARG002 - the verifier's signature
        """Whether `verify` will need no request: always."""
        return True

    def verify(self, token: str) -> Claims:
        """See `TokenVerifier.verify`."""
        claims = self._issued.get(token)
        if claims is None:
            raise InvalidTokenError("the token was not issued in this test")
        return claims

"""What the core asks of the outside, as protocols. `adapters` and tests implement them."""

from collections.abc import Mapping
from typing import Protocol

from .requests import TaskRequest

type Claims = Mapping[str, object]
"""The payload of a verified JSON Web Token."""


class TaskQueue(Protocol):
    """Where tasks are created."""

    def create(self, request: TaskRequest, *, timeout: float) -> None:
        """Create the task; return once it is stored.

        Args:
            timeout: seconds in all, retries included.

        Raises:
            EnqueueError: it was not stored, or nobody can tell.
        """

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - one word for both
        """`create`, awaited on the running loop without a thread."""


class MetadataServer(Protocol):
    """Google Cloud's metadata server, or its absence."""

    def get(self, path: str) -> str | None:
        """The value under `/computeMetadata/v1/` + `path`; None if there is none to be had."""


class TokenVerifier(Protocol):
    """Verifies OIDC tokens: signature and validity in time. What they claim, the core judges."""

    def ready(self, token: str) -> bool:
        """Whether `verify` will answer without a request to anyone."""

    def verify(self, token: str) -> Claims:
        """The claims of a token that its issuer signed and that is valid now.

        Raises:
            InvalidTokenError: bad in any way, or no certificates to check it with.
        """


class SignatureVerifier(Protocol):
    """Verifies the signature that the backend put on a request body."""

    def verify(self, body: bytes, signature: str) -> bool:
        """Whether `signature` was made for `body` with a key of this site."""

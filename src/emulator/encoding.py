"""Base64 as the web writes it: without padding."""

from base64 import b64encode, urlsafe_b64encode


def base64url(data: bytes) -> str:
    """For JSON Web Tokens and keys."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def base64_unpadded(data: bytes) -> bytes:
    """For binary metadata of gRPC."""
    return b64encode(data).rstrip(b"=")

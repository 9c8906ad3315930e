"""Signatures of payloads, those of Django's `Signer`: SECRET_KEY and its fallbacks."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from functools import lru_cache

from django.conf import settings
from django.core.signing import Signer
from django.utils.crypto import constant_time_compare
from django.utils.encoding import force_bytes

_SALT = "django_tasks_cloud_tasks.payload"


def sign(body: bytes) -> str:
    """The signature of a request body, for `SIGNATURE_HEADER`.

    It is `Signer(salt=...).signature(body)`, as a test holds it to; worked out here with a
    key that is set up once, not once a task.
    """
    signing = _keyed(settings.SECRET_KEY).copy()
    signing.update(body)
    return urlsafe_b64encode(signing.digest()).rstrip(b"=").decode()


def is_signed(body: bytes, signature: str) -> bool:
    """Whether `signature` was made for `body` by `sign`, with this key or an earlier one."""
    signer = Signer(salt=_SALT)
    return signature.isascii() and any(
        constant_time_compare(signature, signer.signature(body, key))
        for key in (signer.key, *signer.fallback_keys)
    )


@lru_cache(maxsize=1)
def _keyed(secret: str | bytes) -> hmac.HMAC:
    key = hashlib.sha256(f"{_SALT}signer".encode() + force_bytes(secret)).digest()
    return hmac.new(key, digestmod="sha256")

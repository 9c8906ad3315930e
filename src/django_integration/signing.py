"""Signatures of payloads, made with Django's signing: SECRET_KEY and its fallbacks."""

from django.core.signing import Signer
from django.utils.crypto import constant_time_compare

_SALT = "django_tasks_cloud_tasks.payload"


def sign(body: bytes) -> str:
    """The signature of a request body, for `SIGNATURE_HEADER`."""
    return _signer().signature(body)


class PayloadSignatures:
    """`SignatureVerifier` for what `sign` made, with this key or an earlier one."""

    def verify(self, body: bytes, signature: str) -> bool:
        """See `SignatureVerifier.verify`."""
        signer = _signer()
        return any(
            constant_time_compare(signature, signer.signature(body, key))
            for key in (signer.key, *signer.fallback_keys)
        )


def _signer() -> Signer:
    return Signer(salt=_SALT)

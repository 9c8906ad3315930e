"""OIDC tokens like those of Google, signed with a key of the emulator."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from ..state.targets import OAuthToken, Token

GOOGLE_ISSUER = "https://accounts.google.com"
_LIFETIME = 3600  # seconds, as production's tokens have


class TokenIssuer:
    """Issues tokens, and publishes the keys that verify them.

    Args:
        time: the real time in seconds since the epoch, not that of the emulator's clock, because
            verifiers compare tokens with the real time.
        issuer: the `iss` of the tokens.
    """

    def __init__(self, *, time: Callable[[], float], issuer: str = GOOGLE_ISSUER) -> None:
        self._time = time
        self.issuer = issuer
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._key_id = sha256(public).hexdigest()[:40]
        self._certificate = _certificate(self._key, datetime.fromtimestamp(time(), UTC))

    def certificates(self) -> dict[str, str]:
        """Certificates in PEM by key id, in the format of `/oauth2/v1/certs`."""
        return {self._key_id: self._certificate}

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The key as a JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "alg": "RS256",
                    "use": "sig",
                    "kid": self._key_id,
                    "n": base64url(numbers.n.to_bytes(256)),
                    "e": base64url(numbers.e.to_bytes(3)),
                }
            ]
        }

    def issue(self, token: Token) -> str:
        """A token for an attempt that begins now. An access token is a fake without content."""
        if isinstance(token, OAuthToken):
            return "ya29.emulated-" + sha256(f"{token.email} {token.scope}".encode()).hexdigest()
        now = int(self._time())
        subject = str(int(sha256(token.email.encode()).hexdigest(), 16))[:21]
        claims = {
            "aud": token.audience,
            "azp": subject,
            "email": token.email,
            "email_verified": True,
            "exp": now + _LIFETIME,
            "iat": now,
            "iss": self.issuer,
            "sub": subject,
        }
        header = {"alg": "RS256", "kid": self._key_id, "typ": "JWT"}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url(signature)}"


def base64url(data: bytes) -> str:
    """Base64 without padding, as JSON Web Tokens and keys use it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _certificate(key: rsa.RSAPrivateKey, now: datetime) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloud-tasks-emulator")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()

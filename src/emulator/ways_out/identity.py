"""OIDC tokens in the format of Google's tokens, signed with a key of the emulator."""

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
_LIFETIME = 3600  # seconds, as in production


class TokenIssuer:
    """Issues tokens, and publishes the public key. Each instance generates its own key.

    Args:
        time: returns the real time, in seconds since the epoch. Verifiers compare tokens with the
            real time, so the emulator's clock is not used.
        issuer: the `iss` claim of the tokens.
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
        """Return the certificate in PEM format by key id, as Google's `/oauth2/v1/certs` does."""
        return {self._key_id: self._certificate}

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public key as a JSON Web Key Set, as Google's `/oauth2/v3/certs` does."""
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
        """Return a token that is valid from now on. An OAuth access token is an opaque fake."""
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
    """Encode bytes in URL-safe base64 without padding, as JSON Web Tokens require."""
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

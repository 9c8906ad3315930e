"""OIDC tokens with real keys, real signatures and the certificates of a real emulator."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from django.test import Client
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.adapters.tokens import (
    CertificateStore,
    FetchedCertificates,
    GoogleTokenVerifier,
    fetch_certificates,
)
from django_tasks_cloud_tasks.core.errors import InvalidTokenError
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.state.targets import OidcToken
from django_tasks_cloud_tasks.emulator.ways_out.identity import TokenIssuer, base64url
from hypothesis import example, given
from hypothesis import strategies as st

from tests.integration.deliveries import PATHS, body_of

EMAIL, AUDIENCE = "tasks@test-project.iam.gserviceaccount.com", "http://testserver"
TOKEN = OidcToken(email=EMAIL, audience=AUDIENCE)


class Signer:
    """Creates valid and invalid tokens with one key."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public = (
            self.key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def certificates(self) -> FetchedCertificates:
        return FetchedCertificates({"the-key": self.public}, 3600)

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        payload = {
            "iss": "https://accounts.google.com",
            "aud": AUDIENCE,
            "email": EMAIL,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        } | claims
        head = {"alg": "RS256", "kid": "the-key", "typ": "JWT"} | (header or {})
        known = [{k: v for k, v in part.items() if v is not ...} for part in (head, payload)]
        signed = ".".join(base64url(json.dumps(part).encode()) for part in known)
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url(signature)}"


SIGNER = Signer()


@pytest.fixture
def post(settings: Any) -> Iterator[Callable[..., int]]:
    """POST a task to a site that requires tokens of `SIGNER`, and return the status."""
    options = settings.TASKS["default"]["OPTIONS"] | {"OIDC_SERVICE_ACCOUNT_EMAIL": EMAIL}
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": options}}
    runtime = Runtime(
        environ={},
        make_tokens=lambda _: GoogleTokenVerifier(CertificateStore(SIGNER.certificates)),
        make_metadata=lambda _: NoMetadataServer(),
    )

    def _post(*authorization: str, path: str = "/cloudtasks/execute/") -> int:
        body = body_of("tests.tasks.add", 1, 2)
        headers = {"Authorization": ",".join(authorization)} if authorization else {}
        response = Client().post(path, body, content_type="application/json", headers=headers)
        return response.status_code

    with use_runtime(runtime):
        yield _post


def hs256() -> str:
    import hmac

    signed = SIGNER.token({"alg": "HS256"}).rpartition(".")[0]
    return f"{signed}.{base64url(hmac.digest(SIGNER.public.encode(), signed.encode(), 'sha256'))}"


def stripped() -> str:
    return SIGNER.token().rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"


def spliced() -> str:
    return SIGNER.token(email="x@y").rpartition(".")[0] + "." + SIGNER.token().rpartition(".")[2]


NOW = int(time.time())

BAD: dict[str, tuple[int, Callable[[], str]]] = {
    "expired": (401, lambda: SIGNER.token(iat=NOW - 7200, exp=NOW - 3600)),
    "issued in the future": (401, lambda: SIGNER.token(iat=NOW + 3600, exp=NOW + 7200)),
    "not yet valid": (401, lambda: SIGNER.token(nbf=NOW + 3600)),
    "a not-before that is no time": (401, lambda: SIGNER.token(nbf="soon")),
    "without expiry": (401, lambda: SIGNER.token(exp=...)),
    "an expiry that is no time": (401, lambda: SIGNER.token(exp=[NOW + 3600])),
    "an expiry that is no number": (401, lambda: SIGNER.token(exp=float("nan"))),
    "another audience": (401, lambda: SIGNER.token(aud="https://other.example.com")),
    "several audiences": (401, lambda: SIGNER.token(aud=[AUDIENCE, "https://other"])),
    "another issuer": (401, lambda: SIGNER.token(iss="https://other.example.com")),
    "another e-mail": (403, lambda: SIGNER.token(email="other@evil.iam.gserviceaccount.com")),
    "no e-mail": (403, lambda: SIGNER.token(email=...)),
    "an unverified e-mail": (403, lambda: SIGNER.token(email_verified=False)),
    "an e-mail verified in words": (403, lambda: SIGNER.token(email_verified="true")),
    "an unknown key": (401, lambda: SIGNER.token({"kid": "another-key"})),
    "no key": (401, lambda: SIGNER.token({"kid": ...})),
    "a key that is no name": (401, lambda: SIGNER.token({"kid": ["the-key"]})),
    "another signer": (401, lambda: Signer().token()),
    "alg none": (401, lambda: SIGNER.token({"alg": "none"}).rpartition(".")[0] + "."),
    "alg none, signed": (401, lambda: SIGNER.token({"alg": "none"})),
    "alg none, in capitals": (401, lambda: SIGNER.token({"alg": "NONE"})),
    "no alg": (401, lambda: SIGNER.token({"alg": ...})),
    "HS256 with the public key": (401, hs256),
    "signature removed": (401, stripped),
    "another token's signature": (401, spliced),
    "no token": (401, lambda: "garbage"),
    "1 MB of garbage": (401, lambda: "a" * 1_000_000),
    "1 MB of token": (401, lambda: f"{'a' * 500_000}.{'b' * 500_000}.c"),
}


@pytest.mark.parametrize("path", list(PATHS.values()))
def test_a_delivery_with_a_valid_token_executes_the_task(
    post: Callable[..., int], ran: list[object], path: str
) -> None:
    assert post(f"Bearer {SIGNER.token()}", path=path) == 200
    assert ran == [("add", 1, 2)]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("path", list(PATHS.values()))
def test_an_invalid_token_is_refused_and_is_not_logged(
    post: Callable[..., int],
    ran: list[object],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    path: str,
) -> None:
    status, make = BAD[kind]
    token = make()
    assert post(f"Bearer {token}", path=path) == status
    assert ran == []
    assert len(caplog.records) == 1
    longest = max(token.split("."), key=len)
    assert len(longest) < 5 or longest not in caplog.text or token == "garbage"


@pytest.mark.parametrize("path", list(PATHS.values()))
def test_a_delivery_with_two_or_no_authorization_headers_is_refused(
    post: Callable[..., int], path: str
) -> None:
    good = f"Bearer {SIGNER.token()}"
    assert post(good, good, path=path) == 401
    assert post(path=path) == 401


def verifier() -> GoogleTokenVerifier:
    return GoogleTokenVerifier(CertificateStore(SIGNER.certificates))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["exp", "iat", "nbf"]), json_values, min_size=1))
@example({"exp": 10**400})
@example({"iat": -(10**400)})
def test_time_claims_of_any_type_are_valid_or_refused(claims: dict[str, Any]) -> None:
    try:
        verified = verifier().verify(SIGNER.token(**claims), may_wait=True)
    except InvalidTokenError:
        return
    now = time.time() + 11
    assert verified is not None
    assert isinstance(verified["exp"], int | float)
    assert verified["exp"] >= now - 22
    assert isinstance(verified["iat"], int | float)
    assert verified["iat"] <= now


@given(st.tuples(json_values, json_values).map(lambda p: [json.dumps(x).encode() for x in p]))
def test_headers_and_claims_of_any_shape_are_refused(parts: list[bytes]) -> None:
    signed = ".".join(map(base64url, parts))
    signature = SIGNER.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(InvalidTokenError):
        verifier().verify(f"{signed}.{base64url(signature)}", may_wait=True)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", fullmatch=True))
def test_a_token_of_arbitrary_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        verifier().verify(text, may_wait=True)


class Certificates:
    """A source of certificates that counts fetches, can change and can fail. It has a clock."""

    def __init__(self) -> None:
        self.fetched = 0
        self.known = {"the-key": SIGNER.public}
        self.reachable = True
        self.now = 0.0
        self.store = CertificateStore(self._fetch, clock=lambda: self.now)

    def _fetch(self) -> FetchedCertificates:
        self.fetched += 1
        if not self.reachable:
            raise OSError("unreachable")
        return FetchedCertificates(dict(self.known), 3600)


def test_certificates_are_fetched_once_and_kept_until_they_expire() -> None:
    certificates = Certificates()
    assert not certificates.store.ready("the-key")
    for now in (0, 1, 3599):
        certificates.now = now
        assert certificates.store.certificates("the-key") == certificates.known
        assert certificates.store.ready("the-key")
    assert certificates.fetched == 1
    certificates.now = 3601
    assert not certificates.store.ready("the-key")
    certificates.store.certificates("the-key")
    assert certificates.fetched == 2


def test_an_unknown_key_fetches_the_certificates_at_most_once_a_minute() -> None:
    certificates = Certificates()
    certificates.store.certificates("the-key")
    for now in (1, 59, 61, 62, 119, 122):
        certificates.now = now
        certificates.store.certificates("rubbish")
    assert certificates.fetched == 4, "at the start, after 1 s, after 61 s, after 122 s"


def test_a_new_signing_key_is_fetched() -> None:
    certificates = Certificates()
    certificates.store.certificates("the-key")
    certificates.known["new-key"] = SIGNER.public
    certificates.now = 1
    assert "new-key" in certificates.store.certificates("new-key")


def test_old_certificates_stay_in_use_while_the_network_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificates = Certificates()
    certificates.store.certificates("the-key")
    certificates.reachable = False
    for now in (4000, 4001, 4059, 4061):
        certificates.now = now
        assert certificates.store.certificates("the-key") == certificates.known
    assert certificates.fetched == 3
    assert "the cached ones stay in use" in caplog.text


def test_tokens_are_refused_without_certificates() -> None:
    certificates = Certificates()
    certificates.reachable = False
    refusing = GoogleTokenVerifier(certificates.store)
    for _ in range(3):
        with pytest.raises(InvalidTokenError, match="no certificates"):
            refusing.verify(SIGNER.token(), may_wait=True)
    assert certificates.fetched == 1


def test_a_failed_first_fetch_is_repeated_after_seconds() -> None:
    certificates = Certificates()
    certificates.reachable = False
    fetched = []
    for now in range(16):
        certificates.now = now
        assert certificates.store.certificates("the-key") == {}
        fetched.append(certificates.fetched)
    assert fetched == [1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5], "after 1, 2, 4, 8 seconds"
    certificates.reachable = True
    certificates.now = 31
    assert "the-key" in certificates.store.certificates("the-key")


def test_certificates_that_may_not_be_cached_are_kept_for_a_minute() -> None:
    """`max-age=0` must not mean a fetch for each delivery."""
    fetches: list[None] = []
    now = [0.0]

    def fetch() -> FetchedCertificates:
        fetches.append(None)
        return attrs.evolve(SIGNER.certificates(), lifetime=0)

    store = CertificateStore(fetch, clock=lambda: now[0])
    for moment in (0, 1, 59, 61):
        now[0] = moment
        assert "the-key" in store.certificates("the-key")
    assert len(fetches) == 2


def test_other_threads_use_the_old_certificates_while_one_thread_fetches() -> None:
    import threading

    begun, go_on = threading.Event(), threading.Event()
    fetches: list[None] = []

    def fetch() -> FetchedCertificates:
        fetches.append(None)
        if len(fetches) > 1:
            begun.set()
            assert go_on.wait(10)
        return SIGNER.certificates()

    now = [0.0]
    store = CertificateStore(fetch, clock=lambda: now[0])
    store.certificates("the-key")
    now[0] = 4000
    slow = threading.Thread(target=store.certificates, args=["the-key"])
    slow.start()
    assert begun.wait(10)
    assert "the-key" in store.certificates("the-key")
    assert len(fetches) == 2
    go_on.set()
    slow.join()


def test_the_emulators_tokens_are_verified_with_its_certificates_over_http() -> None:
    with BackgroundEmulator() as emulator:
        url = f"http://{emulator.address}/oauth2/v1/certs"
        checked = GoogleTokenVerifier(CertificateStore(lambda: fetch_certificates(url)))
        token = emulator.emulator._issuer.issue(TOKEN)
        assert checked.verify(token, may_wait=False) is None, "certificates are needed first"
        claims = checked.verify(token, may_wait=True)
        assert claims is not None
        assert (claims["aud"], claims["email"], claims["email_verified"]) == (AUDIENCE, EMAIL, True)
        assert claims["iss"] == "https://accounts.google.com"
        assert checked.verify(token, may_wait=False) == claims
        with pytest.raises(InvalidTokenError, match="unknown key"):
            checked.verify(TokenIssuer(time=time.time).issue(TOKEN), may_wait=True)


def test_the_emulator_publishes_its_key_as_google_does() -> None:
    import urllib.request

    with BackgroundEmulator() as emulator:

        def get(path: str) -> Any:
            with urllib.request.urlopen(f"http://{emulator.address}{path}") as response:
                assert "max-age=3600" in response.headers["Cache-Control"]
                return json.load(response)

        configuration = get("/.well-known/openid-configuration")
        assert configuration["issuer"] == "https://accounts.google.com"
        assert configuration["jwks_uri"] == f"http://{emulator.address}/oauth2/v3/certs"
        (key,) = get("/oauth2/v3/certs")["keys"]
        (key_id,) = get("/oauth2/v1/certs")
        assert key["kid"] == key_id
        token = emulator.emulator._issuer.issue(TOKEN)
        signed, _, signature = token.rpartition(".")
        numbers = rsa.RSAPublicNumbers(
            *(int.from_bytes(base64.urlsafe_b64decode(key[name] + "==")) for name in ("e", "n"))
        )
        numbers.public_key().verify(
            base64.urlsafe_b64decode(signature + "=="),
            signed.encode(),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )

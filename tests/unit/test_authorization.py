"""The authorization of deliveries."""

import base64
import json
from typing import Any

import attrs
import pytest
from django_tasks_cloud_tasks.core.authorization import (
    Decision,
    NeedsSignature,
    NeedsToken,
    Policy,
    Proof,
    Refusal,
    Verdict,
    bearer_token,
    claims_without_signature,
    demand,
    judge_signature,
    judge_token,
    refusal_of,
    refusal_of_all,
    resolve_policy,
)
from django_tasks_cloud_tasks.core.errors import InvalidTokenError
from django_tasks_cloud_tasks.core.options import Authentication
from django_tasks_cloud_tasks.core.ports import Claims
from hypothesis import given
from hypothesis import strategies as st

EMAIL, AUDIENCE = "tasks@shop.iam.gserviceaccount.com", "https://shop.example.com"
GOOD: dict[str, Any] = {
    "iss": "https://accounts.google.com",
    "aud": AUDIENCE,
    "email": EMAIL,
    "email_verified": True,
}


@attrs.define
class Tokens:
    """A verifier that accepts one token, `a.b.c`, and returns its claims."""

    claims: dict[str, Any] = attrs.field(factory=lambda: dict(GOOD))

    def verify(self, token: str) -> Claims:
        if token != "a.b.c":
            raise InvalidTokenError("the token is not valid")
        return self.claims


def authorize(demanded: Policy, proof: Proof, tokens: Tokens) -> Decision:
    """Return the decision. The only valid signature is `signed`, and `tokens` verifies tokens."""
    needed = demand(demanded, proof)
    match needed:
        case NeedsSignature(body, signature):
            is_valid = (body, signature) == (b"body", "signed")
            return judge_signature(demanded, proof, is_valid=is_valid)
        case NeedsToken(token):
            try:
                return judge_token(demanded, tokens.verify(token))
            except InvalidTokenError as error:
                return judge_token(demanded, error)
    return needed


def policy(mode: Authentication, *, open_without_proof: bool = False) -> Policy:
    return Policy(
        mode=mode,
        service_accounts=(EMAIL,),
        audiences=(AUDIENCE,),
        open_without_proof=open_without_proof,
    )


def judge(
    demanded: Policy,
    authorization: str | None = None,
    signature: str | None = None,
    **claims: Any,
) -> Verdict:
    proof = Proof(body=b"body", authorization=authorization, signature=signature)
    known = {k: v for k, v in (GOOD | claims).items() if v is not None}
    return authorize(demanded, proof, Tokens(known)).verdict


OIDC = policy(Authentication.OIDC)
SIGNATURE = policy(Authentication.SIGNATURE)
PLATFORM = policy(Authentication.PLATFORM)


def stripped(**claims: Any) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"Bearer {part({'alg': 'RS256'})}.{part(GOOD | claims)}.SIGNATURE_REMOVED_BY_GOOGLE"


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        ({}, Verdict.GRANTED),
        ({"iss": "accounts.google.com"}, Verdict.GRANTED),
        ({"iss": "https://evil.example.com"}, Verdict.UNAUTHENTICATED),
        ({"iss": None}, Verdict.UNAUTHENTICATED),
        ({"aud": "https://other.example.com"}, Verdict.UNAUTHENTICATED),
        ({"aud": [AUDIENCE]}, Verdict.UNAUTHENTICATED),
        ({"aud": None}, Verdict.UNAUTHENTICATED),
        ({"email": "other@shop.iam.gserviceaccount.com"}, Verdict.FORBIDDEN),
        ({"email": EMAIL.upper()}, Verdict.FORBIDDEN),
        ({"email": None}, Verdict.FORBIDDEN),
        ({"email": [EMAIL]}, Verdict.FORBIDDEN),
        ({"email_verified": False}, Verdict.FORBIDDEN),
        ({"email_verified": "true"}, Verdict.FORBIDDEN),
        ({"email_verified": None}, Verdict.FORBIDDEN),
    ],
)
def test_oidc_demands_issuer_audience_and_verified_email(
    claims: dict[str, Any], verdict: Verdict
) -> None:
    assert judge(OIDC, "Bearer a.b.c", **claims) is verdict


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic a.b.c",
        "Bearer a.b",
        "Bearer a.b.c.d",
        "Bearer x.y.z",
        "Bearer a.b.c,Bearer a.b.c",
        "Bearer a.b.c ",
        "a.b.c",
        "Bearer é.b.c",
        "Bearer " + "a" * 10**6,
    ],
)
def test_oidc_refuses_everything_else(authorization: str | None) -> None:
    assert judge(OIDC, authorization, "signed") is Verdict.UNAUTHENTICATED


def test_a_site_that_knows_no_account_or_audience_grants_nothing() -> None:
    for demanded in (
        attrs.evolve(OIDC, service_accounts=()),
        attrs.evolve(OIDC, audiences=()),
    ):
        assert judge(demanded, "Bearer a.b.c") is Verdict.UNAUTHENTICATED
        assert judge(demanded, "Bearer a.b.c", aud=None, email=None) is Verdict.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("signature", "verdict"),
    [
        ("signed", Verdict.GRANTED),
        ("other", Verdict.UNAUTHENTICATED),
        ("", Verdict.UNAUTHENTICATED),
        (None, Verdict.UNAUTHENTICATED),
    ],
)
def test_signature_demands_the_signature(signature: str | None, verdict: Verdict) -> None:
    assert judge(SIGNATURE, "Bearer a.b.c", signature) is verdict


@pytest.mark.parametrize(
    ("authorization", "signature", "verdict"),
    [
        (stripped(), "signed", Verdict.GRANTED),
        (stripped(), None, Verdict.UNAUTHENTICATED),
        (stripped(), "other", Verdict.UNAUTHENTICATED),
        (None, "signed", Verdict.UNAUTHENTICATED),
        ("Bearer a.b.c", "signed", Verdict.UNAUTHENTICATED),
        (stripped(email="other@shop"), "signed", Verdict.FORBIDDEN),
        (stripped(email_verified=False), "signed", Verdict.FORBIDDEN),
        (stripped(iss="me"), "signed", Verdict.UNAUTHENTICATED),
        ("Bearer e30.bm9wZQ.SIGNATURE_REMOVED_BY_GOOGLE", "signed", Verdict.UNAUTHENTICATED),
        ("Bearer e30.WzFd.SIGNATURE_REMOVED_BY_GOOGLE", "signed", Verdict.UNAUTHENTICATED),
    ],
)
def test_platform_demands_both(
    authorization: str | None, signature: str | None, verdict: Verdict
) -> None:
    assert judge(PLATFORM, authorization, signature) is verdict


def test_a_removed_signature_is_trusted_in_platform_mode_only() -> None:
    assert judge(OIDC, stripped(), "signed") is Verdict.UNAUTHENTICATED


def test_none_demands_nothing() -> None:
    assert judge(policy(Authentication.NONE)) is Verdict.GRANTED


@pytest.mark.parametrize("mode", [Authentication.OIDC, Authentication.SIGNATURE])
def test_an_open_site_lets_in_who_claims_nothing_but_never_a_wrong_proof(
    mode: Authentication,
) -> None:
    demanded = policy(mode, open_without_proof=True)
    assert judge(demanded) is Verdict.GRANTED_WITHOUT_PROOF
    assert judge(demanded, "Bearer x.y.z") is Verdict.UNAUTHENTICATED
    assert judge(demanded, None, "other") is Verdict.UNAUTHENTICATED
    assert judge(demanded, "", None) is Verdict.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("mode", "account", "debug", "resolved", "is_open"),
    [
        (Authentication.AUTO, EMAIL, False, Authentication.OIDC, False),
        (Authentication.AUTO, None, False, Authentication.SIGNATURE, False),
        (Authentication.AUTO, EMAIL, True, Authentication.OIDC, True),
        (Authentication.AUTO, None, True, Authentication.SIGNATURE, True),
        (Authentication.OIDC, EMAIL, True, Authentication.OIDC, False),
        (Authentication.SIGNATURE, None, True, Authentication.SIGNATURE, False),
        (Authentication.PLATFORM, EMAIL, True, Authentication.PLATFORM, False),
    ],
)
def test_auto_is_resolved_and_only_auto_opens_under_debug(
    mode: Authentication,
    account: str | None,
    debug: bool,
    resolved: Authentication,
    is_open: bool,
) -> None:
    found = resolve_policy(mode, service_account=account, audience=AUDIENCE, debug=debug)
    assert (found.mode, found.open_without_proof) == (resolved, is_open)


def test_reasons_are_for_the_log_and_stay_on_their_line() -> None:
    tokens = Tokens(GOOD | {"email": "x\ny" + "z" * 10_000})
    proof = Proof(body=b"", authorization="Bearer a.b.c")
    reason = authorize(OIDC, proof, tokens).reason
    assert "\n" not in reason
    assert len(reason) < 400


@given(
    st.sampled_from([OIDC, SIGNATURE, PLATFORM]),
    st.none() | st.text() | st.text().map("Bearer {}".format),
    st.none() | st.text(),
)
def test_no_garbage_gets_in(
    demanded: Policy, authorization: str | None, signature: str | None
) -> None:
    assert judge(demanded, authorization, signature) is Verdict.UNAUTHENTICATED


CLAIMS = st.none() | st.booleans() | st.text() | st.lists(st.text()) | st.floats()


@given(st.dictionaries(st.sampled_from([*GOOD]), CLAIMS))
def test_no_other_claims_get_in(claims: dict[str, Any]) -> None:
    changed = any(GOOD[name] != value for name, value in claims.items())
    assert (judge(OIDC, "Bearer a.b.c", **claims) is Verdict.GRANTED) is not changed


@given(st.text())
def test_headers_are_tokens_or_refused(header: str) -> None:
    try:
        token = bearer_token(header)
    except InvalidTokenError:
        return
    assert token.count(".") == 2
    with pytest.raises(InvalidTokenError):
        claims_without_signature(token)


OLD_AUDIENCE, OLD_EMAIL = "https://old.example.com", "old@shop.iam.gserviceaccount.com"


@pytest.mark.parametrize("audience", [AUDIENCE, OLD_AUDIENCE])
@pytest.mark.parametrize("email", [EMAIL, OLD_EMAIL])
def test_tasks_that_were_queued_under_an_earlier_name_are_let_in(audience: str, email: str) -> None:
    found = resolve_policy(
        Authentication.OIDC,
        service_account=EMAIL,
        audience=AUDIENCE,
        debug=False,
        earlier_service_accounts=[OLD_EMAIL],
        earlier_audiences=[OLD_AUDIENCE],
    )
    claims = {**GOOD, "aud": audience, "email": email}
    proof = Proof(body=b"body", authorization="Bearer a.b.c")
    assert authorize(found, proof, Tokens(claims)).granted
    for wrong in ({"aud": "https://evil.example.com"}, {"email": "evil@evil.example.com"}):
        tokens = Tokens({**claims, **wrong})
        assert not authorize(found, proof, tokens).granted


def test_earlier_names_alone_open_nothing() -> None:
    found = resolve_policy(
        Authentication.OIDC,
        service_account=EMAIL,
        audience=None,
        debug=False,
        earlier_audiences=[OLD_AUDIENCE],
    )
    tokens = Tokens({**GOOD, "aud": OLD_AUDIENCE})
    proof = Proof(body=b"body", authorization="Bearer a.b.c")
    assert not authorize(found, proof, tokens).granted


# A request is judged for each backend of the site.

GRANTED = Decision(Verdict.GRANTED, "a token")
STRANGER = Decision(Verdict.UNAUTHENTICATED, "no token")
SOMEBODY_ELSE = Decision(Verdict.FORBIDDEN, "the wrong account")


def test_a_caller_of_no_backend_is_refused_with_all_reasons_each_once() -> None:
    decisions = {"a": STRANGER, "b": SOMEBODY_ELSE, "c": STRANGER}
    reasons = ("no token", "the wrong account")
    assert refusal_of_all(decisions) == Refusal(Verdict.FORBIDDEN, reasons)
    assert refusal_of_all({"a": STRANGER}) == Refusal(Verdict.UNAUTHENTICATED, ("no token",))
    assert refusal_of_all({}) == Refusal(Verdict.UNAUTHENTICATED, ())
    assert refusal_of_all({**decisions, "d": GRANTED}) is None


def test_a_caller_of_one_backend_is_refused_by_the_others() -> None:
    decisions = {"a": GRANTED, "b": SOMEBODY_ELSE}
    assert refusal_of(decisions, "a") is None
    assert refusal_of(decisions, "b") == Refusal(Verdict.FORBIDDEN, ("the wrong account",))
    assert refusal_of(decisions, "not of this package") is None

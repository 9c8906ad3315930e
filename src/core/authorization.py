"""Authorization of requests to execute tasks.

| mode | required proof |
|---|---|
| oidc | a token from Google for the audience, with the verified e-mail of the service account |
| signature | the signature of the body, which the backend makes with SECRET_KEY |
| platform | the signature, and the e-mail in a token that Cloud Run has verified |
| none | no proof |

`auto` means oidc if a service account is known, and signature otherwise. The signature and the
audience of a token are not sufficient, because any service account can get a token for any
audience. So the e-mail in the token is always compared.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Collection, Mapping, Sequence
from enum import Enum

import attrs

from .errors import InvalidTokenError
from .options import Authentication
from .ports import Claims

ISSUERS = ("https://accounts.google.com", "accounts.google.com")
"""The two spellings that Google documents for the issuer of its tokens."""

_LONGEST_HEADER = 16_384  # characters; Google's identity tokens have about 1,000
_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"


@attrs.frozen(kw_only=True)
class Policy:
    """The proof that a backend requires.

    Attributes:
        mode: the mode; never `AUTO`.
        service_accounts: the accepted e-mails of a token. The first one is the current account. The
            others are earlier accounts, because tasks in the queues still carry their tokens. Empty
            if no token is required.
        audiences: the accepted audiences of a token, the current one first.
        open_without_proof: whether a request without any proof is granted.
    """

    mode: Authentication
    service_accounts: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    open_without_proof: bool = False


@attrs.frozen(kw_only=True)
class Proof:
    """The parts of a request that can prove who sent it.

    Attributes:
        body: the body; None if it is incomplete, or too large for the site.
        authorization: the header `Authorization`; None without one.
        signature: the header `SIGNATURE_HEADER`; None without one.
        from_browser: whether a web page of any site sent the request.
    """

    body: bytes | None
    authorization: str | None = None
    signature: str | None = None
    from_browser: bool = False


class Verdict(Enum):
    """The decision on a request."""

    GRANTED = "granted"
    GRANTED_WITHOUT_PROOF = "granted without proof"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"


@attrs.frozen
class Decision:
    """A verdict and its reason. The reason is for the log of the site, not for the response."""

    verdict: Verdict
    reason: str

    @property
    def granted(self) -> bool:
        """Whether the task may run."""
        return self.verdict is Verdict.GRANTED or self.verdict is Verdict.GRANTED_WITHOUT_PROOF


@attrs.frozen
class NeedsSignature:
    """The decision depends on the signature.

    The caller checks whether this site made `signature` for `body`, and calls `judge_signature`.
    """

    body: bytes
    signature: str


@attrs.frozen
class NeedsToken:
    """The decision depends on the token. The caller verifies it, and calls `judge_token`."""

    token: str


def resolve_policy(
    authentication: Authentication,
    *,
    service_account: str | None,
    audience: str | None,
    debug: bool,
    earlier_service_accounts: Sequence[str] = (),
    earlier_audiences: Sequence[str] = (),
) -> Policy:
    """Return the policy of a backend.

    Requests without proof are granted only with DEBUG and `auto`. A site that sets another mode
    always gets that mode.

    Args:
        authentication: the option AUTHENTICATION.
        service_account: the e-mail of the current account; None if it is not known.
        audience: the current audience; None if it is not known.
        debug: the setting DEBUG.
        earlier_service_accounts: more accepted e-mails; ignored without a current account.
        earlier_audiences: more accepted audiences; ignored without a current audience.
    """
    return Policy(
        mode=authentication.resolved(knows_account=service_account is not None),
        service_accounts=(service_account, *earlier_service_accounts) if service_account else (),
        audiences=(audience, *earlier_audiences) if audience else (),
        open_without_proof=debug and authentication is Authentication.AUTO,
    )


def demand(policy: Policy, proof: Proof) -> NeedsSignature | NeedsToken | Decision:
    """Decide on a request, or return the check that the decision depends on."""
    if policy.mode is Authentication.NONE:
        return Decision(Verdict.GRANTED, "AUTHENTICATION is 'none'")
    if policy.open_without_proof and proof.authorization is None and proof.signature is None:
        # Any web page that a developer opens can make the browser send requests to localhost.
        if proof.from_browser:
            return _unauthenticated("no proof, and a web page sent it")
        return Decision(Verdict.GRANTED_WITHOUT_PROOF, "DEBUG is on, and there is no proof")
    if policy.mode is Authentication.OIDC:
        try:
            return NeedsToken(bearer_token(proof.authorization))
        except InvalidTokenError as error:
            return _unauthenticated(str(error))
    if proof.body is None:
        return _unauthenticated("the body is too large, or incomplete")
    if not proof.signature:
        return _unauthenticated("no payload signature")
    return NeedsSignature(proof.body, proof.signature)


def judge_signature(policy: Policy, proof: Proof, *, is_valid: bool) -> Decision:
    """Decide on a request with a signature.

    Args:
        policy: the policy of the backend.
        proof: the proof in the request.
        is_valid: whether this site made the signature for the body.
    """
    if not is_valid:
        return _unauthenticated("the payload signature is wrong")
    if policy.mode is not Authentication.PLATFORM:
        return Decision(Verdict.GRANTED, "the payload signature is right")
    try:
        claims = claims_without_signature(bearer_token(proof.authorization))
        return _judge_account(claims, policy)
    except InvalidTokenError as error:
        return _unauthenticated(str(error))


def judge_token(policy: Policy, claims: Claims | InvalidTokenError) -> Decision:
    """Decide on a request with a token.

    Args:
        policy: the policy of the backend.
        claims: the claims of the token, after its signature and times were verified; or the error
            of that verification.
    """
    if isinstance(claims, InvalidTokenError):
        return _unauthenticated(str(claims))
    audience = claims.get("aud")
    try:
        if not _is_one_of(audience, policy.audiences):
            return _unauthenticated(
                f"the token's audience is {_quoted(audience)}, not {_listed(policy.audiences)}"
            )
        return _judge_account(claims, policy)
    except InvalidTokenError as error:
        return _unauthenticated(str(error))


# The same request gets one decision for each backend of the site.


@attrs.frozen
class Refusal:
    """The refusal of a request.

    Attributes:
        verdict: UNAUTHENTICATED or FORBIDDEN.
        reasons: the reasons, for the log of the site and not for the response.
    """

    verdict: Verdict
    reasons: tuple[str, ...]


def refusal_of_all(decisions: Mapping[str, Decision]) -> Refusal | None:
    """Return the refusal if no backend granted the request; None if at least one did.

    Args:
        decisions: the decisions on the request, by the alias of the backend.
    """
    if any(decision.granted for decision in decisions.values()):
        return None
    return _refusal(decisions.values())


def refusal_of(decisions: Mapping[str, Decision], alias: str) -> Refusal | None:
    """Return the refusal if this backend did not grant the request; None if it did.

    Also None if there is no decision for this backend, for example because it is not a Cloud Tasks
    backend.

    The view calls this twice: for the backend in the payload, and for the backend that the task is
    declared for. So a caller of one backend cannot run a task that is declared for another.
    """
    decision = decisions.get(alias)
    return None if decision is None or decision.granted else _refusal([decision])


def _refusal(decisions: Collection[Decision]) -> Refusal:
    forbidden = any(decision.verdict is Verdict.FORBIDDEN for decision in decisions)
    return Refusal(
        Verdict.FORBIDDEN if forbidden else Verdict.UNAUTHENTICATED,
        tuple(dict.fromkeys(decision.reason for decision in decisions)),
    )


def _unauthenticated(reason: str) -> Decision:
    return Decision(Verdict.UNAUTHENTICATED, reason)


def bearer_token(authorization: str | None) -> str:
    """Return the token in an `Authorization: Bearer` header.

    Raises:
        InvalidTokenError: the header is missing, too long, or has another format.
    """
    if authorization is None:
        raise InvalidTokenError("no Authorization header")
    if len(authorization) > _LONGEST_HEADER:
        raise InvalidTokenError(f"an Authorization header of {len(authorization):,} characters")
    scheme, _, token = authorization.partition(" ")
    # A token has three parts in base64url. A comma, for example, means that there were two headers.
    if (
        scheme.lower() != "bearer"
        or token.count(".") != 2  # noqa: PLR2004 - header.claims.signature
        or not token.isascii()
        or not token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    ):
        raise InvalidTokenError("the Authorization header is not 'Bearer' and a JSON Web Token")
    return token


def claims_without_signature(token: str) -> Claims:
    """Return the claims of a token whose signature Cloud Run has verified and replaced.

    Raises:
        InvalidTokenError: Cloud Run did not replace the signature, or the claims are not JSON.
    """
    _, encoded, signature = token.split(".")
    if not hmac.compare_digest(signature, _REMOVED):
        raise InvalidTokenError(
            f"the token's signature is not {_REMOVED}: it did not come through a Cloud Run "
            "service that requires authentication"
        )
    try:
        claims = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise InvalidTokenError("the token's claims are not JSON") from error
    if not isinstance(claims, dict):
        raise InvalidTokenError("the token's claims are not a JSON object")
    return claims


def _judge_account(claims: Claims, policy: Policy) -> Decision:
    if claims.get("iss") not in ISSUERS:
        return _unauthenticated("the token's issuer is not Google")
    if claims.get("email_verified") is not True:
        return Decision(Verdict.FORBIDDEN, "the token's e-mail is not verified")
    email = claims.get("email")
    if not _is_one_of(email, policy.service_accounts):
        return Decision(
            Verdict.FORBIDDEN,
            f"the token's e-mail is {_quoted(email)}, not {_listed(policy.service_accounts)}",
        )
    return Decision(Verdict.GRANTED, f"a token of {email}")


def _quoted(claim: object) -> str:
    """Return a claim for the log: without line breaks, and at most 200 characters long."""
    return repr(claim)[:200]


def _is_one_of(claim: object, values: Sequence[str]) -> bool:
    """Return whether a claim is one of the accepted values.

    Raises:
        InvalidTokenError: there are no accepted values, so no token can be accepted.
    """
    if not values:
        raise InvalidTokenError(
            "this site requires a token, but its service account or its audience is not known"
        )
    return isinstance(claim, str) and claim in values


def _listed(values: Sequence[str]) -> str:
    return " or ".join(map(repr, values))

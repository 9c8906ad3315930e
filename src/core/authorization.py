"""Who may have a task executed.

| mode | proof demanded |
|---|---|
| oidc | a token of Google's for the audience, with the verified e-mail of the service account |
| signature | the signature that the backend put on the body, made with SECRET_KEY |
| platform | the signature, and the e-mail in a token that Cloud Run checked at its door |
| none | nothing |

`auto` is oidc where a service account is known and signature otherwise. Signature and audience
of a token alone prove nothing, because every service account of the world can have one for any
audience: the e-mail is what counts.
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
    """What a backend demands, resolved.

    Attributes:
        mode: never `AUTO`.
        service_accounts: e-mails of which a token must carry one: today's, and those that tasks
            still in their queues were created with. Empty where no token is demanded.
        audiences: of which a token must be for one; likewise.
        open_without_proof: whether a request that brings no proof at all is let in.
    """

    mode: Authentication
    service_accounts: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    open_without_proof: bool = False


@attrs.frozen(kw_only=True)
class Proof:
    """What a request brings along.

    Attributes:
        body: None if it is larger than the site takes, or broke off.
        authorization: the header of that name.
        signature: the header `SIGNATURE_HEADER`.
        from_browser: whether a page sent it, of whatever site.
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
    """A verdict and, for the log of the site only, its reason."""

    verdict: Verdict
    reason: str

    @property
    def granted(self) -> bool:
        """Whether the task may run."""
        return self.verdict is Verdict.GRANTED or self.verdict is Verdict.GRANTED_WITHOUT_PROOF


@attrs.frozen
class NeedsSignature:
    """Ask whether this site made `signature` for `body`, and then `judge_signature`."""

    body: bytes
    signature: str


@attrs.frozen
class NeedsToken:
    """Ask for the claims of this token, verified, and then `judge_token`."""

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
    """The policy of a backend.

    The earlier ones count beside today's, never in their place.

    Only `auto` opens for requests without proof, and only under DEBUG: who names a mode means it.
    """
    return Policy(
        mode=authentication.resolved(knows_account=service_account is not None),
        service_accounts=(service_account, *earlier_service_accounts) if service_account else (),
        audiences=(audience, *earlier_audiences) if audience else (),
        open_without_proof=debug and authentication is Authentication.AUTO,
    )


def demand(policy: Policy, proof: Proof) -> NeedsSignature | NeedsToken | Decision:
    """Decide whether a request may have its task executed, or what the decision needs to know."""
    if policy.mode is Authentication.NONE:
        return Decision(Verdict.GRANTED, "AUTHENTICATION is 'none'")
    if policy.open_without_proof and proof.authorization is None and proof.signature is None:
        # Any page that a developer visits can make the browser send something to localhost.
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
    """The decision on a request with a signature.

    Args:
        is_valid: whether this site made it for the body.
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
    """The decision on a request with a token.

    Args:
        claims: of the token, whose signature and times are good; or why there are none.
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


# A request is judged for each backend of the site.


@attrs.frozen
class Refusal:
    """The caller may not do what was asked for.

    Attributes:
        verdict: UNAUTHENTICATED or FORBIDDEN.
        reasons: for the log of the site only.
    """

    verdict: Verdict
    reasons: tuple[str, ...]


def refusal_of_all(decisions: Mapping[str, Decision]) -> Refusal | None:
    """Why the caller may use no backend; None if there is one.

    Args:
        decisions: on the request, by the alias of the backend.
    """
    if any(decision.granted for decision in decisions.values()):
        return None
    return _refusal(decisions.values())


def refusal_of(decisions: Mapping[str, Decision], alias: str) -> Refusal | None:
    """Why the caller may not use that backend; None if they may, or if it demands nothing of its
    own.

    It is asked twice: for the backend that the payload names, and for the one that the task was
    declared for. Who may use one backend must not run what is declared for another.
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
    """The token of an `Authorization: Bearer` header.

    Raises:
        InvalidTokenError: there is no header, or it is no such header.
    """
    if authorization is None:
        raise InvalidTokenError("no Authorization header")
    if len(authorization) > _LONGEST_HEADER:
        raise InvalidTokenError(f"an Authorization header of {len(authorization):,} characters")
    scheme, _, token = authorization.partition(" ")
    # Three parts in base64url: a comma, for one, means that there were two headers.
    if (
        scheme.lower() != "bearer"
        or token.count(".") != 2  # noqa: PLR2004 - header.claims.signature
        or not token.isascii()
        or not token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    ):
        raise InvalidTokenError("the Authorization header is not 'Bearer' and a JSON Web Token")
    return token


def claims_without_signature(token: str) -> Claims:
    """The claims of a token whose signature Cloud Run checked at the door and took away.

    Raises:
        InvalidTokenError: the token is not of that kind.
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
    """A claim for the log: without line breaks, and no longer than a line."""
    return repr(claim)[:200]


def _is_one_of(claim: object, values: Sequence[str]) -> bool:
    """Whether a token says what it must.

    Raises:
        InvalidTokenError: nothing is known that it must say, and so nothing can be proved.
    """
    if not values:
        raise InvalidTokenError(
            "this site demands a token but knows no service account or audience to compare it with"
        )
    return isinstance(claim, str) and claim in values


def _listed(values: Sequence[str]) -> str:
    return " or ".join(map(repr, values))

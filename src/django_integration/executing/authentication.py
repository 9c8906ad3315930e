"""Authentication of a request: one decision for each Cloud Tasks backend of the site."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial

import attrs
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, RawPostDataException, UnreadablePostError

from ...core.authorization import (
    Decision,
    NeedsSignature,
    NeedsToken,
    Policy,
    Proof,
    Refusal,
    Verdict,
    demand,
    judge_signature,
    judge_token,
)
from ...core.errors import ConfigurationError, InvalidTokenError
from ...core.outcomes import Forbidden, Unauthenticated
from ...core.ports import Claims, TokenVerifier
from ...core.requests import SIGNATURE_HEADER
from ..registry import SiteBackend, backends
from ..signing import is_signed
from .flow import Flow, Wait

logger = logging.getLogger("django_tasks_cloud_tasks")

_SIGNATURE_KEY = "HTTP_" + SIGNATURE_HEADER.upper().replace("-", "_")


@attrs.frozen
class Caller:
    """The sender of a request, and the decisions on the request.

    Attributes:
        address: the client address of the connection.
        decisions: the decisions, by the alias of the backend.
        undecided: refusals for the backends with faulty settings, by alias.
    """

    address: str | None
    decisions: Mapping[str, Decision]
    undecided: Mapping[str, Decision]

    def refused(self, refusal: Refusal) -> Unauthenticated | Forbidden:
        """Return the outcome of a refused request. Log the reasons; the response omits them."""
        reasons = "; ".join(refusal.reasons)
        logger.warning(
            "Refused a request from %s: %s.",
            self.address,
            reasons or "the settings of every backend in TASKS are faulty",
        )
        return Forbidden() if refusal.verdict is Verdict.FORBIDDEN else Unauthenticated()


def read_body(request: HttpRequest) -> bytes | None:
    """Return the body; None if it is incomplete, too large for the site, or was already read."""
    try:
        return request.body
    except (RequestDataTooBig, UnreadablePostError, RawPostDataException):
        return None


def authenticate(request: HttpRequest, body: bytes | None) -> Flow[Caller]:
    """Authenticate a request. The flow can wait for the metadata server and for certificates.

    Args:
        request: the request.
        body: its body; None if `read_body` could not read it.
    """
    site = backends()
    if any(_may_wait(backend) for backend in site):
        policies: Mapping[str, Policy] = yield Wait(partial(_policies, site))
    else:
        policies = _policies(site)
    meta = request.META
    proof = Proof(
        body=body,
        authorization=meta.get("HTTP_AUTHORIZATION"),
        signature=meta.get(_SIGNATURE_KEY),
        from_browser="HTTP_ORIGIN" in meta or "HTTP_SEC_FETCH_SITE" in meta,
    )
    # All backends use the same key, so each signature is checked only once.
    is_signed_once = cache(is_signed)
    decisions: dict[str, Decision] = {}
    for backend in site:
        if policy := policies.get(backend.alias):
            decisions[backend.alias] = yield from _decide(backend, policy, proof, is_signed_once)
    _tell_of_debug(decisions)
    undecided = {
        backend.alias: Decision(
            Verdict.UNAUTHENTICATED, f"the settings of the backend {backend.alias!r} are faulty"
        )
        for backend in site
        if backend.alias not in policies
    }
    return Caller(meta.get("REMOTE_ADDR"), decisions, undecided)


def _decide(
    backend: SiteBackend, policy: Policy, proof: Proof, is_valid: Callable[[bytes, str], bool]
) -> Flow[Decision]:
    needed = demand(policy, proof)
    match needed:
        case NeedsSignature(body, signature):
            return judge_signature(policy, proof, is_valid=is_valid(body, signature))
        case NeedsToken(token):
            claims = yield from _claims(backend.configuration.tokens, token)
            return judge_token(policy, claims)
    return needed


def _claims(tokens: TokenVerifier, token: str) -> Flow[Claims | InvalidTokenError]:
    try:
        claims = tokens.verify(token, may_wait=False)
        if claims is None:
            claims = yield Wait(partial(tokens.verify, token, may_wait=True))
    except InvalidTokenError as error:
        return error
    return claims or {}


def _policies(site: list[SiteBackend]) -> dict[str, Policy]:
    """Return the policies by alias. A backend with faulty settings is left out, so it is closed."""
    policies = {}
    for backend in site:
        try:
            policies[backend.alias] = backend.configuration.policy
        except ConfigurationError:
            logger.exception("No task of the backend %r can be executed.", backend.alias)
    return policies


def _may_wait(backend: SiteBackend) -> bool:
    """Return whether the policy of the backend may wait for the metadata server."""
    # With faulty options there is no request. `_policies` logs the faults.
    with suppress(ConfigurationError):
        return backend.configuration.may_block
    return False


_told_of_debug = False


def _tell_of_debug(decisions: Mapping[str, Decision]) -> None:
    global _told_of_debug  # noqa: PLW0603 - logged once per process
    if not _told_of_debug and any(
        decision.verdict is Verdict.GRANTED_WITHOUT_PROOF for decision in decisions.values()
    ):
        _told_of_debug = True
        logger.warning(
            "Tasks are executed for callers without any authentication, because DEBUG is on and "
            "AUTHENTICATION is 'auto'. (This is logged once.)"
        )

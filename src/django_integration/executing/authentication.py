"""Letting a request in: who may, which task it means, and what waits in the outbox."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

import attrs
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, RawPostDataException, UnreadablePostError
from django.tasks.base import Task
from django.tasks.exceptions import InvalidTask

from ...core.authorization import Decision, Policy, Proof, Verdict, authorize, bearer_token
from ...core.errors import ConfigurationError, InvalidPayloadError, InvalidTokenError
from ...core.options import Authentication
from ...core.outcomes import (
    BadPayload,
    Forbidden,
    Outcome,
    Relayed,
    Unauthenticated,
    UnknownTask,
)
from ...core.payload import TaskPayload
from ...core.requests import SIGNATURE_HEADER
from ..enqueueing.backend import CloudTasksBackend
from ..enqueueing.signing import PayloadSignatures
from ..operating.relay import relay_batch
from ..results.task_results import message_of

logger = logging.getLogger("django_tasks_cloud_tasks")

_SIGNATURES = PayloadSignatures()
_NOTHING = object()
_RELAY_TIME = 30.0  # seconds
_SIGNATURE_KEY = "HTTP_" + SIGNATURE_HEADER.upper().replace("-", "_")


@attrs.frozen
class Door:
    """One of the site's backends and what it demands of a caller."""

    backend: CloudTasksBackend
    policy: Policy


@attrs.frozen
class Judgement:
    """The decision on a request, for one backend."""

    backend: CloudTasksBackend
    decision: Decision

    @property
    def alias(self) -> str:
        """The backend's."""
        return self.backend.alias


def doors(candidates: list[CloudTasksBackend]) -> list[Door]:
    """The backends with what they demand. One that cannot tell stays shut."""
    known = []
    for backend in candidates:
        try:
            known.append(Door(backend, backend.configuration.policy))
        except ConfigurationError:
            logger.exception("No task of the backend %r can be executed.", backend.alias)
    return known


def may_block(candidates: list[CloudTasksBackend]) -> bool:
    """Whether `doors` may have to ask the metadata server."""
    for backend in candidates:
        # Faulty options ask nobody; `doors` tells of them.
        with suppress(ConfigurationError):
            if backend.configuration.may_block:
                return True
    return False


def read_body(request: HttpRequest) -> bytes | None:
    """The body; None if it is larger than the site takes, broke off, or was read by others."""
    try:
        return request.body
    except (RequestDataTooBig, UnreadablePostError, RawPostDataException):
        return None


def needs_request(door: Door, request: HttpRequest) -> bool:
    """Whether judging the request's token will first have to fetch certificates."""
    if door.policy.mode is not Authentication.OIDC:
        return False
    try:
        token = bearer_token(request.META.get("HTTP_AUTHORIZATION"))
    except InvalidTokenError:
        return False
    return not door.backend.configuration.tokens.ready(token)


def judge(door: Door, request: HttpRequest, body: bytes | None) -> Judgement:
    """The core's decision on the request, for one backend."""
    meta = request.META
    proof = Proof(
        body=body,
        authorization=meta.get("HTTP_AUTHORIZATION"),
        signature=meta.get(_SIGNATURE_KEY),
        from_browser="HTTP_ORIGIN" in meta or "HTTP_SEC_FETCH_SITE" in meta,
    )
    decision = authorize(
        door.policy, proof, tokens=door.backend.configuration.tokens, signatures=_SIGNATURES
    )
    return Judgement(door.backend, decision)


def admit(
    request: HttpRequest, body: bytes | None, judgements: list[Judgement]
) -> TaskPayload | Outcome:
    """The payload, if the caller may have it executed by the backend that it names."""
    granted = [j.alias for j in judgements if j.decision.granted]
    if not granted:
        return _refusal(request, judgements)
    _tell_of_debug(judgements)
    if body is None:
        return _told(BadPayload(("the body is larger than the site takes, or broke off",)))
    try:
        payload = TaskPayload.decode(body)
    except InvalidPayloadError as error:
        return _told(BadPayload(error.faults))
    if payload.backend in granted:
        return payload
    shut = [j for j in judgements if j.alias == payload.backend]
    if shut:
        return _refusal(request, shut)
    reason = f"TASKS has no Cloud Tasks backend called {payload.backend!r}."
    return _told(UnknownTask(payload.task_id, reason))


def relay(request: HttpRequest, judgements: list[Judgement]) -> Outcome:
    """Send what waits in the outbox, for the backends that the caller may execute tasks of.

    For as long as there is something to send and Cloud Tasks takes it, up to half a minute.
    """
    granted = {j.alias: j.backend.configuration for j in judgements if j.decision.granted}
    if not granted:
        return _refusal(request, judgements)
    _tell_of_debug(judgements)
    until = time.monotonic() + _RELAY_TIME
    total = Relayed(0, 0)
    while True:
        total = total.and_then(relay_batch(granted))
        if not total.more or time.monotonic() > until:
            return total


def _refusal(request: HttpRequest, judgements: list[Judgement]) -> Outcome:
    reasons = dict.fromkeys(judgement.decision.reason for judgement in judgements)
    logger.warning(
        "Refused a request of %s: %s.",
        request.META.get("REMOTE_ADDR"),
        "; ".join(reasons) or "no backend in TASKS could tell what it demands",
    )
    if any(judgement.decision.verdict is Verdict.FORBIDDEN for judgement in judgements):
        return Forbidden()
    return Unauthenticated()


def _told[O: BadPayload | UnknownTask](outcome: O) -> O:
    """Log why a delivery led to no execution: nobody else will."""
    reason = "; ".join(outcome.faults) if isinstance(outcome, BadPayload) else outcome.reason
    logger.warning("Executed nothing: %s", reason)
    return outcome


_told_of_debug = False


def _tell_of_debug(judgements: list[Judgement]) -> None:
    global _told_of_debug  # noqa: PLW0603 - said once a process
    if not _told_of_debug and any(
        j.decision.verdict is Verdict.GRANTED_WITHOUT_PROOF for j in judgements
    ):
        _told_of_debug = True
        logger.warning(
            "Executing tasks for callers without any proof, because DEBUG is on and "
            "AUTHENTICATION is 'auto'. (Said once.)"
        )


def is_loaded(task_path: str) -> bool:
    """Whether resolving the path will import nothing, and wait for nobody who imports it."""
    spec = getattr(sys.modules.get(task_path.rpartition(".")[0]), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def resolve(
    request: HttpRequest, payload: TaskPayload, judgements: list[Judgement]
) -> Task[..., Any] | Outcome:
    """The task that the payload names, as it was enqueued. Imports its module."""
    path = payload.task_path
    module_path, _, name = path.rpartition(".")
    try:
        # Not straight from sys.modules: there it may be half imported, by another thread.
        module = import_module(module_path)
        task = getattr(module, name, _NOTHING)
    except KeyboardInterrupt:
        raise
    except ImportError as error:
        return _told(UnknownTask(payload.task_id, f"There is no task {path}: {message_of(error)}."))
    except BaseException as error:
        logger.exception("The module of the task %s could not be imported.", path)
        reason = f"The module of {path} raised {type(error).__name__} at its import."
        return UnknownTask(payload.task_id, reason)
    if not isinstance(task, Task):
        reason = f"the module has no {name!r}" if task is _NOTHING else "it is no task"
        return _told(UnknownTask(payload.task_id, f"There is no task {path}: {reason}."))
    # Whoever may use one backend shall not run what is declared for another that they may not.
    shut = [j for j in judgements if j.alias == task.backend and not j.decision.granted]
    if shut:
        return _refusal(request, shut)
    if (payload.queue_name, payload.priority, payload.backend) != (
        task.queue_name,
        task.priority,
        task.backend,
    ):
        try:
            return task.using(
                queue_name=payload.queue_name, priority=payload.priority, backend=payload.backend
            )
        except InvalidTask as error:
            reason = f"{path} cannot be executed here: {error}"
            return _told(UnknownTask(payload.task_id, reason))
    return task

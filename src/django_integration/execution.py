"""Executing a task that was delivered: gather the facts, ask the core, do what it says."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from asyncio import CancelledError
from contextlib import suppress
from importlib import import_module
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import attrs
from asgiref.sync import sync_to_async
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, RawPostDataException, UnreadablePostError
from django.tasks import task_backends
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskContext
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_finished, task_started

from ..core.authorization import Decision, Policy, Proof, Verdict, authorize, bearer_token
from ..core.deliveries import Delivery
from ..core.errors import ConfigurationError, InvalidPayloadError, InvalidTokenError
from ..core.options import Authentication
from ..core.outcomes import (
    BadPayload,
    Failed,
    Forbidden,
    Outcome,
    Succeeded,
    Unauthenticated,
    UnknownTask,
    Unserializable,
)
from ..core.payload import TaskPayload
from ..core.requests import SIGNATURE_HEADER
from .backend import CloudTasksBackend
from .results import (
    UnserializableReturnError,
    announce,
    announce_async,
    mark_failed,
    mark_successful,
    running_result,
)
from .signing import PayloadSignatures

if TYPE_CHECKING:
    from django.tasks.base import TaskResult

logger = logging.getLogger("django_tasks_cloud_tasks")

_SIGNATURES = PayloadSignatures()
_NOTHING = object()
_HOST = "/".join(filter(None, (os.environ.get("K_REVISION"), socket.gethostname())))
_SIGNATURE_KEY = "HTTP_" + SIGNATURE_HEADER.upper().replace("-", "_")


def worker_id() -> str:
    """Names this process: host (on Cloud Run the revision as well) and process id."""
    return f"{_HOST}:{os.getpid()}"


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


def backends() -> list[CloudTasksBackend]:
    """The Cloud Tasks backends of the site."""
    return [backend for backend in task_backends.all() if isinstance(backend, CloudTasksBackend)]


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


def _refusal(request: HttpRequest, judgements: list[Judgement]) -> Outcome:
    reasons = dict.fromkeys(judgement.decision.reason for judgement in judgements)
    logger.warning(
        "Refused to execute a task for %s: %s.",
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
        return _told(UnknownTask(payload.task_id, f"There is no task {path}: {_message(error)}."))
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


@attrs.frozen
class Execution:
    """One attempt at a task: `run` or `arun` it once."""

    task: Task[..., Any]
    result: TaskResult[..., Any]
    backend: type[BaseTaskBackend]

    @classmethod
    def begin(
        cls, task: Task[..., Any], payload: TaskPayload, delivery: Delivery, worker: str
    ) -> Execution:
        """Prepare an attempt, with the number that the delivery gives it."""
        result = running_result(
            task,
            task_id=payload.task_id,
            args=list(payload.args),
            kwargs=dict(payload.kwargs),
            enqueued_at=payload.enqueued_at,
            worker_ids=delivery.worker_ids(worker),
        )
        return cls(task, result, type(task.get_backend()))

    @property
    def _arguments(self) -> list[Any]:
        context = [TaskContext(task_result=self.result)] if self.task.takes_context else []
        return [*context, *self.result.args]

    def run(self) -> Outcome:
        """Run the task in this thread."""
        announce(task_started, self.backend, self.result)
        try:
            value = self.task.call(*self._arguments, **self.result.kwargs)
            mark_successful(self.result, value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its failure
            outcome = self._failed(error)
            # Inside the handler, where Django's receiver finds the traceback to log.
            announce(task_finished, self.backend, self.result)
            return outcome
        announce(task_finished, self.backend, self.result)
        return Succeeded(self.result.id)

    async def arun(self) -> Outcome:
        """Run the task: a coroutine on this loop, a function in a thread, to its end."""
        if not iscoroutinefunction(self.task.func):
            return await sync_to_async(self.run)()
        await announce_async(task_started, self.backend, self.result)
        try:
            value = await self.task.acall(*self._arguments, **self.result.kwargs)
            mark_successful(self.result, value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome = self._failed(error)
            await announce_async(task_finished, self.backend, self.result)
            if _is_cancelled(error):
                # The caller is gone, or the server ends: nobody is there to be answered, and
                # Cloud Tasks delivers the task again.
                raise
            return outcome
        await announce_async(task_finished, self.backend, self.result)
        return Succeeded(self.result.id)

    def _failed(self, error: BaseException) -> Outcome:
        task_error = mark_failed(self.result, error)
        if isinstance(error, UnserializableReturnError):
            return Unserializable(self.result.id, str(error))
        return Failed(self.result.id, _summary(error), task_error.traceback)


def _is_cancelled(error: BaseException) -> bool:
    """Whether this request was cancelled, and not just something that the task waited for."""
    current = asyncio.current_task()
    return isinstance(error, CancelledError) and current is not None and current.cancelling() > 0


def _summary(error: BaseException) -> str:
    """`Class: message`."""
    message = _message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: BaseException) -> str:
    """The message of an exception, whatever its own `__str__` does."""
    try:
        return str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - its class says enough
        return ""

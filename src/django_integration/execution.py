"""Executing a task that was delivered: gather the facts, ask the core, do what it says."""

from __future__ import annotations

import logging
import os
import socket
import sys
from asyncio import CancelledError
from importlib import import_module
from typing import TYPE_CHECKING, Any

import attrs
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, UnreadablePostError
from django.tasks import task_backends
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
from .results import announce, announce_async, mark_failed, mark_successful, running_result
from .signing import PayloadSignatures

if TYPE_CHECKING:
    from django.tasks.base import TaskResult

logger = logging.getLogger("django_tasks_cloud_tasks")

_SIGNATURES = PayloadSignatures()
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


def read_body(request: HttpRequest) -> bytes | None:
    """The body; None if it is larger than the site takes, or broke off."""
    try:
        return request.body
    except (RequestDataTooBig, UnreadablePostError):
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


def judge(door: Door, request: HttpRequest, body: bytes | None) -> Decision:
    """The core's decision on the request, for one backend."""
    proof = Proof(
        body=body or b"",
        authorization=request.META.get("HTTP_AUTHORIZATION"),
        signature=request.META.get(_SIGNATURE_KEY),
    )
    return authorize(
        door.policy, proof, tokens=door.backend.configuration.tokens, signatures=_SIGNATURES
    )


def admit(
    request: HttpRequest, body: bytes | None, judged: list[tuple[Door, Decision]]
) -> TaskPayload | Outcome:
    """The payload, if the caller may have it executed by the backend that it names."""
    open_doors = {door.backend.alias for door, decision in judged if decision.granted}
    if not open_doors:
        return _refusal(request, [decision for _, decision in judged])
    _tell_of_debug([decision for _, decision in judged])
    if body is None:
        return BadPayload(("the body is larger than DATA_UPLOAD_MAX_MEMORY_SIZE, or broke off",))
    try:
        payload = TaskPayload.decode(body)
    except InvalidPayloadError as error:
        return BadPayload(error.faults)
    if payload.backend in open_doors:
        return payload
    if any(door.backend.alias == payload.backend for door, _ in judged):
        return _refusal(request, [d for door, d in judged if door.backend.alias == payload.backend])
    return UnknownTask(
        payload.task_id, f"TASKS has no Cloud Tasks backend called {payload.backend!r}."
    )


def _refusal(request: HttpRequest, decisions: list[Decision]) -> Outcome:
    logger.warning(
        "Refused to execute a task for %s: %s.",
        request.META.get("REMOTE_ADDR"),
        "; ".join(dict.fromkeys(decision.reason for decision in decisions))
        or "TASKS has no Cloud Tasks backend",
    )
    if any(decision.verdict is Verdict.FORBIDDEN for decision in decisions):
        return Forbidden()
    return Unauthenticated()


_told_of_debug = False


def _tell_of_debug(decisions: list[Decision]) -> None:
    global _told_of_debug  # noqa: PLW0603 - said once a process
    if not _told_of_debug and any(d.verdict is Verdict.GRANTED_WITHOUT_PROOF for d in decisions):
        _told_of_debug = True
        logger.warning(
            "Executing tasks for callers without any proof, because DEBUG is on and "
            "AUTHENTICATION is 'auto'. (Said once.)"
        )


def is_loaded(task_path: str) -> bool:
    """Whether resolving the path will import nothing."""
    return task_path.rpartition(".")[0] in sys.modules


def resolve(payload: TaskPayload) -> Task[..., Any] | Outcome:
    """The task that the payload names, as it was enqueued. Imports its module."""
    path = payload.task_path
    module_path, _, name = path.rpartition(".")
    try:
        module = sys.modules.get(module_path) or import_module(module_path)
        task = getattr(module, name, None)
    except ImportError as error:
        return UnknownTask(payload.task_id, f"There is no task {path}: {error}.")
    except Exception as error:
        logger.exception("The module of the task %s could not be imported.", path)
        return UnknownTask(
            payload.task_id, f"The module of {path} raised {type(error).__name__} at its import."
        )
    if not isinstance(task, Task):
        return UnknownTask(
            payload.task_id,
            f"{path} is no task."
            if hasattr(module, name)
            else f"There is no task {path}: the module has no {name!r}.",
        )
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
            return UnknownTask(payload.task_id, f"{path} cannot be executed here: {error}")
    return task


@attrs.frozen
class Execution:
    """One attempt at a task: `run` or `arun` it once."""

    task: Task[..., Any]
    result: TaskResult[..., Any]
    backend: type[CloudTasksBackend]

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
        return cls(task, result, type(task.get_backend()))  # type: ignore[arg-type]  # `admit` saw to it

    @property
    def _arguments(self) -> list[Any]:
        context = [TaskContext(task_result=self.result)] if self.task.takes_context else []
        return [*context, *self.result.args]

    def run(self) -> Outcome:
        """Run the task in this thread."""
        announce(task_started, self.backend, self.result)
        try:
            value = self.task.call(*self._arguments, **self.result.kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its failure
            outcome = self._failed(error)
            # Inside the handler, where Django's receiver finds the traceback to log.
            announce(task_finished, self.backend, self.result)
            return outcome
        outcome = self._returned(value)
        announce(task_finished, self.backend, self.result)
        return outcome

    async def arun(self) -> Outcome:
        """Run the task: a coroutine on this loop, a function in a thread."""
        await announce_async(task_started, self.backend, self.result)
        try:
            value = await self.task.acall(*self._arguments, **self.result.kwargs)
        except (KeyboardInterrupt, CancelledError):
            # The server ends, or the caller is gone: there is nobody to answer, and Cloud Tasks
            # delivers the task again.
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its failure
            outcome = self._failed(error)
            await announce_async(task_finished, self.backend, self.result)
            return outcome
        outcome = self._returned(value)
        await announce_async(task_finished, self.backend, self.result)
        return outcome

    def _returned(self, value: object) -> Outcome:
        try:
            mark_successful(self.result, value)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"The return value cannot be kept as JSON: {error}"
            mark_failed(self.result, error)
            return Unserializable(self.result.id, reason)
        return Succeeded(self.result.id)

    def _failed(self, error: BaseException) -> Outcome:
        task_error = mark_failed(self.result, error)
        return Failed(self.result.id, _summary(error), task_error.traceback)


def _summary(error: BaseException) -> str:
    """`Class: message`, whatever the exception's own __str__ does."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ is the task's, and its class says enough
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__

"""The views that Cloud Tasks calls. A site can subclass them to run code around every task.

A site chooses the view with the URLs that it includes: `django_tasks_cloud_tasks.urls` for WSGI,
or `django_tasks_cloud_tasks.async_urls` for ASGI. The other choice works too: with ASGI Django runs
a synchronous view in a thread, and with WSGI it runs an asynchronous view in a new event loop.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import attrs
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.tasks.base import Task
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import View

from ...core.authorization import refusal_of, refusal_of_all
from ...core.deliveries import Delivery
from ...core.errors import InvalidPayloadError
from ...core.outcomes import BadPayload, Outcome, Succeeded, UnknownTask, WrongMethod, response_to
from ...core.payload import PROBE_TASK_PATH, TaskPayload
from ..installation import demand_app, is_installed
from .authentication import authenticate, read_body
from .execution import Execution, runs_on_loop, store_of, worker_id
from .flow import Flow, arun, run
from .probe import PROBE_KEY, Probe
from .task_loading import as_enqueued, load
from .threads import in_store_thread

logger = logging.getLogger("django_tasks_cloud_tasks")


class TaskView(View):
    """The base class of the views."""

    http_method_names = ["post"]  # noqa: RUF012 - Django's declaration

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., Any]:  # noqa: ANN401 - Django's signature
        """Return the view for a URL pattern that the site defines itself.

        Raises:
            ConfigurationError: the app is not installed.
        """
        demand_app()
        return cls.endpoint(**initkwargs)

    @classmethod
    def endpoint(cls, **initkwargs: Any) -> Callable[..., Any]:  # noqa: ANN401 - Django's signature
        """Return the view for the URLs of this package. A check reports if the app is missing.

        The view needs no CSRF token and no login, because its clients are not browsers. It does not
        use ATOMIC_REQUESTS: a task that fails causes a response and no exception, so Django would
        commit its work.
        """
        view = super().as_view(**initkwargs)
        view = login_not_required(view if is_installed() else _refusing(view))
        for database in settings.DATABASES:
            view = transaction.non_atomic_requests(using=database)(view)
        return csrf_exempt(view)

    def begin(self, task: Task[..., Any], payload: TaskPayload) -> Execution | Outcome:
        """Begin an attempt at a task. Return the attempt, or the outcome if it must not run now."""
        delivery = Delivery.from_environ(self.request.META)
        return Execution.begin(task, payload, delivery, worker_id())

    def respond(self, outcome: Outcome) -> HttpResponse:
        """Return the response for an outcome."""
        answer = response_to(outcome, debug=settings.DEBUG)
        response = HttpResponse(
            json.dumps(answer.document).encode(),
            content_type="application/json",
            status=answer.status,
            headers=dict(answer.headers),
        )
        # The reason is already in the log, from django.tasks or from this package. This mark stops
        # Django's request logger from logging it a second time.
        response._has_been_logged = True  # type: ignore[attr-defined]
        return response

    def http_method_not_allowed(self, *_: object, **__: object) -> HttpResponse:
        """Return the response to a request with another method than POST."""
        return self.respond(WrongMethod())


class ExecuteTaskView(TaskView):
    """The view of a WSGI site. It executes the task in the thread of the request."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Execute the task in the request, and return the response."""
        return self.respond(self.execute(request))

    def execute(self, request: HttpRequest) -> Outcome:
        """Execute the task in the request. Override this method to run code around every task."""
        received = run(receive(request))
        if not isinstance(received, Received):
            return received
        begun = self.begin(received.task, received.payload)
        return begun.run() if isinstance(begun, Execution) else begun


class AsyncExecuteTaskView(TaskView):
    """The view of an ASGI site.

    It executes coroutines on the event loop of the server, without a thread, and functions in a
    thread.
    """

    async def post(self, request: HttpRequest) -> HttpResponse:
        """Execute the task in the request, and return the response."""
        return self.respond(await self.execute(request))

    async def http_method_not_allowed(  # type: ignore[override]  # awaited, as the view is async
        self, *_: object, **__: object
    ) -> HttpResponse:
        """Return the response to a request with another method than POST."""
        return self.respond(WrongMethod())

    async def execute(self, request: HttpRequest) -> Outcome:
        """Execute the task in the request. Override this method to run code around every task."""
        received = await arun(receive(request))
        if not isinstance(received, Received):
            return received
        task, payload = received.task, received.payload
        store = store_of(task)
        if store is None:
            begun = self.begin(task, payload)
        elif runs_on_loop(task):
            begun = await in_store_thread(store, self.begin, task, payload)
        else:
            begun = await sync_to_async(self.begin)(task, payload)
        return await begun.arun() if isinstance(begun, Execution) else begun


@attrs.frozen
class Received:
    """A task that the caller has permission to run."""

    task: Task[..., Any]
    payload: TaskPayload


def receive(request: HttpRequest) -> Flow[Received | Outcome]:
    """Authenticate a request and load its task. Return the outcome if there is no task to run.

    The body is decoded and the task's module is imported only after the authentication.
    """
    body = read_body(request)
    probe = request.META.get(PROBE_KEY)
    if isinstance(probe, Probe):
        return probe.arrive(body)
    caller = yield from authenticate(request, body)
    if refusal := refusal_of_all(caller.decisions):
        return caller.refused(refusal)
    payload = _decoded(body)
    if isinstance(payload, BadPayload):
        return payload
    if refusal := refusal_of(caller.decisions, payload.backend):
        return caller.refused(refusal)
    if payload.backend not in caller.decisions:
        return _unknown_backend(payload)
    if payload.task_path == PROBE_TASK_PATH:
        return Succeeded(payload.task_id)  # `cloudtasks_doctor` sent it.
    task = yield from load(payload)
    if not isinstance(task, Task):
        return task
    if refusal := refusal_of({**caller.decisions, **caller.undecided}, task.backend):
        return caller.refused(refusal)
    task = as_enqueued(task, payload)
    return Received(task, payload) if isinstance(task, Task) else task


def _decoded(body: bytes | None) -> TaskPayload | BadPayload:
    if body is None:
        faults: tuple[str, ...] = ("the body is too large for the site, or incomplete",)
    else:
        try:
            return TaskPayload.decode(body)
        except InvalidPayloadError as error:
            faults = error.faults
    logger.warning("No task was executed: %s", "; ".join(faults))
    return BadPayload(faults)


def _unknown_backend(payload: TaskPayload) -> UnknownTask:
    reason = f"TASKS has no Cloud Tasks backend called {payload.backend!r}."
    logger.warning("No task was executed: %s", reason)
    return UnknownTask(payload.task_id, reason)


def _refusing(view: Callable[..., Any]) -> Callable[..., Any]:
    """Return a view that raises ConfigurationError, because the app is not installed.

    A synthetic delivery still reaches the original view, so that the checks find further faults.
    """

    @wraps(view)
    def refuse(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - a view's
        if isinstance(request.META.get(PROBE_KEY), Probe):
            return view(request, *args, **kwargs)
        demand_app()
        raise AssertionError("the app was installed after the URLconf was loaded")

    return refuse

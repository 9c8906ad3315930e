"""The endpoint that Cloud Tasks calls. Subclass a view to change what surrounds a task.

Django fixes whether a view is synchronous when the URLs load, so a site says which by what it
includes: `django_tasks_cloud_tasks.urls` on WSGI, `django_tasks_cloud_tasks.async_urls` on ASGI.
The other choice works too: Django runs a synchronous view in a thread under ASGI, and an
asynchronous one in a loop of its own under WSGI.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.tasks.base import Task
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import View

from ...core.deliveries import Delivery
from ...core.outcomes import Outcome, WrongMethod, decide
from ...core.payload import TaskPayload
from ..apps import demand_app
from ..enqueueing.backend import backends
from ..operating.probe import Probe
from .authentication import (
    admit,
    doors,
    is_loaded,
    judge,
    may_block,
    needs_request,
    read_body,
    relay,
    resolve,
)
from .execution import Execution, runs_on_loop, store_of, worker_id
from .threads import in_store_thread


class TaskView(View):
    """What both views share."""

    http_method_names = ["post"]  # noqa: RUF012 - Django's declaration

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., Any]:  # noqa: ANN401 - Django's signature
        """The view for a URL pattern.

        It answers to Cloud Tasks, not to browsers: no CSRF token, no login. And no transaction
        around it: a task that fails is answered, not raised, so ATOMIC_REQUESTS would commit it.
        """
        view = login_not_required(super().as_view(**initkwargs))
        for database in settings.DATABASES:
            view = transaction.non_atomic_requests(using=database)(view)
        return csrf_exempt(view)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Django's
        """Answer; a synthetic delivery has reached its end here."""
        demand_app()
        if probe := Probe.of(request.META):
            response = probe.arrive(read_body(request))
            return _awaitable(response) if self.view_is_async else response
        return super().dispatch(request, *args, **kwargs)

    def begin(self, task: Task[..., Any], payload: TaskPayload) -> Execution | Outcome:
        """The attempt at a task, or why it must not run now."""
        delivery = Delivery.from_environ(self.request.META)
        return Execution.begin(task, payload, delivery, worker_id())

    def respond(self, outcome: Outcome) -> HttpResponse:
        """The response that the core decides on."""
        answer = decide(outcome, debug=settings.DEBUG)
        response = HttpResponse(
            json.dumps(answer.document).encode(),
            content_type="application/json",
            status=answer.status,
            headers=dict(answer.headers),
        )
        # The reason is in the log already, from django.tasks or from here; without this mark
        # Django's request logger would tell it again.
        response._has_been_logged = True  # type: ignore[attr-defined]
        return response

    def http_method_not_allowed(self, *_: object, **__: object) -> HttpResponse:
        """Anything but a POST."""
        return self.respond(WrongMethod())


class ExecuteTaskView(TaskView):
    """Executes the task in the request's thread."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Authorize, decode, resolve, run, answer."""
        return self.respond(self.execute(request))

    def execute(self, request: HttpRequest) -> Outcome:
        """How the request ends. Override to put something around every task."""
        body = read_body(request)
        judgements = [judge(door, request, body) for door in doors(backends())]
        admitted = admit(request, body, judgements)
        if not isinstance(admitted, TaskPayload):
            return admitted
        task = resolve(request, admitted, judgements)
        if not isinstance(task, Task):
            return task
        begun = self.begin(task, admitted)
        return begun.run() if isinstance(begun, Execution) else begun


class AsyncExecuteTaskView(TaskView):
    """Executes coroutines on the server's loop, where they hold no thread, functions in one."""

    async def post(self, request: HttpRequest) -> HttpResponse:
        """Authorize, decode, resolve, run, answer."""
        return self.respond(await self.execute(request))

    async def http_method_not_allowed(  # type: ignore[override]  # awaited, as the view is async
        self, *_: object, **__: object
    ) -> HttpResponse:
        """Anything but a POST."""
        return self.respond(WrongMethod())

    async def execute(self, request: HttpRequest) -> Outcome:
        """How the request ends. Override to put something around every task."""
        body = read_body(request)
        candidates = backends()
        known = await _in_place_if(not may_block(candidates), doors, candidates)
        judgements = [
            await _in_place_if(not needs_request(door, request), judge, door, request, body)
            for door in known
        ]
        admitted = admit(request, body, judgements)
        if not isinstance(admitted, TaskPayload):
            return admitted
        in_place = is_loaded(admitted.task_path)
        task = await _in_place_if(in_place, resolve, request, admitted, judgements)
        if not isinstance(task, Task):
            return task
        store = store_of(task)
        if store is None:
            begun = self.begin(task, admitted)
        elif runs_on_loop(task):
            begun = await in_store_thread(store, self.begin, task, admitted)
        else:
            begun = await sync_to_async(self.begin)(task, admitted)
        return await begun.arun() if isinstance(begun, Execution) else begun


class RelayView(TaskView):
    """Sends what waits in the outbox; for Cloud Scheduler, authorized like an execution."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Authorize, relay, tell how many."""
        body = read_body(request)
        judgements = [judge(door, request, body) for door in doors(backends())]
        return self.respond(relay(request, judgements))


async def _awaitable(response: HttpResponse) -> HttpResponse:
    return response


async def _in_place_if[**P, R](
    quick: bool,  # noqa: FBT001 - read with the function's name
    call: Callable[P, R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Call what is quick on the loop, and in a thread what would hold it up."""
    if quick:
        return call(*args, **kwargs)
    return await sync_to_async(call, thread_sensitive=False)(*args, **kwargs)

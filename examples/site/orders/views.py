"""A page with a button for each kind of task, and a live table of what became of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.tasks import TaskResult, TaskResultStatus
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST
from django_tasks_cloud_tasks import StoredTask

from . import tasks
from .models import Order

KINDS = {
    "plain": "Plain: add up prices",
    "coroutine": "Coroutine: greet",
    "context": "With context: describe itself",
    "delayed": "Delayed: in three seconds",
    "urgent": "Urgent: in a queue of its own",
    "failing": "Failing twice, then succeeding",
    "policy": "Policy: three attempts, all fail",
    "retry": "Retry: again in an hour",
    "atomic": "Atomic: an order and its payment",
}


def enqueue_kind(kind: str) -> TaskResult[..., Any]:
    """Enqueue a task of that kind."""
    match kind:
        case "plain":
            return tasks.add_up.enqueue([1200, 350, 499])
        case "coroutine":
            return tasks.greet.enqueue("Ada")
        case "context":
            return tasks.describe.enqueue()
        case "delayed":
            later = timezone.now() + timedelta(seconds=3)
            return tasks.greet.using(run_after=later).enqueue("later Ada")
        case "urgent":
            return tasks.alert.enqueue("stock is low")
        case "failing":
            return tasks.charge.enqueue(order=1815)
        case "policy":
            return tasks.print_label.enqueue(order=1815)
        case "retry":
            return tasks.confirm.enqueue(order=1815)
        case "atomic":
            # The order and its task are in one transaction: both, or neither.
            with transaction.atomic():
                order = Order.objects.create(amount=2049)
                return tasks.pay.enqueue(order.pk)
    raise Http404(f"no kind {kind!r}")


@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """The page."""
    emulator = settings.TASKS["default"]["OPTIONS"]["EMULATOR_HOST"]
    context = {"kinds": KINDS.items(), "emulator": emulator}
    return render(request, "orders/index.html", context)


@require_POST
def enqueue(request: HttpRequest, kind: str) -> HttpResponse:
    """Enqueue, and back to the page; a script gets the id instead."""
    result = enqueue_kind(kind)
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse({"task_id": result.id})
    return redirect("index")


@require_GET
def runs(_: HttpRequest) -> JsonResponse:
    """What became of the latest tasks, for the table: the store knows."""
    return JsonResponse(
        {"runs": [row_of(stored.result) for stored in StoredTask.objects.all()[:50]]}
    )


def row_of(result: TaskResult[..., Any]) -> dict[str, Any]:
    """A row of the table."""
    return {
        "task_id": result.id,
        "name": result.task.name,
        "arguments": [*result.args, *result.kwargs.values()],
        "status": result.status,
        "attempts": result.attempts,
        "outcome": outcome(result),
    }


def outcome(result: TaskResult[..., Any]) -> str:
    """What a task returned, or the last line of what it raised."""
    if result.status == TaskResultStatus.SUCCESSFUL:
        return str(result.return_value)
    if result.errors:
        return result.errors[-1].traceback.strip().rpartition("\n")[2]
    return ""

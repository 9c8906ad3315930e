"""Recorded tasks in Django's admin: to look at, and to take hold of.

Quick at a million rows: filters and order follow the table's indexes, nothing counts further than
a person reads, and what a row shows is in the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.tasks.exceptions import InvalidTaskBackend
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ..core.errors import CloudTasksError
from ..core.lifecycle import CancelOutcome
from ..core.names import is_task_id
from ..core.ports import ResultStore
from ..core.records import (
    CANCELLED_TEXT,
    FINAL_STATES,
    TASK_CANCELLED,
    TASK_LOST,
    Attempt,
    AttemptError,
)
from .configuration import Configuration
from .display import moment, shown
from .failure_pages import FailurePages
from .models import Status, StoredTask
from .operating.control import cancel_recorded, run_again, run_now
from .operating.replaying import REASONS
from .registry import recording_backends, results_database
from .results.columns import decode_attempts

_MOST_COUNTED = 10_000
_MOST_ACTED_ON = 1000
_MOST_KINDS = 200  # values that a filter offers
_SHORTEST_PREFIX = 6  # characters of an id
_BIG_COLUMNS = (
    *("args_json", "kwargs_json", "attempts_json", "tracebacks_json"),
    *("return_value_json", "relay_error"),
)
_FROM_DETAIL = "_from_detail"
_FINAL = {state.value for state in FINAL_STATES}


class ShortCount(Paginator):  # type: ignore[type-arg]  # generic in the stubs only
    """Counts to ten thousand and not further: what lies beyond is found by a filter."""

    @cached_property
    def count(self) -> int:
        """How many there are, or one more than ten thousand."""
        rows: QuerySet[StoredTask] = self.object_list  # type: ignore[assignment]  # the admin's
        return rows.order_by().values("pk")[: _MOST_COUNTED + 1].count()


class KindsFilter(admin.SimpleListFilter):
    """A filter by the values that a column has, without reading the whole column for them."""

    column: str

    def lookups(
        self,
        request: HttpRequest,  # noqa: ARG002 - Django's signature
        model_admin: admin.ModelAdmin[Any],  # noqa: ARG002 - likewise
    ) -> Iterable[tuple[str, str]]:
        """The values there are."""
        return [(kind, kind) for kind in _kinds(self.column)]

    def queryset(
        self,
        request: HttpRequest,  # noqa: ARG002 - Django's signature
        queryset: QuerySet[StoredTask],
    ) -> QuerySet[StoredTask]:
        """Those with the chosen value."""
        value = self.value()
        return queryset.filter(**{self.column: value}) if value else queryset


class QueueFilter(KindsFilter):
    """By queue."""

    title = "queue"
    parameter_name = column = "queue_name"


class TaskFilter(KindsFilter):
    """By task."""

    title = "task"
    parameter_name = column = "task_path"


def _kinds(column: str) -> list[str]:
    """The different values of an indexed column, from one seek in its index for each."""
    connection = connections[results_database()]
    quote = connection.ops.quote_name
    table, name = quote(StoredTask._meta.db_table), quote(column)
    with connection.cursor() as cursor:
        # Two names of our own, quoted; no value goes into the statement.
        cursor.execute(
            f"WITH RECURSIVE kinds(kind) AS ("  # noqa: S608
            f" SELECT MIN({name}) FROM {table}"
            f" UNION ALL"
            f" SELECT (SELECT MIN({name}) FROM {table} WHERE {name} > kinds.kind)"
            f" FROM kinds WHERE kinds.kind IS NOT NULL"
            f") SELECT kind FROM kinds WHERE kind IS NOT NULL LIMIT {_MOST_KINDS}"
        )
        return [kind for (kind,) in cursor.fetchall()]


_FIELDSETS: list[tuple[str | None, dict[str, list[str]]]] = [
    (None, {"fields": ["task_id", "task_path", "status", "arguments", "return_value"]}),
    ("Where", {"fields": ["queue_name", "backend", "priority"]}),
    (
        "When",
        {
            "fields": [
                *("enqueued_at", "due_at", "next_attempt", "finished_at"),
                *("lease_ends", "cancel_requested"),
            ]
        },
    ),
    ("Attempts", {"fields": ["attempts", "errors"]}),
    ("Replays", {"fields": ["repeated_task", "latest_replay"]}),
    ("Relay", {"fields": ["relay_looks", "relay_failures", "relay_error"]}),
]


@admin.register(StoredTask)
class StoredTaskAdmin(FailurePages):
    """Recorded tasks: read only, but for three actions."""

    list_display = (
        "task_id",
        "task_path",
        "queue_name",
        "status",
        "attempt_count",
        *("enqueued_at", "finished_at"),
    )
    list_filter = ("status", QueueFilter, TaskFilter, "enqueued_at")
    search_fields = ("task_id", "args_json", "kwargs_json")
    search_help_text = "An id, its beginning, or a part of the arguments"
    sortable_by = ("enqueued_at",)
    ordering = ("-enqueued_at",)
    list_per_page = 50
    paginator = ShortCount
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions = ("run_now", "cancel", "run_again")
    fieldsets = _FIELDSETS  # type: ignore[assignment]  # the stubs: a narrower dict
    readonly_fields = tuple(name for _, part in _FIELDSETS for name in part["fields"])

    # Reading.

    def get_queryset(self, request: HttpRequest) -> QuerySet[StoredTask]:
        """The rows, of the database that the backends record in."""
        rows = super().get_queryset(request).using(results_database())
        match = request.resolver_match
        in_list = match is not None and match.url_name == self._url_name("changelist")
        return rows.defer(*_BIG_COLUMNS) if in_list else rows

    def get_search_results(
        self,
        request: HttpRequest,  # noqa: ARG002 - Django's signature
        queryset: QuerySet[StoredTask],
        search_term: str,
    ) -> tuple[QuerySet[StoredTask], bool]:
        """By id, or the beginning of one, where there is such an id; else by arguments."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if len(term) >= _SHORTEST_PREFIX and is_task_id(term):
            for by_id in (queryset.filter(pk=term), queryset.filter(pk__startswith=term)):
                if by_id.exists():
                    return by_id, False
        # Arguments are kept as JSON, where many a letter is written with an escape.
        part = json.dumps(term)[1:-1]
        found = Q(args_json__icontains=part) | Q(kwargs_json__icontains=part)
        # Few letters begin many an id, and are as likely to be meant for the arguments.
        return queryset.filter(found | Q(pk__startswith=term) if is_task_id(term) else found), False

    @admin.display(description="arguments")
    def arguments(self, row: StoredTask) -> SafeString:
        """Positional and keyword arguments as JSON, for people."""
        return format_html("{}{}", _json(row.args_json), _json(row.kwargs_json))

    @admin.display(description="return value")
    def return_value(self, row: StoredTask) -> SafeString | str:
        """As JSON, for people; of a task that has not returned there is none."""
        return _json(row.return_value_json) if row.status == Status.SUCCESSFUL else "-"

    @admin.display(description="due at")
    def due_at(self, row: StoredTask) -> str:
        """When it was to run, if not at once."""
        return moment(row.run_after)

    @admin.display(description="next attempt due at")
    def next_attempt(self, row: StoredTask) -> str:
        """When the task asked to be attempted again, or its backoff function did."""
        return "-" if row.finished_at else moment(row.redelivery_at)

    @admin.display(description="lease ends")
    def lease_ends(self, row: StoredTask) -> str:
        """Until when its runner has the task."""
        return moment(row.claim_expires_at)

    @admin.display(description="next look of the relay")
    def relay_looks(self, row: StoredTask) -> str:
        """When the relay looks at it."""
        return moment(row.relay_at)

    @admin.display(description="attempts")
    def attempts(self, row: StoredTask) -> SafeString:
        """A table: number, worker, start, end, the class of the error, and a remark."""
        attempts = _attempts(row)
        if attempts is None:
            return _json(row.attempts_json)
        lines = (
            (
                number,
                shown(attempt.worker),
                moment(attempt.started_at),
                moment(attempt.finished_at),
                shown(attempt.error.exception_class_path) if attempt.error else "-",
                shown(attempt.note),
            )
            for number, attempt in enumerate(attempts, 1)
        )
        names = ("#", "worker", "start", "end", "error", "remark")
        cells = f"<tr>{'<td>{}</td>' * len(names)}</tr>"
        head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
        return format_html("<table>" + head + "{}</table>", format_html_join("", cells, lines))

    @admin.display(description="errors")
    def errors(self, row: StoredTask) -> SafeString:
        """Class and traceback of each."""
        attempts = _attempts(row)
        if attempts is None:
            return _json(row.attempts_json)
        errors = [attempt.error for attempt in attempts if attempt.error]
        if row.status == Status.CANCELLED:
            errors.append(AttemptError(TASK_CANCELLED, CANCELLED_TEXT))
        elif row.lost:
            errors.append(AttemptError(TASK_LOST, row.lost))
        return format_html_join(
            "",
            "<details open><summary>{}</summary><pre>{}</pre></details>",
            ((shown(error.exception_class_path), shown(error.traceback)) for error in errors),
        )

    @admin.display(description="replay of")
    def repeated_task(self, row: StoredTask) -> SafeString | str:
        """The task that this one repeats."""
        return self._link(row.replay_of)

    @admin.display(description="replayed as")
    def latest_replay(self, row: StoredTask) -> SafeString | str:
        """The latest task that repeats this one."""
        return self._link(row.replayed_as)

    def _link(self, task_id: str) -> SafeString | str:
        """The page of a task, where it has a record."""
        if not task_id:
            return "-"
        if not StoredTask.objects.using(results_database()).filter(pk=task_id).exists():
            return f"{task_id}, which has no record any more"
        return format_html('<a href="{}">{}</a>', self._url("change", quote(task_id)), task_id)

    # Nothing is written but by the actions and the pages of failures.

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's signature
        """Tasks are enqueued by code."""
        return False

    def has_delete_permission(
        self,
        request: HttpRequest,  # noqa: ARG002 - Django's signature
        obj: StoredTask | None = None,  # noqa: ARG002 - likewise
    ) -> bool:
        """A record that waits is a promise; old ones are pruned by the command."""
        return False

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of a task, with its actions and nothing to save."""
        if request.method == "POST":
            # There is nothing to save, and a row as it was a moment ago must not be written.
            raise PermissionDenied
        own = {
            "show_save": False,
            "show_save_and_continue": False,
            "task_actions": self._offered(request, object_id),
            "from_detail": _FROM_DETAIL,
        }
        return super().change_view(request, object_id, form_url, {**own, **(extra_context or {})})

    def _offered(self, request: HttpRequest, object_id: str) -> list[tuple[str, str]]:
        row = self.get_object(request, object_id)
        if row is None or not self.has_change_permission(request, row):
            return []
        offered = [("run_again", "Run again")]
        if row.status not in _FINAL:
            offered += [("run_now", "Run now"), ("cancel", "Cancel")]
        return offered

    # Actions.

    @admin.action(description="Run now", permissions=["change"])
    def run_now(self, request: HttpRequest, rows: QuerySet[StoredTask]) -> HttpResponse | None:
        """Have waiting tasks delivered at once."""

        def act(row: StoredTask) -> str:
            return "Sent to run now" if run_now(*_recording(row), row.record) else ""

        return self._act(request, rows, act, "was not waiting")

    @admin.action(description="Cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, rows: QuerySet[StoredTask]) -> HttpResponse | None:
        """Cancel tasks that wait, and tell those that run."""

        def act(row: StoredTask) -> str:
            outcome, _ = cancel_recorded(*_recording(row), row.pk)
            words = {
                CancelOutcome.CANCELLED: "Cancelled",
                CancelOutcome.REQUESTED: "Asked to stop",
                CancelOutcome.TOO_LATE: "",
            }
            return words[outcome]

        return self._act(request, rows, act, "had ended")

    @admin.action(description="Run again, as a new task", permissions=["change"])
    def run_again(self, request: HttpRequest, rows: QuerySet[StoredTask]) -> HttpResponse | None:
        """Enqueue the same once more, under a new id."""

        def act(row: StoredTask) -> str:
            new = run_again(row.record)
            return f"Run again as {new}" if new else ""

        return self._act(request, rows, act, "was replayed or deleted at the same time")

    def _act(
        self,
        request: HttpRequest,
        rows: QuerySet[StoredTask],
        act: Callable[[StoredTask], str],
        otherwise: str,
    ) -> HttpResponse | None:
        """Do it to each row; tell the person, and the history, what came of it.

        Args:
            act: does it, and says what was done; nothing if there was nothing to do.
            otherwise: why there was nothing to do.
        """
        done: list[str] = []
        # Chosen before anything is done: what is run again would be among them, again.
        keys = list(rows.values_list("pk", flat=True)[: _MOST_ACTED_ON + 1])
        if len(keys) > _MOST_ACTED_ON:
            told = f"Choose at most {_MOST_ACTED_ON:,} tasks. Nothing was done."
            self.message_user(request, told, messages.ERROR)
            return None
        for row in (found for key in keys for found in rows.defer(None).filter(pk=key)):
            try:
                said = act(row)
            except REASONS as error:
                # A word first: Django begins a message with a capital letter, and ids have none.
                self.message_user(request, f"Task {row.pk}: {error}", messages.ERROR)
                if isinstance(error, CloudTasksError) and error.unanswered:
                    # Each of the others would wait as long.
                    left = len(keys) - keys.index(row.pk) - 1
                    if left:
                        told = (
                            f"Stopped: Cloud Tasks does not answer. Tasks left unchanged: {left:,}."
                        )
                        self.message_user(request, told, messages.WARNING)
                    break
                continue
            if said:
                done.append(said)
                self.log_change(request, row, said)
            else:
                self.message_user(request, f"Task {row.pk} {otherwise}.", messages.WARNING)
        if done:
            told = f"{done[0]}." if len(done) == 1 else f"Done for {len(done)} tasks."
            self.message_user(request, told, messages.SUCCESS)
        if _FROM_DETAIL in request.POST and keys:
            return redirect(self._url("change", quote(keys[0])))
        return None


def _recording(row: StoredTask) -> tuple[Configuration, ResultStore]:
    """The configuration that a task was enqueued by, and its store.

    Raises:
        InvalidTaskBackend: there is no such backend any more, or it keeps no results.
    """
    configuration = recording_backends().get(row.backend)
    if configuration is None or configuration.results is None:
        raise InvalidTaskBackend(f"There is no backend {row.backend!r} that keeps results.")
    return configuration, configuration.results


def _json(text: str) -> SafeString:
    """JSON for people; what is damaged is shown as it is."""
    try:
        told = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        return format_html("<p>This is not JSON: {}</p><pre>{}</pre>", str(error), shown(text))
    return format_html("<pre>{}</pre>", shown(told))


def _attempts(row: StoredTask) -> tuple[Attempt, ...] | None:
    """The attempts; None if they cannot be read."""
    try:
        return decode_attempts(row.attempts_json, row.tracebacks_json)
    except Exception:  # noqa: BLE001 - a damaged record is shown as it is
        return None

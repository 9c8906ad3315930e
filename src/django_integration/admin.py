"""The admin of recorded tasks: pages that show the tasks, and actions on them.

The pages are fast with a million rows. The filters and the order use the indexes of the table, the
number of counted rows is limited, and each row contains all the values that the list shows.
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
    """A paginator that counts at most ten thousand rows. Filters find the rows after these."""

    @cached_property
    def count(self) -> int:
        """The number of rows; 10,001 if there are more."""
        rows: QuerySet[StoredTask] = self.object_list  # type: ignore[assignment]  # the admin's
        return rows.order_by().values("pk")[: _MOST_COUNTED + 1].count()


class KindsFilter(admin.SimpleListFilter):
    """A filter by the values of a column. It does not read the whole column to find them."""

    column: str

    def lookups(
        self,
        request: HttpRequest,  # noqa: ARG002 - Django's signature
        model_admin: admin.ModelAdmin[Any],  # noqa: ARG002 - likewise
    ) -> Iterable[tuple[str, str]]:
        """Return the values in the column."""
        return [(kind, kind) for kind in _kinds(self.column)]

    def queryset(
        self,
        request: HttpRequest,  # noqa: ARG002 - Django's signature
        queryset: QuerySet[StoredTask],
    ) -> QuerySet[StoredTask]:
        """Return the rows with the chosen value."""
        value = self.value()
        return queryset.filter(**{self.column: value}) if value else queryset


class QueueFilter(KindsFilter):
    """A filter by queue."""

    title = "queue"
    parameter_name = column = "queue_name"


class TaskFilter(KindsFilter):
    """A filter by task."""

    title = "task"
    parameter_name = column = "task_path"


def _kinds(column: str) -> list[str]:
    """Return the distinct values of an indexed column. Each value takes one seek in the index."""
    connection = connections[results_database()]
    quote = connection.ops.quote_name
    table, name = quote(StoredTask._meta.db_table), quote(column)
    with connection.cursor() as cursor:
        # The statement contains two quoted names of this package, and no other values.
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
                *("enqueued_at", "tick", "due_at", "next_attempt", "finished_at"),
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
    """The admin of recorded tasks. It is read-only, except for the actions."""

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
        """Return the rows in the database of the backends. The list leaves out large columns."""
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
        """Return the rows whose id is or begins with the term; without any, search the arguments.

        A short term that can be the beginning of an id searches the ids and the arguments.

        Returns:
            The rows, and whether they can contain duplicates (never).
        """
        term = search_term.strip()
        if not term:
            return queryset, False
        if len(term) >= _SHORTEST_PREFIX and is_task_id(term):
            for by_id in (queryset.filter(pk=term), queryset.filter(pk__startswith=term)):
                if by_id.exists():
                    return by_id, False
        # The arguments are stored as JSON, which escapes many characters.
        part = json.dumps(term)[1:-1]
        found = Q(args_json__icontains=part) | Q(kwargs_json__icontains=part)
        # A short term is the beginning of many ids, but it can also be a part of the arguments.
        return queryset.filter(found | Q(pk__startswith=term) if is_task_id(term) else found), False

    @admin.display(description="arguments")
    def arguments(self, row: StoredTask) -> SafeString:
        """Return the positional and the keyword arguments as indented JSON."""
        return format_html("{}{}", _json(row.args_json), _json(row.kwargs_json))

    @admin.display(description="return value")
    def return_value(self, row: StoredTask) -> SafeString | str:
        """Return the return value as indented JSON; "-" if the task has not returned."""
        return _json(row.return_value_json) if row.status == Status.SUCCESSFUL else "-"

    @admin.display(description="due at")
    def due_at(self, row: StoredTask) -> str:
        """Return when the task was due; "-" if it was due at once."""
        return moment(row.run_after)

    @admin.display(description="scheduled for")
    def tick(self, row: StoredTask) -> str:
        """Return the tick and the name of the schedule that enqueued the task."""
        return f"{moment(row.scheduled_for)} ({shown(row.schedule)})" if row.schedule else "-"

    @admin.display(description="next attempt due at")
    def next_attempt(self, row: StoredTask) -> str:
        """Return when the next attempt is due, if the endpoint and not the queue repeats the task.

        For example, a task sets this time with `Retry`, and so does a backoff function.
        """
        return "-" if row.finished_at else moment(row.redelivery_at)

    @admin.display(description="lease ends")
    def lease_ends(self, row: StoredTask) -> str:
        """Return when the lease of the worker ends."""
        return moment(row.claim_expires_at)

    @admin.display(description="next look of the relay")
    def relay_looks(self, row: StoredTask) -> str:
        """Return when the relay looks at the task next."""
        return moment(row.relay_at)

    @admin.display(description="attempts")
    def attempts(self, row: StoredTask) -> SafeString:
        """Return a table of the attempts: number, worker, start, end, class of error, remark."""
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
        """Return the class and the traceback of each error."""
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
        """Return a link to the task that this one repeats; "-" without one."""
        return self._link(row.replay_of)

    @admin.display(description="replayed as")
    def latest_replay(self, row: StoredTask) -> SafeString | str:
        """Return a link to the latest task that repeats this one; "-" without one."""
        return self._link(row.replayed_as)

    def _link(self, task_id: str) -> SafeString | str:
        """Return a link to the page of a task; a text if the task has no record any more."""
        if not task_id:
            return "-"
        if not StoredTask.objects.using(results_database()).filter(pk=task_id).exists():
            return f"{task_id}, which has no record any more"
        return format_html('<a href="{}">{}</a>', self._url("change", quote(task_id)), task_id)

    # Only the actions and the pages of failures write to the database.

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's signature
        """Return False, because only code enqueues tasks."""
        return False

    def has_delete_permission(
        self,
        request: HttpRequest,  # noqa: ARG002 - Django's signature
        obj: StoredTask | None = None,  # noqa: ARG002 - likewise
    ) -> bool:
        """Return False.

        The record of a waiting task is needed to run the task. A command deletes old records.
        """
        return False

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Return the page of a task, with its actions and without buttons to save.

        Raises:
            PermissionDenied: the request would save the task.
        """
        if request.method == "POST":
            # The page has no fields to edit. Saving would write the row back as it was when it was
            # read, and undo a change by another process.
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
        """Deliver waiting tasks at once."""

        def act(row: StoredTask) -> str:
            return "Sent to run now" if run_now(*_recording(row), row.record) else ""

        return self._act(request, rows, act, "was not waiting")

    @admin.action(description="Cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, rows: QuerySet[StoredTask]) -> HttpResponse | None:
        """Cancel waiting tasks, and ask running tasks to stop."""

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
        """Enqueue the tasks again, as new tasks with new ids."""

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
        """Apply an action to each row. Show the results as messages, and add them to the history.

        Args:
            act: applies the action to a row, and returns a text about what was done; an empty text
                if there was nothing to do.
            otherwise: the text for a row for which there was nothing to do.

        Returns:
            A redirect to the page of the task, if the action was started there; else None.
        """
        done: list[str] = []
        # The keys are read before the action. It can create tasks, which the query would include.
        keys = list(rows.values_list("pk", flat=True)[: _MOST_ACTED_ON + 1])
        if len(keys) > _MOST_ACTED_ON:
            told = f"Choose at most {_MOST_ACTED_ON:,} tasks. Nothing was done."
            self.message_user(request, told, messages.ERROR)
            return None
        for row in (found for key in keys for found in rows.defer(None).filter(pk=key)):
            try:
                said = act(row)
            except REASONS as error:
                # The message does not begin with the id, because Django capitalizes its first
                # letter.
                self.message_user(request, f"Task {row.pk}: {error}", messages.ERROR)
                if isinstance(error, CloudTasksError) and error.unanswered:
                    # The call for each of the other tasks would wait as long.
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
    """Return the configuration of the backend of a task, and its result store.

    Raises:
        InvalidTaskBackend: the site does not have this backend any more, or it keeps no results.
    """
    configuration = recording_backends().get(row.backend)
    if configuration is None or configuration.results is None:
        raise InvalidTaskBackend(f"There is no backend {row.backend!r} that keeps results.")
    return configuration, configuration.results


def _json(text: str) -> SafeString:
    """Return indented JSON. A damaged text is returned as it is."""
    try:
        told = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        return format_html("<p>This is not JSON: {}</p><pre>{}</pre>", str(error), shown(text))
    return format_html("<pre>{}</pre>", shown(told))


def _attempts(row: StoredTask) -> tuple[Attempt, ...] | None:
    """Return the attempts of a row; None if they cannot be read."""
    try:
        return decode_attempts(row.attempts_json, row.tracebacks_json)
    except Exception:  # noqa: BLE001 - a damaged record is shown as it is
        return None

"""The admin's page of final failures, which can be replayed or deleted in groups.

An action applies only to failures up to the last one that the page showed. If there are more of
them than the page showed, nothing is done. So a person cannot replay or delete a failure that the
page did not show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlencode

import attrs
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.admin.utils import quote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_http_methods, require_safe

from ..core.failures import FailedTask, FailureGroup, FailureSelection
from ..core.payload import is_in_calendar
from ..core.ports import ResultStore
from ..core.records import TASK_LOST, AttemptError
from .display import moment, shown, tasks
from .models import StoredTask
from .operating.replaying import Tally, replay_failures
from .registry import results_database
from .results.columns import decode_attempts
from .runtime import get_runtime
from .timezones import to_site

_GROUPS = 50  # groups on one page
_LAST_PAGE = 10_000
_MOST_REPLAYED = 1000  # tasks in one request
_DELETED_AT_ONCE = 1000
_LONGEST = 20.0  # seconds that a request may take
_TEMPLATES = "admin/django_tasks_cloud_tasks/storedtask/"


@attrs.frozen
class _Action:
    """An action on a group of failures.

    Attributes:
        name: the name of the action in URLs.
        verb: the verb for texts on the page, such as "Replay".
        done: the participle of the verb, such as "Replayed".
        explanation: a text for the page about the effects of the action.
    """

    name: str
    verb: str
    done: str
    explanation: str


_REPLAY = _Action(
    "replay",
    "Replay",
    "Replayed",
    "Each of these tasks is enqueued again as a new task with the same arguments, queue, priority "
    "and backend. The records of the failed tasks stay in the list of tasks.",
)
_DELETE = _Action(
    "delete",
    "Delete",
    "Deleted",
    "The records of these tasks are deleted, with their arguments and tracebacks. This cannot be "
    "undone.",
)


class FailurePages(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """The views below `failures/`. A base class for the admin of recorded tasks."""

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the failures, and after them the URLs of Django's admin."""
        views: dict[str, tuple[str, Callable[..., HttpResponse]]] = {
            "failures": ("failures/", self.failures_view),
            "failures_replay": ("failures/replay/", self.replay_view),
            "failures_delete": ("failures/delete/", self.delete_view_of_failures),
        }
        own = [
            path(route, self._wrapped(view), name=self._url_name(name))
            for name, (route, view) in views.items()
        ]
        return [*own, *super().get_urls()]

    def failures_view(self, request: HttpRequest) -> HttpResponse:
        """Return the page of groups, the group with the latest failure first.

        Raises:
            PermissionDenied: the person has no permission to view recorded tasks.
            BadRequest: the page number is not valid.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        number = _page_number(request.GET)
        offset = (number - 1) * _GROUPS
        groups = _store().failure_groups(limit=_GROUPS + 1, offset=offset)
        context = {
            "title": "Failures",
            "groups": [self._shown_group(group) for group in groups[:_GROUPS]],
            "may_replay": self.has_change_permission(request),
            "may_delete": self._may_delete(request),
            "newer": number - 1,
            "older": number + 1 if len(groups) > _GROUPS else 0,
        }
        return self._page(request, "failures.html", context)

    def replay_view(self, request: HttpRequest) -> HttpResponse:
        """Return the page that asks whether to replay a group; on POST, replay the group.

        Raises:
            PermissionDenied: the person has no permission to view and change recorded tasks.
            BadRequest: the request does not contain a valid selection.
        """
        if not (self.has_view_permission(request) and self.has_change_permission(request)):
            raise PermissionDenied
        return self._act_on_group(request, _REPLAY, self._replay)

    def delete_view_of_failures(self, request: HttpRequest) -> HttpResponse:
        """Return the page that asks whether to delete a group; on POST, delete the group.

        Raises:
            PermissionDenied: the person has no permission to view and delete recorded tasks.
            BadRequest: the request does not contain a valid selection.
        """
        if not (self.has_view_permission(request) and self._may_delete(request)):
            raise PermissionDenied
        return self._act_on_group(request, _DELETE, self._delete)

    # The parts of these views.

    def _wrapped(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """Return the view for people who are logged in to the admin.

        It does not use ATOMIC_REQUESTS, because each replay is its own transaction.
        """
        wrapped: Callable[..., HttpResponse] = self.admin_site.admin_view(view)
        methods = require_safe if view == self.failures_view else require_http_methods(_METHODS)
        wrapped = methods(wrapped)
        for alias in connections:
            wrapped = transaction.non_atomic_requests(using=alias)(wrapped)
        return wrapped

    def _url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def _url(self, page: str, *args: str) -> str:
        return reverse(f"{self.admin_site.name}:{self._url_name(page)}", args=args)

    def _page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
        request.current_app = self.admin_site.name
        own = {**self.admin_site.each_context(request), "opts": self.opts}
        own["failures_url"] = self._url("failures")
        return TemplateResponse(request, _TEMPLATES + template, {**own, **context})

    def _may_delete(self, request: HttpRequest) -> bool:
        """Return whether the person has Django's permission to delete recorded tasks.

        `has_delete_permission` of the subclass is always False, so that single records have no
        delete button.
        """
        return super().has_delete_permission(request)

    def _shown_group(self, group: FailureGroup) -> dict[str, object]:
        sample = _sample(group)
        query = _query(
            FailureSelection(task_path=group.task_path, failure=group.failure, until=group.last)
        )
        return {
            "task_path": shown(group.task_path),
            "failure": shown(group.failure),
            "count": f"{group.count:,}",
            "first": moment(group.first),
            "last": moment(group.last),
            "sample_id": sample.pk if sample else "",
            "sample_url": self._url("change", quote(sample.pk)) if sample else "",
            "traceback": shown(_final_error(sample).traceback) if sample else "",
            "replay_url": f"{self._url('failures_replay')}?{query}",
            "delete_url": f"{self._url('failures_delete')}?{query}",
        }

    def _act_on_group(
        self,
        request: HttpRequest,
        action: _Action,
        act: Callable[[HttpRequest, FailureSelection], FailedTask | None],
    ) -> HttpResponse:
        """Return the page that asks; on POST, execute the action and return a redirect.

        The redirect leads to the page that asks if tasks are left, and to the groups otherwise.

        Args:
            act: executes the action for as many tasks as one request may handle, and shows
                messages. It returns the task after which the rest of the selection begins; None if
                the selection does not change.
        """
        sent = request.POST if request.method == "POST" else request.GET
        selection = _selection(sent)
        count = _store().count_failures(selection)
        if request.method == "POST" and count:
            seen = _whole(sent.get("count", ""))
            if count > seen:
                told = f"There are {tasks(count)} now, instead of {seen:,}. Nothing was done."
                self.message_user(request, told, messages.WARNING)
                return self._ask_again(action, selection)
            rest = attrs.evolve(selection, after=act(request, selection) or selection.after)
            if _store().count_failures(rest):
                return self._ask_again(action, rest)
            return redirect(self._url("failures"))
        if not count:
            told = f"No task is left to {action.verb.lower()}: others have handled them."
            self.message_user(request, told, messages.WARNING)
            return redirect(self._url("failures"))
        context = {
            "title": f"{action.verb} failures",
            "action": action,
            "task_path": shown(selection.task_path),
            "failure": shown(selection.failure),
            "until": moment(selection.until),
            "tasks": tasks(count),
            "fields": [*_parameters(selection).items(), ("count", str(count))],
            "most": f"{_MOST_REPLAYED:,}" if count > _MOST_REPLAYED else "",
            "goes_on": selection.after is not None,
        }
        return self._page(request, "failures_confirmation.html", context)

    def _ask_again(self, action: _Action, selection: FailureSelection) -> HttpResponseRedirect:
        return redirect(f"{self._url(f'failures_{action.name}')}?{_query(selection)}")

    def _replay(self, request: HttpRequest, selection: FailureSelection) -> FailedTask | None:
        tally, until = Tally(), time.monotonic() + _LONGEST
        for task, outcome in replay_failures(_store(), selection):
            tally.add(task, outcome)
            if tally.silent or tally.handled >= _MOST_REPLAYED or time.monotonic() > until:
                break
        _log(
            request,
            CHANGE,
            (
                (failed, f"{selection.task_path} {failed}", f"Replayed as {made}")
                for failed, made in tally.made.items()
            ),
        )
        left = _store().count_failures(attrs.evolve(selection, after=tally.last or selection.after))
        for level, told in _told(tally, left):
            self.message_user(request, told, level)
        return tally.last

    def _delete(self, request: HttpRequest, selection: FailureSelection) -> None:
        deleted, until = 0, time.monotonic() + _LONGEST
        while some := _store().delete_failures(selection, limit=_DELETED_AT_ONCE):
            deleted += some
            if time.monotonic() > until:
                break
        name = f"{selection.task_path} {selection.failure}"
        said = f"Deleted {tasks(deleted)} that failed until {selection.until}"
        _log(request, DELETION, [(None, name, said)])
        left = _store().count_failures(selection)
        rest = f" Left: {tasks(left)}." if left else ""
        self.message_user(request, f"Deleted {tasks(deleted)}.{rest}", messages.SUCCESS)


_METHODS = ["GET", "HEAD", "POST"]


def _store() -> ResultStore:
    return get_runtime().results(results_database())


def _told(tally: Tally, left: int) -> Iterator[tuple[int, str]]:
    """Yield the messages about the replay of a group: the level and the text of each.

    Args:
        left: the number of tasks that are left.
    """
    rest = f" Left: {tasks(left)}." if left and not tally.silent else ""
    if tally.made:
        yield messages.SUCCESS, f"Replayed {tasks(len(tally.made))}.{rest}"
    elif rest:
        yield messages.WARNING, f"Replayed no task.{rest}"
    if tally.left_out:
        told = f"Left out, because somebody else replayed or deleted them: {tasks(tally.left_out)}."
        yield messages.WARNING, told
    for fault in tally.failed.values():
        yield messages.ERROR, f"Could not replay {tasks(fault.count)}. {fault.example}"
    for fault in tally.waiting.values():
        yield messages.WARNING, f"Left to the relay: {tasks(fault.count)}. {fault.example}"
    if tally.silent:
        told = f"Stopped: Cloud Tasks does not answer. Tasks left unchanged: {left:,}."
        yield messages.WARNING, told


def _log(
    request: HttpRequest,
    flag: int,
    entries: Any,  # noqa: ANN401 - tuples of an id, a name and a text
) -> None:
    """Add entries to the history of the admin, with one statement."""
    kind = ContentType.objects.get_for_model(StoredTask)
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=cast("int", request.user.pk),
            content_type_id=kind.pk,
            object_id=key,
            object_repr=name[:200],
            action_flag=flag,
            change_message=said,
        )
        for key, name, said in entries
    )


# The latest failure of a group.


def _sample(group: FailureGroup) -> StoredTask | None:
    """Return the latest failure of a group, without its arguments; None if it is gone."""
    rows = StoredTask.objects.using(results_database()).filter(
        failure=group.failure,
        task_path=group.task_path,
        finished_at=to_site(group.last),
        replayed_as="",
    )
    small = rows.only("task_id", "attempts_json", "tracebacks_json", "lost").order_by()
    found: StoredTask | None = next(iter(small[:1]), None)
    return found


def _final_error(row: StoredTask) -> AttemptError:
    if row.lost:
        return AttemptError(TASK_LOST, row.lost)
    try:
        attempts = decode_attempts(row.attempts_json, row.tracebacks_json)
    except Exception as error:  # noqa: BLE001 - the page still shows a damaged record
        return AttemptError("", f"The traceback cannot be read: {type(error).__name__}: {error}")
    errors = [attempt.error for attempt in attempts if attempt.error]
    return errors[-1] if errors else AttemptError("", "The record has no traceback.")


# Selections in URLs and forms.


def _parameters(selection: FailureSelection) -> dict[str, str]:
    found = {"task": selection.task_path, "exception": selection.failure}
    if selection.until is not None:
        found["until"] = selection.until.isoformat()
    if selection.after is not None:
        found["after"] = selection.after.finished_at.isoformat()
        found["after_id"] = selection.after.task_id
    return found


def _query(selection: FailureSelection) -> str:
    return urlencode(_parameters(selection))


def _selection(sent: QueryDict) -> FailureSelection:
    """Return the selection in the parameters of a request.

    Raises:
        BadRequest: the request names no group, or contains a text that is not a time.
    """
    texts = {name: sent.get(name, "") for name in ("task", "exception", "after_id")}
    if not (texts["task"] and texts["exception"]) or "\0" in "".join(texts.values()):
        raise BadRequest("The address names no group of failures.")
    after = None
    if texts["after_id"]:
        after = FailedTask(_time(sent.get("after", "")), texts["after_id"])
    return FailureSelection(
        task_path=texts["task"],
        failure=texts["exception"],
        until=_time(sent.get("until", "")),
        after=after,
    )


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{text!r} is not a time.") from None
    if found.tzinfo is None:
        raise BadRequest(f"{text!r} has no time zone.")
    if not is_in_calendar(found):
        raise BadRequest(f"{text!r} is a time that some time zones cannot express.")
    return found


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - digits
        raise BadRequest(f"{text!r} is not a number of tasks.")
    return int(text)


def _page_number(sent: QueryDict) -> int:
    return min(max(_whole(sent.get("p", "1")), 1), _LAST_PAGE)

"""Tests of the admin's page of final failures: its contents, its actions and its permissions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_tasks_cloud_tasks import StoredTask
from django_tasks_cloud_tasks.core.errors import QueueNotFoundError
from django_tasks_cloud_tasks.core.records import State, TaskRecord
from django_tasks_cloud_tasks.django_integration import failure_pages
from django_tasks_cloud_tasks.django_integration.operating.control import run_again

from tests import recorded_tasks
from tests.integration.failures import DOES, VALUE_ERROR, failed_task, recording_once
from tests.integration.recording import Site, before_replacing
from tests.integration.test_admin import LIST, act, messages

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = f"{LIST}failures/"


@pytest.fixture
def site() -> Iterator[Site]:
    with recording_once("default") as made:
        yield made


def person(*permissions: str) -> Client:
    """Return a client of a logged-in user with these permissions on recorded tasks."""
    user = User.objects.create_user("-".join(permissions) or "nobody", is_staff=True)
    for name in permissions:
        user.user_permissions.add(Permission.objects.get(codename=f"{name}_storedtask"))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def chief() -> Client:
    return person("view", "change", "delete")


def text(client: Client, url: str = PAGE) -> str:
    response = client.get(url)
    assert response.status_code == 200, response
    return response.content.decode()


def rows(client: Client, query: str = "") -> list[tuple[str, str, str]]:
    """Return the task, the exception and the number of tasks of each group on the page."""
    cells = r'<th scope="row">(.*?)<br>(.*?)</th>\s*<td>(.*?)</td>'
    return re.findall(cells, text(client, PAGE + query))


def link(client: Client, action: str) -> str:
    """Return the URL of the confirmation page of the first group."""
    found = re.search(f'href="([^"]*/failures/{action}/[^"]*)"', text(client))
    assert found is not None
    return unescape(found[1])


def asked(page: str) -> str:
    """Return the question on a confirmation page."""
    (question,) = re.findall(r"<p>([A-Z]\w+ [\d,]+ tasks?[^<]*\?)</p>", page)
    return str(question)


def fields(page: str) -> dict[str, str]:
    """Return the hidden fields of the form on a confirmation page, by name."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {name: unescape(value) for name, value in found if name != "csrfmiddlewaretoken"}


def confirm(client: Client, action: str, page: str) -> Any:
    """Send the form of a confirmation page, and return the response after the redirects."""
    return client.post(f"{PAGE}{action}/", fields(page), follow=True)


def test_the_page_shows_groups_the_latest_first(site: Site, chief: Client) -> None:
    for name in "abc":
        failed_task(site, name)
    failed_task(site, "d", task=recorded_tasks.does_async)
    key = failed_task(site, "e", error=KeyError("<b>order</b>"))
    recorded_tasks.does.enqueue("f")
    assert rows(chief) == [
        (DOES, "builtins.KeyError", "1"),
        (f"{DOES}_async", VALUE_ERROR, "1"),
        (DOES, VALUE_ERROR, "3"),
    ]
    page = text(chief)
    assert "KeyError: &#x27;&lt;b&gt;order&lt;/b&gt;&#x27;" in page
    assert "<b>order" not in page
    assert f"{LIST}{key}/change/" in page
    assert "Nov. 22, 2026, 6 a.m." in page  # in the time zone of the site
    assert f'href="{PAGE}"' in text(chief, LIST)
    assert "<script" not in page.partition('id="content-main"')[2]


def test_the_sample_is_the_latest_failure(site: Site, chief: Client) -> None:
    failed_task(site, "a", error=ValueError("the first"))
    failed_task(site, "b", error=ValueError("the second"))
    page = text(chief)
    assert "the second" in page
    assert "the first" not in page


def test_an_empty_page_says_so(site: Site, chief: Client) -> None:
    assert "There are no failures." in text(chief)


def test_there_are_pages_of_groups(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_pages, "_GROUPS", 2)
    for error in (ValueError(), KeyError(), TypeError()):
        failed_task(site, error=error)
    assert [row[1] for row in rows(chief)] == ["builtins.TypeError", "builtins.KeyError"]
    assert '"?p=2"' in text(chief)
    assert [row[1] for row in rows(chief, "?p=2")] == [VALUE_ERROR]
    assert '"?p=1"' in text(chief, f"{PAGE}?p=2")
    assert '"?p=3"' not in text(chief, f"{PAGE}?p=2")
    assert rows(chief, "?p=9") == []
    assert chief.get(f"{PAGE}?p=x").status_code == 400


def test_a_group_is_replayed_after_a_question(site: Site, chief: Client) -> None:
    keys = [failed_task(site, name) for name in "ab"]
    other = failed_task(site, "c", error=KeyError())
    StoredTask.objects.filter(pk=other).update(finished_at=site.now - timedelta(days=1))
    page = text(chief, link(chief, "replay"))
    assert asked(page) == "Replay 2 tasks?"
    assert DOES in page
    assert VALUE_ERROR in page
    assert site.queue.requests == [], "not yet"
    response = confirm(chief, "replay", page)
    assert messages(response) == ["Replayed 2 tasks."]
    assert response.redirect_chain == [(PAGE, 302)]
    made = [site.record(key).replayed_as for key in keys]
    assert [r.task_id for r in site.queue.requests] == made
    assert [row[1] for row in rows(chief)] == ["builtins.KeyError"]
    log = LogEntry.objects.order_by("object_id").values_list("object_id", "change_message")
    assert dict(log) == {key: f"Replayed as {new}" for key, new in zip(keys, made, strict=True)}
    again = chief.post(f"{PAGE}replay/", fields(page), follow=True)
    assert messages(again) == ["No task is left to replay: others have handled them."]
    assert len(site.queue.requests) == 2


def test_a_group_is_deleted_after_a_question(site: Site, chief: Client) -> None:
    keys = [failed_task(site, name) for name in "ab"]
    kept = failed_task(site, "c", error=KeyError())
    StoredTask.objects.filter(pk=kept).update(finished_at=site.now - timedelta(days=1))
    page = text(chief, link(chief, "delete"))
    assert asked(page) == "Delete 2 tasks?"
    assert "cannot be undone" in page
    response = confirm(chief, "delete", page)
    assert messages(response) == ["Deleted 2 tasks."]
    assert [site.store.get(key) for key in keys] == [None, None]
    assert site.record(kept).state is State.FAILED
    (entry,) = LogEntry.objects.all()
    assert entry.change_message.startswith("Deleted 2 tasks that failed until 2026-11-22 12:00:01")
    assert (entry.object_repr, entry.is_deletion()) == (f"{DOES} {VALUE_ERROR}", True)
    assert LIST.strip("/") in str(chief.get("/admin/").content)


@pytest.mark.parametrize("action", ["replay", "delete"])
def test_a_failure_that_comes_in_between_is_left_alone(
    site: Site, chief: Client, action: str
) -> None:
    seen = failed_task(site, "a")
    address = link(chief, action)
    between = failed_task(site, "b")
    page = text(chief, address)
    assert asked(page) == f"{action.capitalize()} 1 task?"
    later = failed_task(site, "c")
    confirm(chief, action, page)
    for key in (between, later):
        assert site.record(key).replayed_as == ""
    kept = site.store.get(seen)
    assert kept is None or kept.replayed_as


@pytest.mark.parametrize("action", ["replay", "delete"])
def test_a_failure_that_is_written_late_is_asked_about(
    site: Site, chief: Client, action: str
) -> None:
    """A failure is stored after the page showed the number, and its time is before the bound."""
    failed_task(site, "a")
    late = failed_task(site, "b")
    StoredTask.objects.filter(pk=late).update(failure="later")
    page = text(chief, _address(action, site))
    assert asked(page) == f"{action.capitalize()} 1 task?"
    StoredTask.objects.filter(pk=late).update(failure=VALUE_ERROR)
    response = confirm(chief, action, page)
    assert messages(response) == ["There are 2 tasks now, instead of 1. Nothing was done."]
    assert site.queue.requests == []
    assert StoredTask.objects.count() == 2
    assert asked(response.content.decode()) == f"{action.capitalize()} 2 tasks?"


def _address(action: str, site: Site) -> str:
    until = site.now.isoformat().replace("+", "%2B")
    return f"{PAGE}{action}/?task={DOES}&exception={VALUE_ERROR}&until={until}"


def test_a_request_replays_a_bounded_number_and_offers_to_go_on(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_pages, "_MOST_REPLAYED", 2)
    bad = [failed_task(site, name) for name in "ab"]
    StoredTask.objects.filter(pk__in=bad).update(backend="elsewhere")
    good = [failed_task(site, name) for name in "cde"]
    page = text(chief, link(chief, "replay"))
    assert "One request replays up to 2 tasks." in page
    response = confirm(chief, "replay", page)
    first, second = messages(response)
    assert first == "Replayed no task. Left: 3 tasks."
    assert second.startswith("Could not replay 2 tasks. TaskResultDoesNotExist: The task")
    page = response.content.decode()
    assert asked(page) == "Replay 3 tasks that are left?"
    response = confirm(chief, "replay", page)
    assert messages(response) == ["Replayed 2 tasks. Left: 1 task."]
    response = confirm(chief, "replay", response.content.decode())
    assert messages(response) == ["Replayed 1 task."]
    assert response.redirect_chain == [(PAGE, 302)]
    assert all(site.record(key).replayed_as for key in good)
    assert rows(chief) == [(DOES, VALUE_ERROR, "2")], "those that cannot be replayed"


@pytest.mark.parametrize("action", ["replay", "delete"])
def test_a_request_takes_a_bounded_time(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(failure_pages, "_LONGEST", -1.0)
    monkeypatch.setattr(failure_pages, "_DELETED_AT_ONCE", 1)
    for name in "ab":
        failed_task(site, name)
    response = confirm(chief, action, text(chief, link(chief, action)))
    done = {"replay": "Replayed", "delete": "Deleted"}[action]
    assert messages(response) == [f"{done} 1 task. Left: 1 task."]
    assert asked(response.content.decode()).startswith(f"{action.capitalize()} 1 task")


def test_replaying_stops_when_cloud_tasks_does_not_answer(site: Site, chief: Client) -> None:
    for name in "abc":
        failed_task(site, name)
    page = text(chief, link(chief, "replay"))
    site.queue.go_down()
    response = confirm(chief, "replay", page)
    assert messages(response) == [
        "Replayed 1 task.",
        "Left to the relay: 1 task. ServiceUnavailableError: Cloud Tasks does not answer",
        "Stopped: Cloud Tasks does not answer. Tasks left unchanged: 2.",
    ]
    page = response.content.decode()
    assert asked(page) == "Replay 2 tasks that are left?"
    (told,) = messages(confirm(chief, "replay", page))
    assert told == "Stopped: Cloud Tasks does not answer. Tasks left unchanged: 2."
    site.queue.down = None
    site.wait(10)
    assert messages(confirm(chief, "replay", page)) == ["Replayed 2 tasks."]


def test_a_refusal_of_cloud_tasks_is_told_once_for_each_kind(site: Site, chief: Client) -> None:
    for name in "ab":
        failed_task(site, name)
    site.queue.down = QueueNotFoundError("no such queue: <default>")
    response = confirm(chief, "replay", text(chief, link(chief, "replay")))
    assert messages(response) == [
        "Replayed 2 tasks.",
        "Left to the relay: 2 tasks. QueueNotFoundError: no such queue: <default>",
    ]
    assert "&lt;default&gt;" in response.content.decode()


def test_a_task_that_somebody_else_replays_at_the_same_time_is_left_out(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = failed_task(site)
    page = text(chief, link(chief, "replay"))
    before_replacing(site, monkeypatch, lambda: run_again(site.record(key)))
    assert messages(confirm(chief, "replay", page)) == [
        "Left out, because somebody else replayed or deleted them: 1 task."
    ]
    assert len(site.queue.requests) == 1


def test_each_replay_is_a_transaction_of_its_own_though_requests_are_atomic(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [failed_task(site, name) for name in "ab"]
    page = text(chief, link(chief, "replay"))
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    add = site.store.add
    added: list[str] = []

    def add_one(record: TaskRecord) -> None:
        if added:
            raise ZeroDivisionError
        added.append(record.task_id)
        add(record)

    monkeypatch.setattr(site.store, "add", add_one)
    with pytest.raises(ZeroDivisionError):
        confirm(chief, "replay", page)
    assert [site.record(key).replayed_as for key in keys] == [added[0], ""]


def test_the_pages_of_failures_respect_permissions(site: Site, chief: Client) -> None:
    failed_task(site)
    replay, delete = link(chief, "replay"), link(chief, "delete")
    form = fields(text(chief, replay))
    expected = {
        (): (403, 403, 403),
        ("view",): (200, 403, 403),
        ("change",): (200, 200, 403),
        ("delete",): (403, 403, 403),
        ("view", "delete"): (200, 403, 200),
    }
    for permissions, statuses in expected.items():
        client = person(*permissions)
        got = [client.get(url).status_code for url in (PAGE, replay, delete)]
        assert tuple(got) == statuses, permissions
        if statuses[0] == 200:
            page = text(client)
            assert ("/failures/replay/" in page) == (statuses[1] == 200)
            assert ("/failures/delete/" in page) == (statuses[2] == 200)
        for action, status in zip(("replay", "delete"), statuses[1:], strict=True):
            if status == 403:
                assert client.post(f"{PAGE}{action}/", form).status_code == 403
    assert [Client().get(url).status_code for url in (PAGE, replay, delete)] == [302] * 3
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="view-change-delete"))
    assert strict.post(f"{PAGE}replay/", form).status_code == 403
    assert (StoredTask.objects.count(), site.queue.requests) == (1, [])


@pytest.mark.parametrize(
    "query",
    [
        "",
        "task=a",
        "task=a&exception=b",
        "task=a&exception=b&until=yesterday",
        "task=a&exception=b&until=2026-11-22T12:00:00",
        "task=a&exception=b&until=9999-12-31T23:59:59-05:00",
        "task=a%00&exception=b&until=2026-11-22T12:00:00Z",
        "task=a&exception=b&until=2026-11-22T12:00:00Z&after_id=x&after=",
    ],
)
@pytest.mark.parametrize("action", ["replay", "delete"])
def test_an_address_that_names_no_group_is_refused(
    site: Site, chief: Client, action: str, query: str
) -> None:
    assert chief.get(f"{PAGE}{action}/?{query}").status_code == 400


def test_a_form_without_the_number_that_was_shown_is_refused(site: Site, chief: Client) -> None:
    failed_task(site)
    form = fields(text(chief, link(chief, "replay")))
    for count in ("", "-1", "x", "9" * 99):
        assert chief.post(f"{PAGE}replay/", {**form, "count": count}).status_code == 400
    assert site.queue.requests == []


def test_a_damaged_record_does_not_hide_the_others(site: Site, chief: Client) -> None:
    key = failed_task(site, "a")
    failed_task(site, "b", error=KeyError())
    StoredTask.objects.filter(pk=key).update(attempts_json="{")
    assert len(rows(chief)) == 2
    assert "The traceback cannot be read" in text(chief)


def test_what_cloud_tasks_lost_says_what_is_known(site: Site, chief: Client) -> None:
    key = failed_task(site)
    StoredTask.objects.filter(pk=key).update(lost="Cloud Tasks does not have the task any more.")
    assert "Cloud Tasks does not have the task any more." in text(chief)


def test_the_page_makes_one_query_for_the_groups_and_one_for_each_sample(
    site: Site, chief: Client
) -> None:
    for error in (ValueError(), KeyError()):
        for name in "abc":
            failed_task(site, name, error=error)
    with CaptureQueriesContext(connection) as queries:
        text(chief)
    about = [q["sql"] for q in queries if "storedtask" in q["sql"] and "SELECT" in q["sql"][:6]]
    about = [sql for sql in about if "auth_permission" not in sql]
    assert len(about) == 3
    assert all('"args_json"' not in sql for sql in about)


def test_run_again_for_a_failed_task_is_a_replay_and_the_page_links_both(
    site: Site, chief: Client
) -> None:
    key = failed_task(site)
    (said,) = messages(act(chief, "run_again", key))
    new = site.record(key).replayed_as
    assert said == f"Run again as {new}."
    assert site.record(new).replay_of == key
    assert f'href="{LIST}{new}/change/"' in text(chief, f"{LIST}{key}/change/")
    assert f'href="{LIST}{key}/change/"' in text(chief, f"{LIST}{new}/change/")
    StoredTask.objects.filter(pk=key).delete()
    page = text(chief, f"{LIST}{new}/change/")
    assert f"{key}, which has no record any more" in page
    assert rows(chief) == []


def test_run_again_for_a_task_that_waits_links_nothing(site: Site, chief: Client) -> None:
    key = recorded_tasks.does.enqueue("a").id
    (said,) = messages(act(chief, "run_again", key))
    assert site.record(key).replayed_as == ""
    new = said.removeprefix("Run again as ").rstrip(".")
    assert site.record(new).replay_of == ""


def test_a_task_that_two_people_run_again_at_once_is_run_again_once(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = failed_task(site)
    before_replacing(site, monkeypatch, lambda: run_again(site.record(key)))
    told = messages(act(chief, "run_again", key))
    assert told == [f"Task {key} was replayed or deleted at the same time."]
    assert len(site.queue.requests) == 1


def test_the_page_works_on_a_site_without_time_zones(
    site: Site, chief: Client, settings: Any
) -> None:
    settings.USE_TZ = False
    keys = [failed_task(site, name) for name in "ab"]
    assert "Nov. 22, 2026, 6 a.m." in text(chief)
    page = text(chief, link(chief, "replay"))
    assert messages(confirm(chief, "replay", page)) == ["Replayed 2 tasks."]
    assert all(site.record(key).replayed_as for key in keys)


@pytest.mark.django_db(transaction=True, databases=["default", "sqlite-file"])
def test_the_page_reads_the_database_that_the_backends_record_in(sqlite_file: str) -> None:
    with recording_once(sqlite_file, RESULTS_DATABASE=sqlite_file) as site:
        key = failed_task(site)
        client = person("view", "change", "delete")
        assert rows(client) == [(DOES, VALUE_ERROR, "1")]
        assert "no such order" in text(client)
        page = text(client, link(client, "replay"))
        assert messages(confirm(client, "replay", page)) == ["Replayed 1 task."]
        assert site.record(key).replayed_as
        assert StoredTask.objects.using("default").count() == 0

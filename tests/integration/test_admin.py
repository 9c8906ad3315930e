"""The admin of recorded tasks: its pages, queries, actions and permissions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_tasks_cloud_tasks import Snooze, StoredTask, cancel
from django_tasks_cloud_tasks.core.errors import RunNowError
from django_tasks_cloud_tasks.core.records import State
from django_tasks_cloud_tasks.django_integration import admin

from tests import policy_tasks, recorded_tasks
from tests.integration.recording import START, Site, payload, recording
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/django_tasks_cloud_tasks/storedtask/"


@pytest.fixture
def site() -> Iterator[Site]:
    DURING.clear()
    with recording(database="default") as made:
        yield made
    DURING.clear()


def person(*permissions: str) -> Client:
    """Return a client with a logged-in user who has these permissions on recorded tasks."""
    user = User.objects.create_user("ada", is_staff=True)
    for name in permissions:
        user.user_permissions.add(Permission.objects.get(codename=f"{name}_storedtask"))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def chief() -> Client:
    return person("view", "change")


def shown(client: Client, query: str = "") -> list[str]:
    """Return the ids in the list."""
    response = client.get(LIST + query)
    assert response.status_code == 200, response
    return re.findall(r"storedtask/(\w+)/change/", response.content.decode())


def act(client: Client, action: str, *keys: str, detail: bool = False) -> Any:
    data: dict[str, object] = {"action": action, "_selected_action": keys}
    if detail:
        data["_from_detail"] = "1"
    return client.post(LIST, data, follow=True)


def messages(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def test_the_list_shows_the_latest_tasks_first_and_is_filtered(site: Site, chief: Client) -> None:
    first = recorded_tasks.does.enqueue("a").id
    site.wait(10)
    second = recorded_tasks.knows.using(queue_name="mail").enqueue("b").id
    site.deliver(first)
    assert shown(chief) == [second, first]
    assert shown(chief, "?status__exact=SUCCESSFUL") == [first]
    assert shown(chief, "?queue_name=mail") == [second]
    assert shown(chief, "?task_path=tests.recorded_tasks.does") == [first]
    assert shown(chief, "?enqueued_at__gte=2026-11-22+12:00:05Z") == [second]
    page = chief.get(LIST).content.decode()
    for link in ("?status__exact=FAILED", "?queue_name=mail", "?task_path=tests.recorded_tasks"):
        assert link in page


def test_tasks_are_found_by_id_and_by_arguments(site: Site, chief: Client) -> None:
    first = recorded_tasks.does.enqueue("order 1815").id
    second = recorded_tasks.does.enqueue(name='Zoë "quoted" 100%').id
    assert shown(chief, f"?q={first}") == [first]
    assert shown(chief, f"?q={second[:8]}") == [second]
    for length in (1, 3, 5):
        assert second in shown(chief, f"?q={second[:length]}")
    assert shown(chief, "?q=1815") == [first]
    assert shown(chief, "?q=Zoë") == [second]
    assert shown(chief, '?q="quoted"+100%25') == [second]
    assert shown(chief, "?q=99%25") == []
    assert shown(chief, "?q=deadbeef") == []


def test_the_page_of_a_task_shows_every_field(site: Site, chief: Client) -> None:
    key = recorded_tasks.does.enqueue("<b>bold</b>").id

    def fail() -> None:
        raise ValueError("<script>alert(1)</script>")

    DURING["<b>bold</b>"] = fail
    site.deliver(key)
    DURING["<b>bold</b>"] = lambda: {"total": 1815}
    site.deliver(key)
    page = chief.get(f"{LIST}{key}/change/").content.decode()
    for part in (
        "&lt;b&gt;bold&lt;/b&gt;",
        "builtins.ValueError",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "&quot;total&quot;: 1815",
        "tests.recorded_tasks.does",
        "Nov. 22, 2026, 6 a.m.",  # in the time zone of the site
    ):
        assert part in page, part
    assert "<b>bold" not in page
    assert "<script>alert" not in page
    assert page.count(StoredTask.objects.get().record.worker_ids[0]) == 2
    assert 'name="_save"' not in page
    assert ">Run again<" in page
    assert ">Cancel<" not in page, "it has ended"


def test_a_task_that_has_ended_shows_no_next_attempt(site: Site, chief: Client) -> None:
    policy_tasks.SCRIPT[:] = [Snooze(for_=86_400)]
    result = policy_tasks.plain.using(backend="stored").enqueue()
    site.deliver()
    page = f"{LIST}{result.id}/change/"
    shown = re.compile(r"Next attempt due at:.*?readonly\">(.*?)<", re.DOTALL)
    (before,) = shown.findall(chief.get(page).content.decode())
    cancel(result)
    (after,) = shown.findall(chief.get(page).content.decode())
    assert (before, after) == ("Nov. 23, 2026, 6 a.m.", "-")


def test_a_task_of_a_schedule_shows_its_tick(site: Site, chief: Client) -> None:
    recorded_tasks.does.enqueue("a")
    StoredTask.objects.update(schedule="nightly", scheduled_for=START)
    (key,) = StoredTask.objects.values_list("task_id", flat=True)
    shown = chief.get(f"{LIST}{key}/change/").content.decode()
    assert "Scheduled for:" in shown
    assert "Nov. 22, 2026, 6 a.m. (nightly)" in shown


def test_the_admin_cancels_a_task_runs_it_now_and_runs_it_again(site: Site, chief: Client) -> None:
    due = START + timedelta(hours=1)
    task = recorded_tasks.does.using(run_after=due, queue_name="mail")
    key = task.enqueue("a").id
    response = act(chief, "run_now", key, detail=True)
    assert messages(response) == ["Sent to run now."]
    assert response.redirect_chain == [(f"{LIST}{key}/change/", 302)]
    assert site.queue.requests[0].schedule_time is None
    assert messages(act(chief, "cancel", key)) == ["Cancelled."]
    assert site.record(key).state is State.CANCELLED
    assert site.queue.requests == []
    assert messages(act(chief, "cancel", key)) == [f"Task {key} had ended."]
    assert messages(act(chief, "run_now", key)) == [f"Task {key} was not waiting."]
    (said,) = messages(act(chief, "run_again", key))
    (request,) = site.queue.requests
    assert said == f"Run again as {request.task_id}."
    assert request.task_id != key
    assert (request.queue.queue, request.schedule_time) == ("mail", None)
    assert site.record(str(request.task_id)).payload.args == ["a"]
    changes = LogEntry.objects.order_by("id").values_list("change_message", flat=True)
    assert list(changes) == [
        "Sent to run now",
        "Cancelled",
        f"Run again as {request.task_id}",
    ]


def test_run_now_creates_a_missing_cloud_task_again(site: Site, chief: Client) -> None:
    key = recorded_tasks.does.enqueue("a").id
    site.queue.requests.clear()  # the queue was emptied
    assert messages(act(chief, "run_now", key)) == ["Sent to run now."]
    assert [r.task_id for r in site.queue.requests] == [f"{key}-1"]
    assert site.deliver()[0] == 200


def test_run_now_sends_a_task_that_waits_for_the_relay(site: Site, chief: Client) -> None:
    site.queue.go_down()
    key = recorded_tasks.does.enqueue("a").id
    (said,) = messages(act(chief, "run_now", key))
    later = "It will run as soon as the relay can send it."
    assert said == f"Task {key}: {later} Cloud Tasks does not answer"
    site.queue.down = None
    assert messages(act(chief, "run_now", key)) == ["Sent to run now."]
    assert site.deliver()[0] == 200


def test_run_now_sends_a_failed_task_later_if_cloud_tasks_does_not_answer(
    site: Site, chief: Client
) -> None:
    key = recorded_tasks.does.enqueue("a").id

    def fail() -> None:
        raise ValueError("no such order")

    DURING["a"] = fail
    assert site.deliver()[0] == 500
    site.queue.requests.clear()  # the queue has made its last attempt
    site.queue.go_down()
    (said,) = messages(act(chief, "run_now", key))
    assert said.endswith("as soon as the relay can send it. Cloud Tasks does not answer")
    site.queue.down = None
    DURING.clear()
    site.wait(10)
    call_command("cloudtasks_relay", "--once", stdout=io.StringIO())
    assert site.deliver()[0] == 200


def test_run_again_does_not_act_on_the_tasks_that_it_creates(site: Site, chief: Client) -> None:
    for number in range(120):
        recorded_tasks.does.enqueue(str(number))
    everything = {
        "action": "run_again",
        "select_across": "1",
        "_selected_action": ["x"],
        "index": 0,
    }
    assert messages(chief.post(f"{LIST}?o=6", everything, follow=True)) == ["Done for 120 tasks."]
    assert StoredTask.objects.count() == 240


def test_an_action_on_too_many_tasks_is_refused(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_MOST_ACTED_ON", 2)
    keys = [recorded_tasks.does.enqueue(str(number)).id for number in range(3)]
    (said,) = messages(act(chief, "cancel", *keys))
    assert said == "Choose at most 2 tasks. Nothing was done."
    assert {site.record(key).state for key in keys} == {State.READY}


def test_an_action_redirects_to_the_page_of_a_task_with_an_unusual_id(
    site: Site, chief: Client
) -> None:
    site.post_body(payload("x_41y"))
    response = act(chief, "run_again", "x_41y", detail=True)
    assert response.redirect_chain == [(f"{LIST}x_5F41y/change/", 302)]
    assert "x_41y" in response.content.decode()


def test_the_admin_asks_a_running_task_to_stop(site: Site, chief: Client) -> None:
    key = recorded_tasks.knows.enqueue("a").id

    def during(context: Any) -> bool:
        assert messages(act(chief, "run_now", key)) == [f"Task {key} was not waiting."]
        assert messages(act(chief, "cancel", key)) == ["Asked to stop."]
        stopped: bool = context.cancelled
        return stopped

    DURING["a"] = during
    site.deliver()
    assert site.record(key).return_value is True


def test_an_action_reports_the_tasks_that_fail_and_completes_the_others(
    site: Site, chief: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = recorded_tasks.does.enqueue("a").id
    gone = recorded_tasks.does.enqueue("b").id
    StoredTask.objects.filter(pk=gone).update(task_path="tests.recorded_tasks.gone")
    foreign = recorded_tasks.does.enqueue("c").id
    StoredTask.objects.filter(pk=foreign).update(backend="elsewhere")
    said = messages(act(chief, "run_again", good, gone, foreign))
    assert len(said) == 3
    assert sum("tests.recorded_tasks" in s or "gone" in s for s in said) == 1
    assert said[-1].startswith("Run again as ")
    another = recorded_tasks.does.enqueue("d").id
    assert messages(act(chief, "run_again", good, another)) == ["Done for 2 tasks."]

    def refuse(*_: object, **__: object) -> bool:
        raise RunNowError("Grant the account roles/cloudtasks.taskRunner")

    monkeypatch.setattr(site.queue, "run", refuse)
    assert "taskRunner" in messages(act(chief, "run_now", good))[0]


def test_the_admin_respects_permissions(site: Site) -> None:
    key = recorded_tasks.does.enqueue("a").id
    reader = person("view")
    assert shown(reader) == [key]
    page = reader.get(f"{LIST}{key}/change/").content.decode()
    assert "task-actions" not in page
    for action in ("cancel", "run_now", "run_again"):
        act(reader, action, key)
    assert site.record(key).state is State.READY
    assert len(site.queue.requests) == 1
    User.objects.all().delete()
    nobody = person()
    assert nobody.get(LIST).status_code == 403
    assert Client().get(LIST).status_code == 302
    User.objects.all().delete()
    chief = person("view", "change", "add", "delete")
    assert chief.get(f"{LIST}add/").status_code == 403
    assert chief.post(f"{LIST}{key}/delete/", {"post": "yes"}).status_code == 403
    act(chief, "delete_selected", key)
    changed = {"task_path": "os.system", "status": "SUCCESSFUL"}
    assert chief.post(f"{LIST}{key}/change/", changed).status_code == 403
    assert site.record(key).state is State.READY
    assert site.record(key).payload.task_path == "tests.recorded_tasks.does"


def test_the_list_makes_as_many_queries_for_a_full_page_as_for_one_task(
    site: Site, chief: Client
) -> None:
    def cost(query: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            chief.get(LIST + query)
        for asked in queries:
            assert "traceback" not in asked["sql"]
            for big in ("args_json", "attempts_json"):
                assert f'"{big}"' not in asked["sql"].partition(" FROM ")[0], "not for a list"
        return len(queries)

    recorded_tasks.does.enqueue("a")
    queries = ["", "?status__exact=READY", "?q=a", "?queue_name=default"]
    one = [cost(query) for query in queries]
    for _ in range(60):
        recorded_tasks.does.enqueue("a")
    assert [cost(query) for query in queries] == one
    assert max(one) <= 9


def test_the_list_stops_counting_at_a_limit(chief: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        chief.get(LIST)
    counting = [q["sql"] for q in queries if "COUNT(" in q["sql"]]
    assert counting
    assert all(f"LIMIT {admin._MOST_COUNTED + 1}" in sql for sql in counting)


def test_arguments_are_stored_as_json_text(site: Site) -> None:
    recorded_tasks.does.enqueue("a")
    row = StoredTask.objects.get()
    assert (json.loads(row.args_json), json.loads(row.kwargs_json)) == (["a"], {})

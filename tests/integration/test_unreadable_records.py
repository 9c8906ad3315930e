"""The relay postpones a record that it cannot read or change, and sends the other tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django_tasks_cloud_tasks.core.errors import QueueNotFoundError, UnreadableRecordError
from django_tasks_cloud_tasks.core.lifecycle import UNREADABLE_WAIT
from django_tasks_cloud_tasks.django_integration.models import StoredTask
from django_tasks_cloud_tasks.django_integration.operating.relay import relay_batch
from django_tasks_cloud_tasks.django_integration.registry import recording_backends

from tests import recorded_tasks
from tests.integration.recording import Site, enqueue_and_die, recording

DAMAGES = [
    {"status": "HIBERNATED"},
    {"args_json": "{"},
    {"kwargs_json": "["},
    {"attempts_json": '[["only one"]]'},
    {"attempts_json": "null"},
    {"return_value_json": "\x01"},
]


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    with recording(database=database) as made:
        yield made


def waiting(site: Site, count: int) -> list[str]:
    """Enqueue tasks whose process dies before it sends them. Return the ids in relay order."""
    enqueue_and_die(site, count)
    rows = StoredTask.objects.using(database_of(site))
    return list(rows.order_by("relay_at").values_list("pk", flat=True))


def database_of(site: Site) -> str:
    store: Any = site.store
    database: str = store.database
    return database


@pytest.mark.parametrize("damage", DAMAGES, ids="-".join)
def test_a_record_that_cannot_be_read_is_set_aside_and_the_others_are_sent(
    site: Site, damage: dict[str, str]
) -> None:
    broken, *others = waiting(site, 5)
    rows = StoredTask.objects.using(database_of(site))
    rows.filter(pk=broken).update(**damage)
    done = relay_batch(recording_backends())
    assert (done.sent, done.failed) == (4, 1)
    assert sorted(r.task_id or "" for r in site.queue.requests) == sorted(others)
    row = rows.defer("run_after").get(pk=broken)
    assert f"The record of the task {broken} cannot be read" in row.relay_error
    assert (row.relay_failures, row.relay_at) == (1, site.now + UNREADABLE_WAIT)
    again = relay_batch(recording_backends())
    assert (again.sent, again.failed) == (0, 0), "it is left alone for a while"


def test_a_record_with_a_column_that_django_cannot_read_is_set_aside(site: Site) -> None:
    broken, *_ = waiting(site, 3)
    rows = StoredTask.objects.using(database_of(site))
    rows.filter(pk=broken).update(run_after=2**62)
    done = relay_batch(recording_backends())
    assert (done.sent, done.failed) == (2, 1)


def test_an_error_message_that_no_database_can_store_is_stored_in_escaped_form(site: Site) -> None:
    waiting(site, 1)
    site.queue.down = QueueNotFoundError("a NUL \x00 and a surrogate \ud800")
    assert relay_batch(recording_backends()).failed == 1
    (row,) = StoredTask.objects.using(database_of(site))
    assert row.relay_error == r"a NUL \x00 and a surrogate \ud800"


def test_a_record_that_cannot_be_changed_is_set_aside_and_the_others_are_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, *_ = waiting(site, 4)
    replace = site.store.replace

    def refuse(seen: Any, then: Any) -> bool:
        if seen.task_id == broken:
            raise ValueError("this value fits into no column")
        return replace(seen, then)

    monkeypatch.setattr(site.store, "replace", refuse)
    done = relay_batch(recording_backends())
    assert (done.sent, done.failed) == (3, 1)
    row = StoredTask.objects.using(database_of(site)).get(pk=broken)
    assert row.relay_error == "ValueError: this value fits into no column"
    assert row.relay_at == site.now + timedelta(seconds=1), "it may pass; later each time"
    monkeypatch.undo()
    site.wait(2)
    assert relay_batch(recording_backends()).sent == 1


def test_a_task_with_an_unreadable_record_does_not_run_and_is_delivered_again(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    StoredTask.objects.using(database_of(site)).update(status="HIBERNATED")
    status, document = site.deliver(result.id)
    assert (status, document["error"]) == (500, "The record of this task cannot be read.")
    with pytest.raises(UnreadableRecordError, match="HIBERNATED"):
        recorded_tasks.does.get_result(result.id)


def test_pruning_deletes_records_that_cannot_be_read(site: Site) -> None:
    first, second = recorded_tasks.does.enqueue("a"), recorded_tasks.does.enqueue("b")
    for result in (first, second):
        assert site.deliver(result.id)[0] == 200
    StoredTask.objects.using(database_of(site)).filter(pk=first.id).update(attempts_json="{")
    site.wait(60 * 86_400)
    call_command("cloudtasks_prune", "--older-than=1d", verbosity=0)
    assert not StoredTask.objects.using(database_of(site)).exists()


# The admin, in the default database.


@pytest.fixture
def own_site(db: None) -> Iterator[tuple[Site, Client]]:
    with recording(database="default") as made:
        client = Client()
        client.force_login(User.objects.create_superuser("admin"))
        yield made, client


@pytest.mark.parametrize(
    "damage",
    [
        *DAMAGES,
        {
            "attempts_json": json.dumps([["w", None, None, "a.B"]]),
            "tracebacks_json": json.dumps(["lone \ud800"]),
        },
        {"args_json": json.dumps(["\ud800"])},
        {"kwargs_json": json.dumps({"a": "\ud800"})},
        {"return_value_json": json.dumps("\ud800"), "status": "SUCCESSFUL"},
        {"attempts_json": json.dumps([["\ud800", None, None, None]])},
    ],
    ids="-".join,
)
def test_the_admin_shows_damaged_and_unusual_records(
    own_site: tuple[Site, Client], damage: dict[str, str]
) -> None:
    _, client = own_site
    result = recorded_tasks.does.enqueue("a")
    StoredTask.objects.update(**damage)
    pages = "/admin/django_tasks_cloud_tasks/storedtask/"
    assert client.get(pages).status_code == 200
    assert client.get(f"{pages}{result.id}/change/").status_code == 200
    for action in ("run_now", "cancel", "run_again"):
        answer = client.post(pages, {"action": action, "_selected_action": [result.id]})
        assert answer.status_code in {200, 302}

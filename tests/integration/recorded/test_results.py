"""The results that `get_result` returns."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core import serializers
from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
from django_tasks_cloud_tasks import StoredTask
from django_tasks_cloud_tasks.core.records import State

from tests import recorded_tasks, tasks
from tests.integration.recording import START, Site
from tests.records import changed

pytestmark = pytest.mark.django_db(transaction=True)


NULLABLE = [f.name for f in StoredTask._meta.fields if f.null or f.default == ""]


def test_get_result_finds_a_result_by_its_task_and_id(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    backend = recorded_tasks.does.get_backend()
    assert backend.supports_get_result
    found = backend.get_result(result.id)
    assert (found.task.func, found.args, found.kwargs) == (recorded_tasks.does.func, ["a"], {})
    assert (found.id, found.status, found.backend) == (result.id, "READY", "stored")
    with pytest.raises(TaskResultMismatch):
        recorded_tasks.knows.get_result(result.id)
    for unknown in ("0" * 32, "", "a\x00b", "x" * 501, "{}", "%"):
        with pytest.raises(TaskResultDoesNotExist):
            recorded_tasks.does.get_result(unknown)


def test_a_result_has_the_options_its_task_was_enqueued_with(site: Site) -> None:
    due = START + timedelta(hours=1)
    result = recorded_tasks.does.using(priority=7, queue_name="mail", run_after=due).enqueue(
        name="a"
    )
    task = recorded_tasks.does.get_result(result.id).task
    assert (task.priority, task.queue_name, task.run_after) == (7, "mail", due)
    assert task == result.task


def test_a_backend_without_a_store_has_no_results() -> None:
    backend = tasks.add.get_backend()
    assert not backend.supports_get_result
    with pytest.raises(NotImplementedError, match="set RESULTS to 'database'"):
        tasks.add.get_result("0" * 32)


def test_the_result_of_another_backend_is_not_found(site: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    record = site.record(result.id)
    site.store.add(changed(record, payload__task_id="another", payload__backend="another"))
    with pytest.raises(TaskResultDoesNotExist):
        recorded_tasks.does.get_result("another")


@pytest.mark.parametrize(
    "path", ["tests.recorded_tasks.gone", "tests.gone.does", "tests.recorded_tasks.DURING"]
)
def test_the_result_of_a_task_that_no_longer_exists_is_not_found(site: Site, path: str) -> None:
    result = recorded_tasks.does.enqueue("a")
    site.store.add(changed(site.record(result.id), payload__task_id="old", payload__task_path=path))
    with pytest.raises(TaskResultDoesNotExist, match="old"):
        recorded_tasks.does.get_result("old")


def test_a_record_is_unchanged_after_it_is_dumped_to_a_fixture_and_loaded(
    database_site: Site,
) -> None:
    due = START + timedelta(hours=1, milliseconds=7)  # Django's JSON keeps milliseconds
    result = recorded_tasks.does.using(run_after=due).enqueue("a")
    running = changed(
        database_site.record(result.id), state=State.RUNNING, claim__expires_at=due, relay__at=due
    )
    database_site.store.replace(database_site.record(result.id), running)
    text = serializers.serialize("json", StoredTask.objects.all())
    StoredTask.objects.all().delete()
    for restored in serializers.deserialize("json", text):
        restored.object.full_clean(exclude=NULLABLE)
        restored.save()
    assert database_site.record(result.id) == running

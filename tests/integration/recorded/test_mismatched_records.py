"""Deliveries whose task and record do not belong together."""

from __future__ import annotations

import json

import attrs
import pytest
from django_tasks_cloud_tasks.core.records import State

from tests import recorded_tasks
from tests.integration.recording import Site, fail, payload
from tests.recorded_tasks import DURING
from tests.records import changed

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_task_that_was_enqueued_before_the_store_existed_is_run_and_recorded(view: Site) -> None:
    body = payload("early")
    DURING["a"] = fail
    assert view.post_body(body, retry=2).status_code == 500
    record = view.record("early")
    assert (len(record.worker_ids), len(record.errors), record.payload.args) == (3, 1, ["a"])
    DURING.clear()
    assert view.post_body(body, retry=3).status_code == 200
    assert json.loads(view.post_body(body).content)["status"] == "duplicate"


def test_a_recorded_task_without_its_record_is_not_run(
    view: Site, caplog: pytest.LogCaptureFixture
) -> None:
    body = payload("pruned", recorded=True)
    DURING["a"] = fail
    assert view.post_body(body).status_code == 404
    assert "there is no record now" in caplog.text


@pytest.mark.parametrize("task_id", ["", "a b", "x" * 501, "\N{SNOWMAN}"])
def test_a_delivery_with_an_impossible_task_id_is_refused(view: Site, task_id: str) -> None:
    body = payload(task_id)
    assert view.post_body(body).status_code == 400


def test_a_delivery_with_the_id_of_another_task_is_refused(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")
    body = payload(result.id, task="marks", recorded=True)
    assert view.post_body(body).status_code == 400
    assert view.record(result.id).state is State.READY


def test_a_record_of_another_backend_is_not_run(view: Site) -> None:
    """A caller of one backend must not run tasks of another."""
    result = recorded_tasks.does.enqueue("a")
    record = view.record(result.id)
    view.store.add(changed(record, payload__task_id="others", payload__backend="vault"))
    payload = attrs.evolve(record.payload, task_id="others")
    DURING["a"] = fail
    assert view.post_body(payload.encode()).status_code == 400
    assert view.record("others").state is State.READY

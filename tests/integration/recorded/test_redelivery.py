"""The relay delivers a task again after the queue has made its last attempt."""

from __future__ import annotations

import pytest

from tests import recorded_tasks
from tests.integration.recording import Site, dies, fail, relay
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_task_whose_last_delivery_was_refused_is_delivered_again(view: Site) -> None:
    """The queue does not retry any more: only the relay sees that the runner died."""
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = dies
    with pytest.raises(KeyboardInterrupt):
        view.deliver()
    DURING.clear()
    assert view.deliver(retry=1)[0] == 409
    view.queue.requests.clear()
    view.wait(59)
    assert relay() == (0, 0)
    view.wait(1)
    assert relay() == (1, 0)
    (request,) = view.queue.requests
    assert request.task_id == f"{result.id}-1", "the first name is taken for a day"
    assert view.deliver()[0] == 200
    result.refresh()
    assert result.return_value == "a"


def test_a_task_whose_runner_died_in_the_last_attempt_is_delivered_again(view: Site) -> None:
    """No later delivery was refused, so the record does not mention one."""
    result = recorded_tasks.does.enqueue("a")
    DURING["a"] = dies
    with pytest.raises(KeyboardInterrupt):
        view.deliver()
    DURING.clear()
    view.queue.requests.clear()
    view.wait(60)
    assert relay() == (1, 0)
    assert view.deliver()[0] == 200
    result.refresh()
    assert (result.return_value, result.attempts) == ("a", 2)


def test_a_failed_task_whose_deliveries_were_refused_is_delivered_again(view: Site) -> None:
    result = recorded_tasks.does.enqueue("a")

    def during() -> None:
        assert view.deliver(retry=1)[0] == 409
        fail()

    DURING["a"] = during
    assert view.deliver()[0] == 500
    DURING.clear()
    view.queue.requests.clear()  # that was the last attempt of the queue
    assert relay() == (0, 0)
    view.wait(60)
    assert relay() == (1, 0)
    assert view.deliver()[0] == 200
    result.refresh()
    assert (result.return_value, result.attempts) == ("a", 2)

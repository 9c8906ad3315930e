"""The headers of a delivery."""

import pytest
from django_tasks_cloud_tasks.core.deliveries import Delivery
from django_tasks_cloud_tasks.core.payload import Progress
from hypothesis import given
from hypothesis import strategies as st

COUNT = "HTTP_X_CLOUDTASKS_TASKRETRYCOUNT"
NAME = "HTTP_X_CLOUDTASKS_TASKNAME"
QUEUE = "HTTP_X_CLOUDTASKS_QUEUENAME"
FIRST = Progress()


@pytest.mark.parametrize(("count", "earlier"), [("0", 0), ("1", 1), ("41", 41), ("007", 7)])
def test_the_retry_count_tells_the_earlier_attempts(count: str, earlier: int) -> None:
    delivery = Delivery.from_environ({COUNT: count})
    assert delivery.earlier_attempts(FIRST) == earlier
    assert delivery.earlier_attempts(Progress(attempts=3)) == earlier + 3


@pytest.mark.parametrize("count", ["", "-1", "1.5", " 1", "one", "١", "1_000", "0x1", "1,1"])
def test_an_invalid_retry_count_means_the_first_attempt(count: str) -> None:
    assert Delivery.from_environ({COUNT: count}).earlier_attempts(FIRST) == 0


def test_a_delivery_without_headers_is_the_first_attempt() -> None:
    assert Delivery.from_environ({}) == Delivery()
    assert Delivery().earlier_attempts(FIRST) == 0


def test_a_delivery_names_its_cloud_task_and_its_queue() -> None:
    delivery = Delivery.from_environ({NAME: "one-2", QUEUE: "mail"})
    assert (delivery.cloud_task_id, delivery.queue) == ("one-2", "mail")
    assert Delivery.from_environ({NAME: "one/2", QUEUE: "a b"}) == Delivery()


@given(st.text() | st.integers().map(str))
def test_the_number_of_attempts_is_limited_for_any_retry_count(count: str) -> None:
    assert 0 <= Delivery.from_environ({COUNT: count}).earlier_attempts(FIRST) < 100_000

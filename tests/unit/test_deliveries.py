"""The headers of a delivery."""

import pytest
from django_tasks_cloud_tasks.core.deliveries import Delivery
from hypothesis import given
from hypothesis import strategies as st

COUNT = "HTTP_X_CLOUDTASKS_TASKRETRYCOUNT"


@pytest.mark.parametrize(("count", "attempt"), [("0", 1), ("1", 2), ("41", 42), ("007", 8)])
def test_the_attempt_is_the_retry_count_plus_one(count: str, attempt: int) -> None:
    delivery = Delivery.from_environ({COUNT: count})
    assert delivery.attempt == attempt
    assert delivery.worker_ids("me") == ["unknown"] * (attempt - 1) + ["me"]


@pytest.mark.parametrize("count", ["", "-1", "1.5", " 1", "one", "١", "1_000", "0x1", "1,1"])
def test_an_invalid_retry_count_means_the_first_attempt(count: str) -> None:
    assert Delivery.from_environ({COUNT: count}).attempt == 1


def test_a_delivery_without_headers_is_the_first_attempt() -> None:
    assert Delivery.from_environ({}).attempt == 1


@given(st.text() | st.integers().map(str))
def test_the_list_of_workers_is_limited_for_any_retry_count(count: str) -> None:
    assert 1 <= len(Delivery.from_environ({COUNT: count}).worker_ids("me")) <= 100_000

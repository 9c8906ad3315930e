"""The backoff and the end of retries, according to the rules of Cloud Tasks."""

import pytest
from django_tasks_cloud_tasks.emulator.state.retries import RetryPolicy
from hypothesis import given
from hypothesis import strategies as st


def test_the_waits_equal_the_example_of_the_documentation() -> None:
    policy = RetryPolicy(min_backoff=10, max_backoff=300, max_doublings=3)
    waits = [policy.backoff(failures) for failures in range(1, 9)]
    assert waits == [10, 20, 40, 80, 160, 240, 300, 300]


def test_the_wait_grows_linearly_without_doublings() -> None:
    policy = RetryPolicy(min_backoff=1, max_backoff=3.5, max_doublings=0)
    assert [policy.backoff(failures) for failures in range(1, 6)] == [1, 2, 3, 3.5, 3.5]


@given(
    st.floats(0, 3600),
    st.floats(0, 1_000_000),
    st.integers(0, 2**31 - 1),
    st.integers(1, 2**31 - 1),
)
def test_a_wait_never_decreases_and_never_exceeds_the_maximum(
    shortest: float, longest: float, doublings: int, failures: int
) -> None:
    policy = RetryPolicy(
        min_backoff=min(shortest, longest), max_backoff=longest, max_doublings=doublings
    )
    assert 0 <= policy.backoff(failures) <= policy.backoff(failures + 1) <= longest


@pytest.mark.parametrize(
    ("attempts", "duration", "made", "since", "over"),
    [
        (3, 0, 2, 10**9, False),
        (3, 0, 3, 0, True),
        (-1, 0, 10**6, 10**9, False),
        (3, 60, 3, 59, False),
        (3, 60, 2, 61, False),
        (3, 60, 3, 60, True),
        (-1, 60, 10**6, 59, False),
        (-1, 60, 1, 60, True),
    ],
)
def test_retries_end_when_attempts_and_duration_are_both_used_up(
    attempts: int, duration: float, made: int, since: float, over: bool
) -> None:
    policy = RetryPolicy(max_attempts=attempts, max_retry_duration=duration)
    assert policy.exhausted(attempts=made, since_first=since) is over

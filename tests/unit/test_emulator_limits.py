"""The rate of a queue."""

from django_tasks_cloud_tasks.emulator.state.limits import SECOND, TokenBucket, burst_for
from hypothesis import given
from hypothesis import strategies as st


def test_a_full_bucket_allows_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket.full(rate=2, burst=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert bucket.next_token(0) == SECOND // 2 + 1
    assert not bucket.take(SECOND // 2 - 1)
    assert bucket.take(SECOND // 2 + 1)
    assert [bucket.take(100 * SECOND) for _ in range(4)] == [True, True, True, False]


@given(st.floats(0.01, 500), st.lists(st.integers(0, 10 * SECOND), max_size=50))
def test_the_next_token_is_available_exactly_when_predicted(rate: float, pauses: list[int]) -> None:
    now, bucket = 0, TokenBucket.full(rate, 1, 0)
    for pause in pauses:
        now += pause
        when = bucket.next_token(now)
        assert bucket.take(now) is (when == now)
        now = max(now, bucket.next_token(now))
        assert bucket.take(now)


@given(st.floats(1, 500), st.lists(st.integers(0, SECOND), min_size=1, max_size=200))
def test_a_bucket_gives_no_more_tokens_than_rate_and_burst_allow(
    rate: float, pauses: list[int]
) -> None:
    now, taken, bucket = 0, 0, TokenBucket.full(rate, 5, 0)
    for pause in pauses:
        now += pause
        while bucket.take(now):
            taken += 1
    assert taken <= 5 + rate * now / SECOND + 0.001


def test_the_burst_is_derived_from_the_rate() -> None:
    assert burst_for(500) == 100
    assert burst_for(1) == 10

"""How often a task is attempted, and what follows from a failure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tasks_cloud_tasks.core.backoff import Backoff, seconds_of
from django_tasks_cloud_tasks.core.errors import UnserializableReturnError
from django_tasks_cloud_tasks.core.retry_policy import (
    Again,
    NeedsWait,
    Over,
    Repeater,
    RetryAt,
    RetrySettings,
    Said,
    SnoozeUntil,
    TaskPolicy,
    after_answer,
    after_failure,
    deadline_of,
    default_wait,
    ends_for_good,
    read_backoff,
    read_policy,
    repeater,
    retry_settings,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DATA = Backoff(10, 300, 3)


def function(error: BaseException, result: object) -> float:
    raise AssertionError((error, result))


def test_waits_double_then_grow_evenly_then_stay_as_those_of_a_queue_do() -> None:
    waits = [DATA.seconds(failures) for failures in range(1, 9)]
    assert waits == [10, 20, 40, 80, 160, 240, 300, 300]


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.integers(0, 200),
    st.integers(1, 10**6),
)
def test_no_wait_is_shorter_than_the_one_before_or_longer_than_the_longest(
    first: float, more: float, doublings: int, failures: int
) -> None:
    backoff = Backoff(first, first + more, doublings)
    assert first <= backoff.seconds(failures) <= backoff.seconds(failures + 1) <= backoff.longest


def test_a_backoff_takes_durations() -> None:
    assert Backoff(timedelta(seconds=10), timedelta(minutes=5), 3) == DATA


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((-1,), "-1 is not a duration"),
        ((True,), "True is not a duration"),
        (("10",), "'10' is not a duration"),
        ((float("nan"),), "nan is not a duration"),
        ((10**400,), "is not a duration"),
        ((10, 5), "longest is 5 s, shorter than first"),
        ((10, 50, -1), "doublings is -1"),
        ((10, 50, 1.5), "doublings is 1.5"),
    ],
)
def test_an_impossible_backoff_is_refused_with_the_value(
    values: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Backoff(*values)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_attempts", 0, "max_attempts must be a whole number from 1 to 1,000,000, not 0"),
        ("max_attempts", True, "max_attempts must be a whole number"),
        ("max_attempts", 2.0, "not 2.0"),
        ("timeout", 14, "timeout must be 15 seconds to 30 minutes"),
        ("timeout", timedelta(minutes=31), "15 seconds to 30 minutes"),
        ("timeout", "60", "not '60'"),
        ("backoff", 3, "backoff must be a Backoff, or a function"),
        ("backoff", int, "a Backoff, or a function"),
        ("backoff", lambda: 1, "takes two positional arguments"),
        ("backoff", lambda error: 1, "takes two positional arguments"),
        ("backoff", lambda error, *, result: 1, "takes two positional arguments"),
    ],
)
def test_an_impossible_policy_is_refused_with_the_value(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_policy({name: value})


async def test_a_coroutine_function_is_no_backoff() -> None:
    async def wait(error: BaseException, result: object) -> float:
        return 1.0

    with pytest.raises(ValueError, match="a coroutine function cannot be called"):
        read_backoff(wait)


def test_what_a_task_leaves_open_comes_from_its_backend() -> None:
    defaults = TaskPolicy(max_attempts=7, backoff=DATA, timeout=MINUTE)
    assert TaskPolicy().over(defaults) == defaults
    own = TaskPolicy(max_attempts=1, backoff=function, timeout=2 * MINUTE)
    assert own.over(defaults) == own
    assert (TaskPolicy().limit, TaskPolicy().waits) == (100, Backoff(0.1, 3600, 16))


@pytest.mark.parametrize(
    ("policy", "sends", "by", "carried"),
    [
        (TaskPolicy(), True, Repeater.QUEUE, None),
        (TaskPolicy(timeout=MINUTE), True, Repeater.QUEUE, None),
        (
            TaskPolicy(max_attempts=5),
            True,
            Repeater.CLOUD_TASK,
            RetrySettings(5, Backoff(0.1, 3600, 16)),
        ),
        (TaskPolicy(backoff=DATA), True, Repeater.CLOUD_TASK, RetrySettings(100, DATA)),
        (TaskPolicy(backoff=DATA), False, Repeater.ENDPOINT, None),
        (TaskPolicy(max_attempts=5), False, Repeater.ENDPOINT, None),
        (TaskPolicy(backoff=Backoff(1, 2, 0)), True, Repeater.ENDPOINT, None),
        (TaskPolicy(max_attempts=5, backoff=function), True, Repeater.ENDPOINT, None),
    ],
)
def test_the_policy_decides_who_brings_the_next_attempt(
    policy: TaskPolicy, sends: bool, by: Repeater, carried: RetrySettings | None
) -> None:
    assert repeater(policy, sends_retry_config=sends) is by
    assert retry_settings(policy, sends_retry_config=sends) == carried


def after(
    wish: Any, policy: TaskPolicy, *, attempt: int = 1, dispatch: int | None = None, **known: Any
) -> object:
    by = repeater(policy, sends_retry_config=True)
    dispatch = attempt if dispatch is None else dispatch
    return after_failure(
        wish, policy=policy, by=by, attempt=attempt, dispatch=dispatch, now=NOW, **known
    )


def test_an_ordinary_failure_is_repeated_until_the_last_attempt() -> None:
    queue, data = TaskPolicy(), TaskPolicy(max_attempts=3, backoff=DATA)
    assert after(Said.FAILURE, queue, attempt=99) == Again(None, by_queue=True)
    assert after(Said.FAILURE, queue, attempt=100) == Over("it was attempt 100 of 100")
    assert after(Said.FAILURE, data, attempt=2) == Again(NOW + MINUTE / 3, by_queue=True)
    assert after(Said.FAILURE, data, attempt=3) == Over("it was attempt 3 of 3")


def test_the_queue_counts_the_dispatches_of_a_cloud_task_and_not_the_attempts() -> None:
    data = TaskPolicy(max_attempts=9, backoff=DATA)
    first = after(Said.FAILURE, data, attempt=1, dispatch=1)
    assert after(Said.FAILURE, data, attempt=5, dispatch=1) == first


def test_a_function_is_asked_for_its_wait() -> None:
    assert after(Said.FAILURE, TaskPolicy(backoff=function)) == NeedsWait(function)
    last = after(Said.FAILURE, TaskPolicy(max_attempts=1, backoff=function))
    assert last == Over("it was attempt 1 of 1")


@pytest.mark.parametrize("answer", [90, 90.0, timedelta(seconds=90)])
def test_an_answer_of_a_function_is_the_wait(answer: object) -> None:
    assert after_answer(answer, now=NOW) == Again(NOW + 1.5 * MINUTE, by_queue=False)


def test_a_function_that_answers_none_gives_up() -> None:
    assert after_answer(None, now=NOW) == Over("its backoff function returned None")


@pytest.mark.parametrize("answer", [-1, "1", True, float("inf"), object()])
def test_an_impossible_answer_of_a_function_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        after_answer(answer, now=NOW)


def test_the_default_wait_stands_in_for_a_function_that_fails() -> None:
    wait = default_wait(
        TaskPolicy(backoff=function), by=Repeater.ENDPOINT, attempt=3, dispatch=1, now=NOW
    )
    assert wait == Again(NOW + timedelta(seconds=0.4), by_queue=False)


def test_a_retry_names_its_time_and_counts() -> None:
    asked = RetryAt(NOW + MINUTE)
    assert after(asked, TaskPolicy()) == Again(NOW + MINUTE, by_queue=False)
    assert after(RetryAt(NOW - MINUTE), TaskPolicy()) == Again(NOW, by_queue=False)
    assert after(asked, TaskPolicy(max_attempts=2), attempt=2) == Over("it was attempt 2 of 2")


def test_a_snooze_does_not_count_and_ends_before_the_task_is_too_old() -> None:
    asked = SnoozeUntil(NOW + MINUTE)
    later = Again(NOW + MINUTE, by_queue=False, counted=False)
    assert after(asked, TaskPolicy(max_attempts=1), attempt=1) == later
    assert after(asked, TaskPolicy(), snooze_before=NOW + MINUTE) == later
    over = after(asked, TaskPolicy(), snooze_before=NOW)
    assert isinstance(over, Over)
    assert "more than 31 days after it was due" in over.reason


def test_a_discarded_task_and_one_whose_work_is_done_are_over() -> None:
    assert after(Said.DISCARD, TaskPolicy()) == Over("the task was discarded")
    assert after(Said.WORK_DONE, TaskPolicy()) == Over("its work is done")
    assert ends_for_good(UnserializableReturnError(set))
    assert not ends_for_good(ValueError())


def test_the_deadline_is_the_timeout_then_the_option_then_ten_minutes() -> None:
    assert deadline_of(TaskPolicy(timeout=MINUTE), 5 * MINUTE) == MINUTE
    assert deadline_of(TaskPolicy(), 5 * MINUTE) == 5 * MINUTE
    assert deadline_of(TaskPolicy(), None) == 10 * MINUTE


def test_durations_are_seconds_or_timedeltas() -> None:
    assert [seconds_of(value) for value in (0, 1.5, MINUTE)] == [0, 1.5, 60]

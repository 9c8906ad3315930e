"""CLOUD_QUEUES: what is accepted, which queues are wanted, and what changes."""

from datetime import timedelta
from typing import Any

import pytest
from django_tasks_cloud_tasks.core.cloud_queues import (
    CloudQueue,
    CreateQueue,
    DeleteQueue,
    QueueSettings,
    UpdateQueue,
    as_gcloud,
    as_terraform,
    changes,
    combined,
    described,
    read_cloud_queues,
    wanted_queues,
)
from django_tasks_cloud_tasks.core.names import QueueName
from hypothesis import given
from hypothesis import strategies as st

DEFAULTS = QueueSettings(
    max_dispatches_per_second=500.0,
    max_concurrent_dispatches=1000,
    max_attempts=100,
    min_backoff=timedelta(seconds=0.1),
    max_backoff=timedelta(hours=1),
    max_doublings=16,
    max_retry_duration=timedelta(),
    logging_sampling_ratio=0.0,
)
MAIL = QueueName("p", "europe-west1", "mail")
SETTINGS = st.builds(
    QueueSettings,
    max_dispatches_per_second=st.none() | st.floats(0.1, 500),
    max_concurrent_dispatches=st.none() | st.integers(1, 5000),
    max_attempts=st.none() | st.just(-1) | st.integers(1, 1000),
    max_retry_duration=st.none() | st.timedeltas(timedelta(), timedelta(days=30)),
)


def test_the_settings_are_read_with_their_units() -> None:
    read = read_cloud_queues(
        {"mail": {"max_dispatches_per_second": 5, "max_attempts": -1, "min_backoff": 2}}
    )
    assert read == {
        "mail": QueueSettings(
            max_dispatches_per_second=5, max_attempts=-1, min_backoff=timedelta(seconds=2)
        )
    }
    assert read_cloud_queues({"mail": {}}) == {"mail": QueueSettings()}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["mail"], "a mapping from queue ids to dicts of settings"),
        ({"my_mail": {}}, r"letters, digits and hyphens \('my_mail' is not\)"),
        ({"mail": 5}, r"\('mail' has 5\)"),
        ({"mail": {"rate": 5}}, r"max_attempts, .* \('mail' has 'rate'\)"),
        ({"mail": {"max_attempts": 0}}, r"max_attempts is a whole number from 1 to .* has 0\)"),
        ({"mail": {"max_attempts": -1.0}}, "max_attempts is a whole number from 1"),
        ({"mail": {"max_attempts": True}}, "max_attempts is a whole number from 1"),
        ({"mail": {"max_dispatches_per_second": 0}}, "more than 0 and at most 500"),
        ({"mail": {"max_dispatches_per_second": float("nan")}}, "more than 0 and at most 500"),
        ({"mail": {"max_dispatches_per_second": 501}}, "more than 0 and at most 500"),
        ({"mail": {"max_concurrent_dispatches": 5001}}, "a whole number from 1 to 5,000"),
        ({"mail": {"min_backoff": -1}}, "a number of seconds or a timedelta, 0 or more"),
        ({"mail": {"min_backoff": 9, "max_backoff": 3}}, "min_backoff is not longer than max_back"),
        ({"mail": {"logging_sampling_ratio": 1.1}}, "a number from 0 to 1"),
        ({"mail": {"max_doublings": -1}}, "max_doublings is a whole number from 0"),
    ],
    ids=repr,
)
def test_a_wrong_value_is_named_with_its_queue(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_cloud_queues(value)


def test_the_queues_of_queues_and_of_priorities_are_wanted_too() -> None:
    mail, urgent = QueueSettings(max_attempts=5), QueueSettings(max_attempts=9)
    wanted = wanted_queues(
        {"mail": mail, "mail-urgent": urgent},
        queue_names=["default", "mail"],
        thresholds={50: "{queue}-urgent", -50: "night"},
    )
    assert wanted == {
        "mail": mail,
        "mail-urgent": urgent,
        "night": mail,
        "default": QueueSettings(),
        "default-urgent": QueueSettings(),
    }


def test_two_backends_complete_each_other_and_may_not_contradict() -> None:
    one, two = QueueSettings(max_attempts=5), QueueSettings(max_doublings=3)
    assert combined({"a": {"mail": one}, "b": {"mail": two}}) == (
        {"mail": QueueSettings(max_attempts=5, max_doublings=3)},
        [],
    )
    other = QueueSettings(max_attempts=7)
    _, contradictions = combined({"a": {"mail": one}, "b": {"mail": other}})
    assert contradictions == [
        "The backends 'a' and 'b' have different values of max_attempts for the queue 'mail': 5 "
        "and 7."
    ]


def differ(wanted: dict[str, QueueSettings], *existing: CloudQueue, delete: bool = False) -> Any:
    return changes(wanted, existing, project="p", location="europe-west1", delete=delete)


def test_only_what_is_named_is_compared() -> None:
    mail = CloudQueue(id="mail", state="RUNNING", settings=DEFAULTS)
    old = CloudQueue(id="old", state="PAUSED", settings=DEFAULTS)
    assert differ({"mail": QueueSettings()}, mail, old) == []
    assert differ({"mail": QueueSettings(max_attempts=100)}, mail, old) == []
    wanted = QueueSettings(max_attempts=5)
    (update,) = differ({"mail": wanted}, mail)
    assert update == UpdateQueue(MAIL, wanted, QueueSettings(max_attempts=100))
    assert described(update) == ["~ mail", "    max_attempts: 100 -> 5"]
    assert differ({"mail": wanted}) == [CreateQueue(MAIL, wanted)]
    assert differ({}, mail, delete=True) == [DeleteQueue(MAIL)]


@given(SETTINGS, SETTINGS)
def test_after_the_changes_nothing_differs(wanted: QueueSettings, current: QueueSettings) -> None:
    queue = CloudQueue(id="mail", state="RUNNING", settings=current.over(DEFAULTS))
    for change in differ({"mail": wanted}, queue):
        queue = CloudQueue(
            id="mail", state="RUNNING", settings=change.settings.over(queue.settings)
        )
    assert differ({"mail": wanted}, queue) == []


def test_the_same_for_gcloud_and_for_terraform() -> None:
    settings = QueueSettings(
        max_dispatches_per_second=2.5,
        max_attempts=-1,
        min_backoff=timedelta(milliseconds=1500),
        max_retry_duration=timedelta(),
        logging_sampling_ratio=1.0,
    )
    where = "--project=p --location=europe-west1"
    (command,) = as_gcloud(CreateQueue(MAIL, settings))
    assert command == (
        f"gcloud tasks queues create mail {where} --max-dispatches-per-second=2.5 "
        "--max-attempts=unlimited --min-backoff=1.5s --max-retry-duration=0s "
        "--log-sampling-ratio=1"
    )
    assert as_gcloud(DeleteQueue(MAIL)) == [f"gcloud tasks queues delete mail {where} --quiet"]
    assert as_terraform(MAIL, settings).splitlines() == [
        'resource "google_cloud_tasks_queue" "mail" {',
        '  project  = "p"',
        '  location = "europe-west1"',
        '  name     = "mail"',
        "",
        "  rate_limits {",
        "    max_dispatches_per_second = 2.5",
        "  }",
        "",
        "  retry_config {",
        "    max_attempts       = -1",
        '    min_backoff        = "1.5s"',
        '    max_retry_duration = "0s"',
        "  }",
        "",
        "  stackdriver_logging_config {",
        "    sampling_ratio = 1",
        "  }",
        "}",
    ]

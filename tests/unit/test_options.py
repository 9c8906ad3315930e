"""OPTIONS of a backend."""

from datetime import timedelta
from typing import Any

import pytest
from django_tasks_cloud_tasks.core.errors import OptionsError
from django_tasks_cloud_tasks.core.options import Authentication, BackendOptions, Results
from hypothesis import given
from hypothesis import strategies as st


def read(**options: Any) -> BackendOptions:
    return BackendOptions.from_mapping(options)


def test_a_backend_without_options_has_defaults() -> None:
    assert read() == BackendOptions()
    assert BackendOptions().handler_path == "/cloudtasks/execute/"
    assert BackendOptions().enqueue_timeout == 10
    assert BackendOptions().name_tasks is True
    assert BackendOptions().enqueue_on_commit is False
    assert BackendOptions().authentication is Authentication.AUTO


def test_every_option_is_read() -> None:
    assert read(
        CLOUD_TASKS_PROJECT="p",
        CLOUD_TASKS_LOCATION="l",
        TASK_HANDLER_HOST="https://a.b/",
        TASK_HANDLER_PATH="/x/",
        OIDC_SERVICE_ACCOUNT_EMAIL="tasks@p",
        OIDC_AUDIENCE="aud",
        AUTHENTICATION="platform",
        EMULATOR_HOST="localhost:8123",
        DISPATCH_DEADLINE=15,
        ENQUEUE_TIMEOUT=timedelta(seconds=2),
        ENQUEUE_ON_COMMIT=True,
        NAME_TASKS=False,
        PRIORITY_QUEUES={50: "{queue}-urgent"},
        RESULTS=None,
        RESULTS_DATABASE="records",
        LEASE=30,
    ) == BackendOptions(
        project="p",
        location="l",
        handler_host="https://a.b",
        handler_path="/x/",
        service_account="tasks@p",
        audience="aud",
        authentication=Authentication.PLATFORM,
        emulator_host="localhost:8123",
        dispatch_deadline=timedelta(seconds=15),
        enqueue_timeout=2.0,
        enqueue_on_commit=True,
        name_tasks=False,
        priority_queues={50: "{queue}-urgent"},
        results=None,
        results_database="records",
        lease=timedelta(seconds=30),
    )


def test_the_option_results_chooses_the_store() -> None:
    assert read(RESULTS="database").results is Results.DATABASE
    assert read().results is None
    assert read().lease == timedelta(seconds=60)


def test_results_require_named_tasks() -> None:
    with pytest.raises(OptionsError, match="NAME_TASKS must be True with RESULTS"):
        read(RESULTS="database", NAME_TASKS=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESULTS", "redis"),
        ("RESULTS", True),
        ("RESULTS_DATABASE", ""),
        ("RESULTS_DATABASE", None),
        ("LEASE", 0.5),
        ("LEASE", 3601),
        ("LEASE", "60"),
        ("LEASE", True),
        ("LEASE", float("nan")),
    ],
)
def test_an_invalid_option_for_results_is_refused(name: str, value: object) -> None:
    with pytest.raises(OptionsError, match=f"{name} must be"):
        read(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("CLOUD_TASKS_PROJECT", "", "the id of a Google Cloud project"),
        ("CLOUD_TASKS_PROJECT", "my shop", "the id of a Google Cloud project"),
        ("CLOUD_TASKS_LOCATION", 3, "a region"),
        ("CLOUD_TASKS_LOCATION", "europe/west1", "a region"),
        ("TASK_HANDLER_HOST", "app.example.com", "a URL"),
        ("TASK_HANDLER_HOST", "ftp://app.example.com", "a URL"),
        ("TASK_HANDLER_HOST", "https://", "a URL"),
        ("TASK_HANDLER_HOST", "https://a.b/?c", "a URL"),
        ("TASK_HANDLER_HOST", "https://a.b/cloudtasks/execute/", "a URL without a path"),
        ("TASK_HANDLER_PATH", "execute/", "a path"),
        ("OIDC_SERVICE_ACCOUNT_EMAIL", "tasks", "the e-mail address"),
        ("OIDC_AUDIENCE", None, "a string"),
        ("OIDC_AUDIENCE_FALLBACKS", "https://old.example.com", "a list"),
        (
            "OIDC_AUDIENCE_FALLBACKS",
            [""],
            "a list in which each item is a string that is not empty",
        ),
        (
            "OIDC_SERVICE_ACCOUNT_EMAIL_FALLBACKS",
            ["tasks"],
            "a list in which each item is the e-mail",
        ),
        ("OIDC_SERVICE_ACCOUNT_EMAIL", "a@b\nc", "the e-mail address"),
        ("AUTHENTICATION", "oauth", "one of 'auto', 'oidc', 'signature', 'platform', 'none'"),
        ("AUTHENTICATION", None, "one of"),
        ("AUTHENTICATION", [], "one of"),
        ("EMULATOR_HOST", "localhost", "HOST:PORT"),
        ("EMULATOR_HOST", "http://localhost:8123", "HOST:PORT"),
        ("DISPATCH_DEADLINE", 14, "15 seconds to 30 minutes"),
        ("DISPATCH_DEADLINE", timedelta(minutes=31), "15 seconds to 30 minutes"),
        ("DISPATCH_DEADLINE", "60", "15 seconds to 30 minutes"),
        ("DISPATCH_DEADLINE", 10**30, "15 seconds to 30 minutes"),
        ("ENQUEUE_TIMEOUT", 0, "more than 0 seconds"),
        ("ENQUEUE_TIMEOUT", 10**400, "a number of seconds"),
        ("ENQUEUE_TIMEOUT", timedelta.max, "more than 0 seconds"),
        ("LEASE", 10**400, "1 second to 1 hour"),
        ("ENQUEUE_TIMEOUT", True, "a number of seconds"),
        ("ENQUEUE_TIMEOUT", float("nan"), "more than 0 seconds"),
        ("ENQUEUE_ON_COMMIT", 1, "True, False, or the alias of a database"),
        ("NAME_TASKS", "yes", "True or False"),
        ("PRIORITY_QUEUES", [50], "a mapping"),
        ("PRIORITY_QUEUES", {101: "q"}, "from -100 to 100 (101 is not)"),
        ("PRIORITY_QUEUES", {"50": "q"}, "whole numbers"),
        ("PRIORITY_QUEUES", {True: "q"}, "whole numbers"),
        ("PRIORITY_QUEUES", {50: "{queue}_urgent"}, "letters, digits and hyphens"),
        ("PRIORITY_QUEUES", {50: "{other}"}, "letters, digits and hyphens"),
    ],
)
def test_a_fault_names_the_option_the_valid_values_and_the_given_value(
    name: str, value: object, wanted: str
) -> None:
    with pytest.raises(OptionsError) as raised:
        read(**{name: value})
    (fault,) = raised.value.faults
    assert fault.option == name
    assert fault.message.startswith(f"{name} must be ")
    assert wanted in fault.message
    assert fault.message.endswith(f"not {value!r}")


@pytest.mark.parametrize(
    ("unknown", "near"),
    [
        ("CLOUD_TASK_PROJECT", "did you mean 'CLOUD_TASKS_PROJECT'?"),
        ("task_handler_host", "did you mean 'TASK_HANDLER_HOST'?"),
        ("COLOUR", "the options are AUTHENTICATION, "),
    ],
)
def test_the_error_for_an_unknown_option_suggests_a_similar_one(unknown: str, near: str) -> None:
    with pytest.raises(OptionsError) as raised:
        read(**{unknown: "x"})
    assert str(raised.value).startswith(f"{unknown!r} is not an option; {near}")


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(OptionsError) as raised:
        read(NAME_TASKS=3, EMULATOR_HOST=3, HUE=3)
    assert [fault.option for fault in raised.value.faults] == ["NAME_TASKS", "EMULATOR_HOST", "HUE"]


NAMES = [
    *("TASK_HANDLER_HOST", "DISPATCH_DEADLINE", "PRIORITY_QUEUES"),
    *("EMULATOR_HOST", "AUTHENTICATION"),
]
VALUES = (
    st.none()
    | st.text()
    | st.integers()
    | st.floats()
    | st.lists(st.integers())
    | st.dictionaries(st.integers() | st.text(), st.text())
)


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), VALUES))
def test_any_options_are_read_or_refused(options: dict[str, Any]) -> None:
    try:
        BackendOptions.from_mapping(options)
    except OptionsError as error:
        assert {fault.option for fault in error.faults} <= set(options)

"""`manage.py check`, with and without --deploy."""

from typing import Any

import pytest
from django.conf import settings
from django.core import checks
from django.test import override_settings
from django_tasks_cloud_tasks import ConfigurationError, ExecuteTaskView
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.django_integration.surroundings import Surroundings, use
from psycopg import IsolationLevel

from tests import recorded_tasks

GOOD = {"TASK_HANDLER_HOST": "https://app.example.com"}
ACCOUNT = {"OIDC_SERVICE_ACCOUNT_EMAIL": "tasks@p.iam.gserviceaccount.com"}


def found(
    options: dict[str, Any],
    *,
    deploy: bool = False,
    environ: dict[str, str] | None = None,
    **settings: Any,
) -> list[str]:
    """The ids of the messages about a backend with these options."""
    backend = {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend", "OPTIONS": options}
    queues = {"QUEUES": settings.pop("QUEUES")} if "QUEUES" in settings else {}
    surroundings = Surroundings(environ=environ or {}, make_metadata=lambda _: NoMetadataServer())
    with use(surroundings), override_settings(TASKS={"default": backend | queues}, **settings):
        messages = checks.run_checks(include_deployment_checks=deploy)
    ours = [m for m in messages if str(m.id).startswith("django_tasks_cloud_tasks.")]
    assert all(message.hint for message in ours)
    assert all("TASKS['default']" in message.msg for message in ours)
    return [str(message.id).rpartition(".")[2] for message in ours]


def test_a_good_site_has_nothing_to_hear() -> None:
    assert found(GOOD) == []
    assert found(GOOD | ACCOUNT, deploy=True) == []
    assert found({}, deploy=True) == []


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"COLOUR": "red"}, ["E001"]),
        ({"NAME_TASKS": "yes", "COLOUR": 1}, ["E001", "E001"]),
        ({"PRIORITY_QUEUES": {101: "{queue}-urgent"}}, ["E002"]),
        ({"PRIORITY_QUEUES": {50: "{queue}_urgent"}}, ["E002"]),
        ({"PRIORITY_QUEUES": {50: "q" * 96 + "{queue}"}}, ["E003"]),
        ({"TASK_HANDLER_PATH": "/elsewhere/"}, ["W001"]),
        ({"TASK_HANDLER_PATH": "/async/cloudtasks/execute/"}, []),
        ({"AUTHENTICATION": "oidc"}, ["E004"]),
        (ACCOUNT, ["E004"]),
        (ACCOUNT | {"OIDC_AUDIENCE": "me"}, []),
        (ACCOUNT | {"AUTHENTICATION": "signature"}, []),
        ({"EMULATOR_HOST": "localhost:8123"}, ["W002"]),
        ({"RESULTS": "database"}, []),
        ({"RESULTS": "database", "NAME_TASKS": False}, ["E001"]),
        ({"RESULTS": "database", "RESULTS_DATABASE": "elsewhere"}, ["E007"]),
    ],
)
def test_what_is_wrong_is_told(options: dict[str, Any], ids: list[str]) -> None:
    assert found(options) == ids


@pytest.mark.parametrize(
    "environ",
    [
        {"CLOUD_TASKS_EMULATOR_HOST": "http://localhost:8123"},
        {"CLOUD_TASKS_EMULATOR_HOST": "localhost"},
        {"TASK_HANDLER_HOST": "localhost:8000"},
    ],
)
def test_what_the_environment_says_wrongly(environ: dict[str, str]) -> None:
    assert found({}, environ=environ, deploy=True) == ["E005"]


def test_names_of_queues() -> None:
    assert found(GOOD, QUEUES=["default", "my_queue"]) == ["E003"]


def test_the_environment_counts() -> None:
    assert found(ACCOUNT, environ={"SERVICE_URL": "https://a.b"}) == []
    assert found(ACCOUNT, environ={"K_SERVICE": "s", "K_REVISION": "r"}) == []
    emulator = {"CLOUD_TASKS_EMULATOR_HOST": "localhost:8123"}
    assert found(GOOD, environ=emulator) == ["W002"]
    assert found(GOOD, environ=emulator, DEBUG=True) == []


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"TASK_HANDLER_HOST": "http://app.example.com"}, ["W003"]),
        (GOOD | {"AUTHENTICATION": "none"}, ["W004"]),
    ],
)
def test_some_things_matter_in_a_deployment_only(options: dict[str, Any], ids: list[str]) -> None:
    assert found(options) == []
    assert found(options, deploy=True) == ids


def test_a_site_without_a_urlconf_is_told_too() -> None:
    assert found(GOOD, ROOT_URLCONF=None) == ["W001"]


def test_results_need_the_app() -> None:
    without = [app for app in settings.INSTALLED_APPS if app != "django_tasks_cloud_tasks"]
    with override_settings(INSTALLED_APPS=without):
        assert found({"RESULTS": "database"}) == ["E006"]


@pytest.mark.parametrize(
    ("entry", "ids"),
    [
        ({"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}, ["W005"]),
        (
            {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": "db.sqlite3",
                "OPTIONS": {"transaction_mode": "immediate"},
            },
            [],
        ),
        ({"ENGINE": "django.db.backends.postgresql", "NAME": "db"}, []),
        (
            {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "db",
                "OPTIONS": {"isolation_level": IsolationLevel.REPEATABLE_READ},
            },
            ["W006"],
        ),
        ({"ENGINE": "django.db.backends.mysql", "NAME": "db"}, []),
        (
            {
                "ENGINE": "django.db.backends.mysql",
                "NAME": "db",
                "OPTIONS": {"isolation_level": "REPEATABLE READ"},
            },
            ["W006"],
        ),
        ({"ENGINE": "django.db.backends.postgresql", "NAME": "db", "AUTOCOMMIT": False}, ["E009"]),
        (
            {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": "db.sqlite3",
                "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 41},
            },
            ["W007"],
        ),
        (
            {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "db",
                "OPTIONS": {"pool": {"min_size": 1, "max_size": 1}},
            },
            ["W009"],
        ),
        (
            {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "db",
                "OPTIONS": {"pool": True},
                "CONN_MAX_AGE": 60,
            },
            [],
        ),
    ],
)
def test_databases_that_make_recorded_tasks_fail_are_told(
    entry: dict[str, Any], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "DATABASES", {**settings.DATABASES, "records": entry})
    assert found({"RESULTS": "database", "RESULTS_DATABASE": "records"}) == ids


def test_kept_connections_and_asgi_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"ENGINE": "django.db.backends.postgresql", "NAME": "db", "CONN_MAX_AGE": None}
    monkeypatch.setattr(settings, "DATABASES", {**settings.DATABASES, "records": entry})
    options = {"RESULTS": "database", "RESULTS_DATABASE": "records"}
    assert found(options) == []
    path = {"TASK_HANDLER_PATH": "/async/cloudtasks/execute/"}
    assert found({**options, **path}) == ["W008"]


def test_results_of_all_backends_are_in_one_database() -> None:
    def backend(database: str, **more: object) -> dict[str, Any]:
        options = {"RESULTS": "database", "RESULTS_DATABASE": database, **more}
        return {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend", "OPTIONS": options}

    tasks = {
        "a": backend("default"),
        "b": backend("default"),
        "c": backend("other"),
        "d": backend("other", COLOUR="red"),
    }
    databases = {**settings.DATABASES, "other": settings.DATABASES["default"]}
    surroundings = Surroundings(environ={}, make_metadata=lambda _: NoMetadataServer())
    with (
        use(surroundings),
        override_settings(TASKS=tasks),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(settings, "DATABASES", databases)
        messages = checks.run_checks()
    told = [m for m in messages if str(m.id).endswith("E008")]
    assert [("'c'" in m.msg, "'a'" in m.msg or "'b'" in m.msg) for m in told] == [(True, True)] * 2


def test_options_beside_options_are_told() -> None:
    entry = {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "OPTIONS": GOOD,
        "NAME_TASKS": False,
        "QUEUE": ["default"],
    }
    surroundings = Surroundings(environ={}, make_metadata=lambda _: NoMetadataServer())
    with use(surroundings), override_settings(TASKS={"default": entry}):
        messages = checks.run_checks()
    told = sorted(m.msg for m in messages if m.id == "django_tasks_cloud_tasks.E001")
    assert "'NAME_TASKS' stands beside OPTIONS, where nobody reads it" in told[0]
    assert "'QUEUE' is no key of an entry of TASKS; did you mean 'QUEUES'?" in told[1]


def test_a_token_beside_an_emulator_needs_no_further_setting() -> None:
    emulator = {"CLOUD_TASKS_EMULATOR_HOST": "localhost:8123"}
    assert found(ACCOUNT, environ=emulator, DEBUG=True) == []


def test_urls_without_the_app_are_told_before_anything_runs() -> None:
    without = [app for app in settings.INSTALLED_APPS if app != "django_tasks_cloud_tasks"]
    with (
        override_settings(INSTALLED_APPS=without),
        pytest.raises(ConfigurationError, match="is not in INSTALLED_APPS"),
    ):
        ExecuteTaskView.as_view()


def test_results_without_the_app_are_told_before_anything_is_enqueued() -> None:
    without = [app for app in settings.INSTALLED_APPS if app != "django_tasks_cloud_tasks"]
    with (
        override_settings(INSTALLED_APPS=without),
        pytest.raises(ConfigurationError, match="is not in INSTALLED_APPS"),
    ):
        recorded_tasks.does.enqueue("a")

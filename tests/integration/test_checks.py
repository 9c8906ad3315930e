"""`manage.py check`, with and without --deploy."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import markcoroutinefunction
from django.conf import settings
from django.core import checks
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django_tasks_cloud_tasks import ConfigurationError, ExecuteTaskView
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime
from psycopg import IsolationLevel

from tests import recorded_tasks

pytestmark = pytest.mark.usefixtures("no_policies")

GOOD = {"TASK_HANDLER_HOST": "https://app.example.com"}
ACCOUNT = {"OIDC_SERVICE_ACCOUNT_EMAIL": "tasks@p.iam.gserviceaccount.com"}


def found(
    options: dict[str, Any],
    *,
    deploy: bool = False,
    environ: dict[str, str] | None = None,
    **settings: Any,
) -> list[str]:
    """Return the ids of the check messages for a backend with these options."""
    backend = {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend", "OPTIONS": options}
    queues = {"QUEUES": settings.pop("QUEUES")} if "QUEUES" in settings else {}
    runtime = Runtime(environ=environ or {}, make_metadata=lambda _: NoMetadataServer())
    with use_runtime(runtime), override_settings(TASKS={"default": backend | queues}, **settings):
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
    runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
    with (
        use_runtime(runtime),
        override_settings(TASKS=tasks),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(settings, "DATABASES", databases)
        messages = checks.run_checks()
    told = [m for m in messages if str(m.id).endswith("E008")]
    assert [(m.msg[6:9], "those of 'a' go to 'default'" in m.msg) for m in told] == [
        ("'c'", True),
        ("'d'", True),
    ]


def test_options_beside_options_are_told() -> None:
    entry = {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "OPTIONS": GOOD,
        "NAME_TASKS": False,
        "QUEUE": ["default"],
    }
    runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
    with use_runtime(runtime), override_settings(TASKS={"default": entry}):
        messages = checks.run_checks()
    told = sorted(m.msg for m in messages if m.id == "django_tasks_cloud_tasks.E001")
    assert "'NAME_TASKS' is beside OPTIONS, where it has no effect" in told[0]
    assert "'QUEUE' is not a key of an entry of TASKS; did you mean 'QUEUES'?" in told[1]


def test_a_token_beside_an_emulator_needs_no_further_setting() -> None:
    emulator = {"CLOUD_TASKS_EMULATOR_HOST": "localhost:8123"}
    assert found(ACCOUNT, environ=emulator, DEBUG=True) == []


def test_a_site_without_the_app_executes_nothing(rf: RequestFactory) -> None:
    without = [app for app in settings.INSTALLED_APPS if app != "django_tasks_cloud_tasks"]
    with (
        override_settings(INSTALLED_APPS=without),
        pytest.raises(ConfigurationError, match="is not in INSTALLED_APPS"),
    ):
        ExecuteTaskView.endpoint()(rf.post("/"))


def test_results_without_the_app_are_told_before_anything_is_enqueued() -> None:
    without = [app for app in settings.INSTALLED_APPS if app != "django_tasks_cloud_tasks"]
    with (
        use_runtime(Runtime()),
        override_settings(INSTALLED_APPS=without),
        pytest.raises(ConfigurationError, match="is not in INSTALLED_APPS"),
    ):
        recorded_tasks.does.enqueue("a")


# The check that delivers.


def refuse_all(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that answers every request with 503, as during maintenance."""
    return lambda request: HttpResponse("closed", status=503)


def read_all(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that reads the body of every request."""

    def middleware(request: HttpRequest) -> HttpResponse:
        assert request.body
        return get_response(request)

    return middleware


def break_all(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that raises after the view has returned."""

    def middleware(request: HttpRequest) -> HttpResponse:
        get_response(request)
        raise RuntimeError("the way back")

    return middleware


HERE = __name__
COMMON = "django.middleware.common.CommonMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"


def told(options: dict[str, Any] | None = None, **settings: Any) -> list[tuple[str, str]]:
    """Return the messages and hints about the causes that prevent a delivery."""
    backend = {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "OPTIONS": GOOD | (options or {}),
    }
    runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
    tasks = {"default": backend, "two": backend}
    with use_runtime(runtime), override_settings(TASKS=tasks, **settings):
        messages = checks.run_checks(include_deployment_checks=True)
    found = [m for m in messages if m.id == "django_tasks_cloud_tasks.W010"]
    return [(m.msg, str(m.hint)) for m in found]


@pytest.mark.parametrize(
    ("options", "changed", "said", "advice"),
    [
        (
            {},
            {"ALLOWED_HOSTS": ["other.example.com"], "MIDDLEWARE": [COMMON]},
            "Django refuses the host 'app.example.com'",
            "Add 'app.example.com' to ALLOWED_HOSTS.",
        ),
        (
            {"TASK_HANDLER_HOST": "https://my_app.example.com"},
            {"MIDDLEWARE": [COMMON]},
            "Django refuses the host 'my_app.example.com'",
            "Give the app a host name of letters, digits, hyphens and dots",
        ),
        (
            {},
            {"DATA_UPLOAD_MAX_MEMORY_SIZE": 500_000},
            "DATA_UPLOAD_MAX_MEMORY_SIZE is 500000",
            "Set DATA_UPLOAD_MAX_MEMORY_SIZE to 1048569 or more",
        ),
        (
            {},
            {"DATA_UPLOAD_MAX_MEMORY_SIZE": 500_000, "MIDDLEWARE": [f"{HERE}.read_all"]},
            "DATA_UPLOAD_MAX_MEMORY_SIZE is 500000",
            "Set DATA_UPLOAD_MAX_MEMORY_SIZE to 1048569 or more",
        ),
        (
            {},
            {"MIDDLEWARE": [SECURITY, COMMON], "SECURE_SSL_REDIRECT": True},
            "because of SECURE_SSL_REDIRECT the site answers 301 to https://app.example.com/cloudtasks/",
            "Set SECURE_PROXY_SSL_HEADER to the header",
        ),
        (
            {},
            {"MIDDLEWARE": [SECURITY, COMMON], "PREPEND_WWW": True},
            "because of PREPEND_WWW the site answers 301 to http://www.app.example.com/cloudtasks/",
            "Set TASK_HANDLER_HOST to https://www.app.example.com: Cloud Tasks does not",
        ),
        (
            {},
            {"MIDDLEWARE": [SECURITY, f"{HERE}.refuse_all"]},
            f"the middleware {HERE}.refuse_all answers 503",
            "Change refuse_all, so that requests to /cloudtasks/execute/ reach",
        ),
        (
            {},
            {"MIDDLEWARE": [f"{HERE}.break_all", SECURITY]},
            f"the middleware {HERE}.break_all answers 500 (RuntimeError: the way back) in",
            "Fix break_all, or change it, so that requests to /cloudtasks/execute/",
        ),
        (
            {},
            {"MIDDLEWARE": [COMMON], "DISALLOWED_USER_AGENTS": [re.compile("^Google")]},
            "because of DISALLOWED_USER_AGENTS the site answers 403 (PermissionDenied: Forbidden",
            "Remove the pattern that matches Google-Cloud-Tasks.",
        ),
    ],
)
def test_what_stops_a_delivery_is_told_once_with_its_setting(
    options: dict[str, Any], changed: dict[str, Any], said: str, advice: str
) -> None:
    ((message, hint),) = told(options, **changed)
    assert message.startswith(
        f"TASKS['default']: Cloud Tasks cannot deliver to /cloudtasks/execute/: {said}"
    )
    assert hint.startswith(advice)


@pytest.mark.parametrize(
    "changed",
    [
        {"SECURE_SSL_REDIRECT": True, "SECURE_PROXY_SSL_HEADER": ("HTTP_X_PROTO", "https")},
        {"ALLOWED_HOSTS": [".example.com"]},
        {"DATA_UPLOAD_MAX_MEMORY_SIZE": None},
    ],
    ids=str,
)
def test_a_delivery_that_arrives_is_not_told(changed: dict[str, Any]) -> None:
    middleware = [SECURITY, COMMON, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert told(MIDDLEWARE=[*settings.MIDDLEWARE, *middleware], **changed) == []
    path = {"TASK_HANDLER_PATH": "/async/cloudtasks/execute/"}
    assert told(path, MIDDLEWARE=[*settings.MIDDLEWARE, *middleware], **changed) == []


def test_a_delivery_that_is_tried_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    assert len(told(ALLOWED_HOSTS=["a.example.com"], MIDDLEWARE=[COMMON])) == 1
    assert caplog.records == []


def closed_with_200(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that answers every request with 200 instead of the view."""
    return lambda request: HttpResponse("closed")


def test_a_middleware_that_answers_200_loses_tasks_and_is_told() -> None:
    (cause,) = causes(MIDDLEWARE=[SECURITY, f"{HERE}.closed_with_200"])
    assert cause.startswith(
        f"the middleware {HERE}.closed_with_200 answers 200 instead of the view"
    )


def loopback_only(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that accepts only requests from this machine."""

    def middleware(request: HttpRequest) -> HttpResponse:
        address = request.META["REMOTE_ADDR"]
        return get_response(request) if address == "127.0.0.1" else HttpResponse(status=403)

    return middleware


def office_only(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that accepts only requests with an allowed address in X-Forwarded-For."""

    def middleware(request: HttpRequest) -> HttpResponse:
        address = request.META.get("HTTP_X_FORWARDED_FOR", "127.0.0.1")
        return get_response(request) if address == "127.0.0.1" else HttpResponse(status=403)

    return middleware


def no_tokens(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that refuses requests with a token, because it expects its own tokens."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=401 if "HTTP_AUTHORIZATION" in request.META else 200)

    return middleware


def json_only(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that parses the JSON of requests and responses."""

    def middleware(request: HttpRequest) -> HttpResponse:
        assert json.loads(request.body)["task_path"]
        response = get_response(request)
        assert json.loads(response.content)["status"]
        return response

    return middleware


def of_asgi(get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> object:
    """A middleware that works only under ASGI."""

    async def middleware(request: HttpRequest) -> HttpResponse:
        assert request.scope["type"] == "http"  # type: ignore[attr-defined]  # a request over ASGI
        return await get_response(request)

    return markcoroutinefunction(middleware)


of_asgi.async_capable, of_asgi.sync_capable = True, False  # type: ignore[attr-defined]  # Django's


def names_tenant(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that refuses every request. `needs_tenant` depends on it."""
    return lambda request: HttpResponse(status=405)


def needs_tenant(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """A middleware that needs an attribute that another middleware sets."""
    return lambda request: get_response(request.tenant)


class RefusingView(ExecuteTaskView):
    """A view of the site that refuses a delivery before it executes the task."""

    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=403)


def causes(options: dict[str, Any] | None = None, **settings: Any) -> list[str]:
    return [message.partition("execute/: ")[2] for message, _ in told(options, **settings)]


@pytest.mark.parametrize("name", ["loopback_only", "office_only"])
def test_a_delivery_comes_from_another_machine(name: str) -> None:
    (cause,) = causes(MIDDLEWARE=[f"{HERE}.{name}"])
    assert cause.startswith(f"the middleware {HERE}.{name} answers 403")


def test_a_delivery_has_the_token_that_the_tasks_will_have() -> None:
    assert len(causes(ACCOUNT, MIDDLEWARE=[f"{HERE}.no_tokens"])) == 1


def test_a_delivery_looks_like_a_task_and_is_answered_like_one() -> None:
    assert causes(MIDDLEWARE=[f"{HERE}.json_only"]) == []


def test_a_site_on_asgi_is_tried_over_asgi() -> None:
    path = {"TASK_HANDLER_PATH": "/async/cloudtasks/execute/"}
    assert causes(path, MIDDLEWARE=[f"{HERE}.of_asgi"]) == []


def test_a_middleware_that_lacks_one_that_was_left_out_is_not_told() -> None:
    middleware = [f"{HERE}.names_tenant", f"{HERE}.needs_tenant"]
    (cause,) = causes(MIDDLEWARE=middleware)
    assert "names_tenant" in cause


def test_a_middleware_that_is_not_there_is_told_with_all_else() -> None:
    middleware = [COMMON, "mysite.nothere.Middleware"]
    found = causes(MIDDLEWARE=middleware, ALLOWED_HOSTS=["other.example.com"])
    assert [cause[:34] for cause in found] == [
        "the middleware mysite.nothere.Midd",
        "Django refuses the host 'app.examp",
    ]


def test_a_view_of_the_sites_own_that_refuses_is_told() -> None:
    (cause,) = causes(ROOT_URLCONF=__name__)
    assert cause.startswith("/cloudtasks/execute/ answers 403 instead of the view")


urlpatterns = [path("cloudtasks/execute/", RefusingView.as_view())]


def test_two_hosts_that_meet_the_same_setting_are_told_once() -> None:
    backend = {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend"}
    tasks = {
        name: backend | {"OPTIONS": {"TASK_HANDLER_HOST": f"https://{name}.example.com"}}
        for name in ("default", "two")
    }
    changed = {"MIDDLEWARE": [SECURITY], "SECURE_SSL_REDIRECT": True}
    with override_settings(TASKS=tasks, **changed):
        messages = checks.run_checks(include_deployment_checks=True)
    assert [m.id for m in messages if m.id == "django_tasks_cloud_tasks.W010"] == [
        "django_tasks_cloud_tasks.W010"
    ]


def test_a_wrong_path_does_not_hide_what_else_stops_a_delivery() -> None:
    changed = {"ALLOWED_HOSTS": ["other.example.com"], "MIDDLEWARE": [COMMON]}
    found = told({"TASK_HANDLER_PATH": "/wrong/"}, DATA_UPLOAD_MAX_MEMORY_SIZE=1, **changed)
    assert [message.partition("/wrong/: ")[2][:24] for message, _ in found] == [
        "Django refuses the host ",
        "DATA_UPLOAD_MAX_MEMORY_S",
    ]


def test_a_host_that_is_not_known_is_said_not_to_be_compared() -> None:
    assert found({}, deploy=True, ALLOWED_HOSTS=["app.example.com"]) == ["I001"]


@pytest.mark.parametrize(
    "path", ["/cloudtasks/execute/?tenant=a", "/cloud%74asks/execute/", "/de/cloudtasks/execute/"]
)
def test_a_path_is_read_as_the_site_will_read_it(path: str) -> None:
    middleware = ["django.middleware.locale.LocaleMiddleware"]
    urls = "tests.urls_by_language" if path.startswith("/de") else "tests.urls"
    options = GOOD | {"TASK_HANDLER_PATH": path}
    assert found(options, deploy=True, MIDDLEWARE=middleware, ROOT_URLCONF=urls) == []


@pytest.mark.parametrize("options", [None, [], "OPTIONS"])
def test_options_that_are_no_mapping_are_told(options: Any) -> None:
    assert found(options) == ["E001"]


def test_a_host_with_a_password_is_told() -> None:
    assert found({"TASK_HANDLER_HOST": "https://user:password@app.example.com"}) == ["E001"]


def test_a_view_that_the_site_routes_itself_demands_the_app() -> None:
    without = [app for app in settings.INSTALLED_APPS if app != "django_tasks_cloud_tasks"]
    with (
        override_settings(INSTALLED_APPS=without),
        pytest.raises(ConfigurationError, match="is not in INSTALLED_APPS"),
    ):
        ExecuteTaskView.as_view()


def test_behind_all_that_stops_it_a_delivery_is_tried_on() -> None:
    """Each setting that is wrong is told in the same run, from the outside inwards."""
    found = told(
        ALLOWED_HOSTS=["other.example.com"],
        SECURE_SSL_REDIRECT=True,
        DATA_UPLOAD_MAX_MEMORY_SIZE=1,
        MIDDLEWARE=[SECURITY, COMMON, f"{HERE}.read_all", f"{HERE}.refuse_all"],
    )
    assert [message.partition("execute/: ")[2][:24] for message, _ in found] == [
        "Django refuses the host ",
        "because of SECURE_SSL_RE"[:24],
        "DATA_UPLOAD_MAX_MEMORY_S",
        f"the middleware {HERE}"[:24],
    ]


def test_a_request_from_outside_is_no_probe() -> None:
    headers = {"django_tasks_cloud_tasks.probe": "1", "HTTP_DJANGO_TASKS_CLOUD_TASKS_PROBE": "1"}
    assert Client().post("/cloudtasks/execute/", **headers).status_code == 401  # type: ignore[arg-type]  # as WSGI has them


@pytest.mark.parametrize(
    ("path", "prefix", "ids"),
    [
        ("/app/cloudtasks/execute/", {"FORCE_SCRIPT_NAME": "/app"}, []),
        ("/app/cloudtasks/execute/", {"FORCE_SCRIPT_NAME": "/app/"}, []),
        (None, {"FORCE_SCRIPT_NAME": "/app"}, ["W001"]),
        ("/application/cloudtasks/execute/", {"FORCE_SCRIPT_NAME": "/app"}, ["W001"]),
        ("/app/elsewhere/", {"FORCE_SCRIPT_NAME": "/app"}, ["W001"]),
        ("/app/cloudtasks/execute/", {}, ["W001"]),
        ("/app/cloudtasks/execute/", {"environ": {"SCRIPT_NAME": "/app"}}, []),
        (None, {"environ": {"SCRIPT_NAME": "/app"}}, ["W001"]),
    ],
)
def test_a_site_below_a_prefix(path: str | None, prefix: dict[str, Any], ids: list[str]) -> None:
    options = GOOD | ({"TASK_HANDLER_PATH": path} if path else {})
    assert found(options, deploy=True, **prefix) == ids


# Many at once.


def test_several_pitfalls_are_told_in_one_run_each_once() -> None:
    options = {
        "COLOUR": "red",
        "RESULTS": "database",
        "RESULTS_DATABASE": "elsewhere",
        "TASK_HANDLER_PATH": "/elsewhere/",
        "AUTHENTICATION": "none",
        "TASK_HANDLER_HOST": "http://app.example.com/path",
    }
    entry = {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "QUEUES": ["my_queue"],
        "OPTIONS": options,
        "NAME_TASKS": True,
    }
    second = {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "OPTIONS": GOOD | {"RESULTS": "database"},
    }
    without = [app for app in settings.INSTALLED_APPS if app != "django_tasks_cloud_tasks"]
    environ = {"CLOUD_TASKS_EMULATOR_HOST": "localhost", "SERVICE_URL": "app.example.com"}
    runtime = Runtime(environ=environ, make_metadata=lambda _: NoMetadataServer())
    changed = {"INSTALLED_APPS": without, "ROOT_URLCONF": "tests.urls_of_tasks"}
    tasks = {"default": entry, "second": second}
    with use_runtime(runtime), override_settings(TASKS=tasks, **changed):
        messages = checks.run_checks()
    ids = [str(m.id).rpartition(".")[2] for m in messages if str(m.id).startswith("django_tasks_c")]
    assert sorted(ids) == [
        *("E001", "E001", "E001"),  # COLOUR, NAME_TASKS beside, a host with a path
        *("E003", "E005", "E005", "E006", "E007", "E008", "W001"),
    ]

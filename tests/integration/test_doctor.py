"""`manage.py cloudtasks_doctor`: each test breaks one thing, and the doctor names it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings
from django_tasks_cloud_tasks.adapters.cloud_tasks import GrpcTaskQueue
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.adapters.queue_admin import GrpcQueueAdmin
from django_tasks_cloud_tasks.core.errors import AdministrationError, PermissionDeniedError
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator
from pytest_django.live_server_helper import LiveServer

from tests.integration.grpc_calls import client_over
from tests.integration.http_servers import handler

pytestmark = pytest.mark.usefixtures("no_policies")

PARENT = "projects/p/locations/europe-west1"
QUEUE = f"{PARENT}/queues/default"
ACCOUNT: dict[str, Any] = {"OIDC_SERVICE_ACCOUNT_EMAIL": "shop@p.iam.gserviceaccount.com"}
BACKEND = "django_tasks_cloud_tasks.CloudTasksBackend"


@pytest.fixture
def emulator() -> Iterator[BackgroundEmulator]:
    with BackgroundEmulator(lambda: Emulator(queues=[QUEUE])) as running:
        yield running


@contextmanager
def client_of(emulator: BackgroundEmulator) -> Iterator[Any]:
    """A context with the official client of the emulator."""
    with grpc.insecure_channel(emulator.address) as channel:
        yield client_over(channel)


def examine(
    emulator: str, *, host: str = "http://127.0.0.1:1", timeout: float = 20, **options: object
) -> tuple[list[dict[str, str]], bool]:
    """Run the doctor. Return its findings, and whether it exits with an error."""
    place = {
        "CLOUD_TASKS_PROJECT": "p",
        "CLOUD_TASKS_LOCATION": "europe-west1",
        "TASK_HANDLER_HOST": host,
        "EMULATOR_HOST": emulator,
    }
    kept = {name: value for name, value in {**place, **options}.items() if value is not None}
    out, failed = io.StringIO(), False
    runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
    entry = {"BACKEND": BACKEND, "QUEUES": ["default"], "OPTIONS": kept}
    with use_runtime(runtime), override_settings(DEBUG=True, TASKS={"default": entry}):
        try:
            call_command("cloudtasks_doctor", timeout=timeout, format="json", stdout=out)
        except CommandError:
            failed = True
    return json.loads(out.getvalue()), failed


def errors(found: list[dict[str, str]], step: str = "") -> list[str]:
    """Return message and remedy of each error, or of each error of one step."""
    return [
        f"{one['message']} {one['remedy']}"
        for one in found
        if one["level"] == "error" and (not step or one["step"] == step)
    ]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/cloudtasks/execute/", "/async/cloudtasks/execute/"])
@pytest.mark.parametrize("mode", ["oidc", "signature"])
def test_a_site_that_works_is_told_so(
    emulator: BackgroundEmulator, live_server: LiveServer, path: str, mode: str, ran: list[object]
) -> None:
    account = ACCOUNT if mode == "oidc" else {}
    found, failed = examine(
        emulator.address,
        host=live_server.url,
        TASK_HANDLER_PATH=path,
        AUTHENTICATION=mode,
        **account,
    )
    assert not failed, errors(found)
    (probe,) = [one for one in found if one["step"] == "probe"]
    assert "created, delivered, authenticated and answered in" in probe["message"]
    settings = [one["message"] for one in found if one["step"] == "settings"]
    assert "CLOUD_TASKS_PROJECT is p (CLOUD_TASKS_PROJECT in OPTIONS)." in settings
    assert ran == [], "no task has run"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (301, "SECURE_PROXY_SSL_HEADER"),
        (400, "ALLOWED_HOSTS"),
        (401, "OIDC_AUDIENCE"),
        (403, "roles/run.invoker"),
        (404, "TASK_HANDLER_PATH"),
        (405, "TASK_HANDLER_PATH"),
        (413, "at least 1 MB"),
        (429, "number of instances"),
        (500, "log of the app"),
        (502, "log of the app"),
        (418, "log of the app"),
    ],
)
def test_what_the_handler_answers_is_named(
    emulator: BackgroundEmulator, status: int, said: str
) -> None:
    with handler(status) as (url, _):
        host = "/".join(url.split("/")[:3])
        found, failed = examine(emulator.address, host=host, **ACCOUNT)
    assert failed
    (error,) = errors(found, "probe")
    assert f"answered {status}." in error
    assert said in error
    assert ACCOUNT["OIDC_SERVICE_ACCOUNT_EMAIL"] in error or status != 403
    with client_of(emulator) as client:
        assert list(client.list_tasks(parent=QUEUE)) == [], "the probe is deleted"


@pytest.mark.django_db(transaction=True)
def test_another_secret_key_is_named(emulator: BackgroundEmulator) -> None:
    with handler(401) as (url, _):
        host = "/".join(url.split("/")[:3])
        found, _ = examine(emulator.address, host=host, AUTHENTICATION="signature")
    (error,) = errors(found, "probe")
    assert "SECRET_KEY_FALLBACKS" in error


@pytest.mark.django_db(transaction=True)
def test_a_handler_that_nobody_answers_is_named(emulator: BackgroundEmulator) -> None:
    found, failed = examine(emulator.address, host="http://127.0.0.1:1")
    assert failed
    (error,) = errors(found, "probe")
    assert "No server answered at this address" in error
    assert "http://127.0.0.1:1/cloudtasks/execute/" in error


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_does_not_come_in_time_is_named(emulator: BackgroundEmulator) -> None:
    hold = threading.Event()
    with handler(hold=hold) as (url, called):
        host = "/".join(url.split("/")[:3])
        found, failed = examine(emulator.address, host=host, timeout=1.5)
        assert called.is_set()
        hold.set()
    assert failed
    (error,) = errors(found, "probe")
    assert "no answer came within 1.5 s" in error


@pytest.mark.django_db(transaction=True)
def test_queues_that_are_missing_or_paused_are_named_and_no_probe_is_sent(
    emulator: BackgroundEmulator,
) -> None:
    with client_of(emulator) as client:
        client.pause_queue(name=QUEUE)
        found, failed = examine(emulator.address, PRIORITY_QUEUES={50: "{queue}-urgent"})
        assert failed
        (paused,) = errors(found, "queue default")
        assert "The queue is PAUSED" in paused
        assert "cloudtasks_queues resume default" in paused
        (missing,) = errors(found, "queue default-urgent")
        assert "does not exist" in missing
        assert "cloudtasks_queues apply" in missing
        assert errors(found, "probe") == []


@pytest.mark.django_db(transaction=True)
def test_a_queue_that_contradicts_the_policies_of_its_tasks_is_named(
    emulator: BackgroundEmulator, live_server: LiveServer
) -> None:
    with client_of(emulator) as client:
        client.update_queue(queue={"name": QUEUE, "retry_config": {"max_attempts": 3}})
        found, failed = examine(emulator.address, host=live_server.url)
        assert not failed
        (warning,) = [one for one in found if one["step"] == "queue default"]
        assert "gives a task up after 3 attempts" in warning["message"]
        assert "may have 100" in warning["message"]
        client.update_queue(
            queue={
                "name": QUEUE,
                "retry_config": {"max_attempts": -1, "max_retry_duration": {"seconds": 60}},
            }
        )
        found, _ = examine(emulator.address, host=live_server.url)
        (warning,) = [one for one in found if one["step"] == "queue default"]
        assert "gives a task up after 0:01:00" in warning["message"]
        # Tasks with a policy carry their own retry settings.
        found, _ = examine(emulator.address, host=live_server.url, MAX_ATTEMPTS=5)
        assert [one["level"] for one in found if one["step"] == "queue default"] == ["ok"]


@pytest.mark.django_db(transaction=True)
def test_tables_that_are_missing_are_named(
    emulator: BackgroundEmulator, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, failed = examine(emulator.address, host=live_server.url, RESULTS="database")
    assert not failed, errors(found)
    assert any("are up to date" in one["message"] for one in found)
    applied = MigrationRecorder(connections["default"]).applied_migrations()
    known = {key: value for key, value in applied.items() if key[1] != "0003_schedules"}
    monkeypatch.setattr(MigrationRecorder, "applied_migrations", lambda _: known)
    found, failed = examine(emulator.address, host=live_server.url, RESULTS="database")
    assert failed
    (error,) = errors(found, "database")
    assert "lacks these migrations of django_tasks_cloud_tasks: 0003_schedules" in error
    assert "manage.py migrate --database default" in error


@pytest.mark.django_db(transaction=True)
def test_settings_that_are_missing_are_named_with_what_was_tried() -> None:
    found, failed = examine("", host=None, EMULATOR_HOST=None, CLOUD_TASKS_PROJECT=None)  # type: ignore[arg-type]  # no host
    assert failed
    told = errors(found, "settings")
    assert any("Set CLOUD_TASKS_PROJECT in the OPTIONS" in error for error in told)
    assert any("Set TASK_HANDLER_HOST in the OPTIONS" in error for error in told)


@pytest.mark.django_db(transaction=True)
def test_the_faults_of_the_checks_are_among_the_findings(emulator: BackgroundEmulator) -> None:
    found, failed = examine(emulator.address, COLOUR="red")
    assert failed
    (error,) = errors(found, "checks")
    assert "'COLOUR' is not an option" in error
    assert "(E001)" in error


@pytest.mark.django_db(transaction=True)
def test_an_emulator_that_does_not_run_is_named() -> None:
    found, failed = examine("127.0.0.1:1")
    assert failed
    (error,) = errors(found, "queues")
    assert "The call to the emulator at 127.0.0.1:1 failed" in error


@pytest.mark.django_db(transaction=True)
def test_roles_that_are_missing_are_named(
    emulator: BackgroundEmulator, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionDeniedError("Grant roles/iam.serviceAccountUser on shop@p.")

    with monkeypatch.context() as patch:
        patch.setattr(GrpcTaskQueue, "create", refuse)
        found, failed = examine(emulator.address, host=live_server.url)
        assert failed
        assert "roles/iam.serviceAccountUser" in errors(found, "probe")[0]

    def may_not(*_: object) -> None:
        raise AdministrationError("The account may not do this.", forbidden=True)

    with monkeypatch.context() as patch:
        patch.setattr(GrpcQueueAdmin, "queues", may_not)
        found, failed = examine(emulator.address, host=live_server.url)
        assert not failed
        assert [one["level"] for one in found if one["step"] == "queues"] == ["warning"]
        assert [one["level"] for one in found if one["step"] == "probe"] == ["ok"]

    monkeypatch.setattr(GrpcQueueAdmin, "status", may_not)
    found, failed = examine(emulator.address, host=live_server.url)
    assert not failed
    (probe,) = [one for one in found if one["step"] == "probe"]
    assert probe["level"] == "warning"
    assert "roles/cloudtasks.viewer" in probe["remedy"]


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(CommandError, match="'mial' is not an entry of TASKS"):
        call_command("cloudtasks_doctor", "--backend", "mial")


@pytest.mark.django_db(transaction=True)
def test_the_text_has_a_line_for_each_step(
    emulator: BackgroundEmulator, live_server: LiveServer
) -> None:
    place = {
        "CLOUD_TASKS_PROJECT": "p",
        "CLOUD_TASKS_LOCATION": "europe-west1",
        "TASK_HANDLER_HOST": live_server.url,
        "EMULATOR_HOST": emulator.address,
    }
    out = io.StringIO()
    entry = {"BACKEND": BACKEND, "QUEUES": ["default"], "OPTIONS": place}
    with override_settings(DEBUG=True, TASKS={"default": entry}):
        call_command("cloudtasks_doctor", stdout=out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "TASKS['default']"
    assert "  ok      queue default: The queue exists and dispatches tasks." in lines
    assert lines[-1] == "Tasks can run."

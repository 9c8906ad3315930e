"""The URL and the command of the relay, and the command that prunes records."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client, override_settings
from django_tasks_cloud_tasks.adapters.memory import MemoryTokens
from django_tasks_cloud_tasks.core.errors import QueueNotFoundError
from django_tasks_cloud_tasks.core.records import State
from django_tasks_cloud_tasks.core.requests import OidcIdentity
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime
from django_tasks_cloud_tasks.django_integration.signing import sign

from tests import recorded_tasks
from tests.integration.databases import sqlite
from tests.integration.emulator_program import emulator_program
from tests.integration.paths import ROOT
from tests.integration.recording import START, Site, enqueue_and_die, recording
from tests.integration.refusals import QUEUE
from tests.records import changed

ACCOUNT, AUDIENCE = "tasks@p.iam.gserviceaccount.com", "https://app.example.com"


@pytest.fixture
def site() -> Iterator[Site]:
    with recording() as made:
        yield made


# The endpoint.


def relay(path: str = "/cloudtasks/relay/", **headers: str) -> tuple[int, Any]:
    response: Any = Client().post(path, headers=headers, content_type="application/json", data=b"")
    return response.status_code, json.loads(response.content)


@pytest.mark.parametrize("path", ["/cloudtasks/relay/", "/async/cloudtasks/relay/"])
def test_the_endpoint_sends_waiting_tasks(site: Site, path: str) -> None:
    enqueue_and_die(site, 250)
    signature = {"X-Django-Tasks-Signature": sign(b"")}
    assert relay(path, **signature) == (200, {"status": "success", "sent": 250, "failed": 0})
    assert len(site.queue.requests) == 250
    assert relay(path, **signature) == (200, {"status": "success", "sent": 0, "failed": 0})


def test_the_endpoint_reports_tasks_that_cloud_tasks_does_not_accept(site: Site) -> None:
    enqueue_and_die(site, 3)
    site.queue.down = QueueNotFoundError("The queue does not exist")
    signature = {"X-Django-Tasks-Signature": sign(b"")}
    assert relay(**signature) == (503, {"status": "error", "sent": 0, "failed": 3})


def test_refused_tasks_do_not_delay_the_others(site: Site) -> None:
    enqueue_and_die(site, 250)
    create = site.queue.create
    refused: list[str] = []

    def refuse_one(request: Any, **more: Any) -> None:
        if not refused:
            refused.append(request.task_id)
            raise QueueNotFoundError("The queue does not exist")
        create(request, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.queue, "create", refuse_one)
        with pytest.raises(CommandError, match="did not accept: 1"):
            run("cloudtasks_relay", "--once")
    assert len(site.queue.requests) == 249


def test_running_tasks_do_not_hide_waiting_tasks(site: Site) -> None:
    record = site.record(recorded_tasks.does.enqueue("a").id)
    for number in range(120):
        running = changed(
            record,
            payload__task_id=str(number),
            state=State.RUNNING,
            claim__token=str(number),
            claim__expires_at=START + timedelta(hours=1),
            relay__at=START,
        )
        site.store.add(running)
    soon = START + timedelta(seconds=1)
    site.store.add(
        changed(record, payload__task_id="waits", redelivery__sent=False, relay__at=soon)
    )
    site.wait(2)
    assert "Sent: 1. Not accepted: 0." in run("cloudtasks_relay", "--once")


def test_the_endpoint_refuses_a_caller_without_proof(site: Site) -> None:
    enqueue_and_die(site)
    assert relay()[0] == 401
    assert relay(**{"X-Django-Tasks-Signature": sign(b"something else")})[0] == 401
    assert Client().get("/cloudtasks/relay/").status_code == 405
    assert site.queue.requests == []


def test_the_endpoint_accepts_the_token_of_cloud_scheduler(site: Site) -> None:
    tokens = MemoryTokens(time=START.timestamp)
    get_runtime().make_tokens = lambda _: tokens
    entry: dict[str, Any] = dict(settings.TASKS["stored"])
    options = {
        **entry["OPTIONS"],
        "OIDC_SERVICE_ACCOUNT_EMAIL": ACCOUNT,
        "OIDC_AUDIENCE": AUDIENCE,
    }
    with override_settings(TASKS={"stored": {**entry, "OPTIONS": options}}):
        enqueue_and_die(site)
        right = OidcIdentity(service_account_email=ACCOUNT, audience=AUDIENCE)
        for wrong, status in (
            (attrs.evolve(right, audience="https://other.example.com"), 401),
            (attrs.evolve(right, service_account_email="other@p"), 403),
        ):
            assert relay(Authorization=f"Bearer {tokens.issue(wrong)}")[0] == status
        assert relay(**{"X-Django-Tasks-Signature": sign(b"")})[0] == 401
        assert site.queue.requests == []
        assert relay(Authorization=f"Bearer {tokens.issue(right)}")[1]["sent"] == 1


def test_a_caller_of_one_backend_relays_only_its_tasks(site: Site) -> None:
    """This backend accepts a signature; the other one requires a token."""
    entry: dict[str, Any] = dict(settings.TASKS["stored"])
    options = {
        **entry["OPTIONS"],
        "OIDC_SERVICE_ACCOUNT_EMAIL": ACCOUNT,
        "OIDC_AUDIENCE": AUDIENCE,
    }
    more = {"vault": {**entry, "OPTIONS": options}}
    with override_settings(TASKS={**settings.TASKS, **more}):
        site.queue.down = SystemExit()
        for backend in ("stored", "vault"):
            with pytest.raises(SystemExit):
                recorded_tasks.does.using(backend=backend).enqueue("a")
        site.queue.down = None
        site.wait(60)
        assert relay(**{"X-Django-Tasks-Signature": sign(b"")})[1]["sent"] == 1
        (request,) = site.queue.requests
        assert request.oidc is None


# The commands.


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()


def test_the_command_with_once_relays_and_ends(site: Site) -> None:
    enqueue_and_die(site, 150)
    assert (
        run("cloudtasks_relay", "--once")
        == "Sent: 100. Not accepted: 0.\nSent: 50. Not accepted: 0.\n"
    )
    assert run("cloudtasks_relay", "--once") == "Nothing is due.\n"


def test_the_command_reports_tasks_that_wait_after_failures(site: Site) -> None:
    enqueue_and_die(site, 2)
    site.queue.down = QueueNotFoundError("The queue does not exist")
    with pytest.raises(CommandError):
        run("cloudtasks_relay", "--once")
    assert run("cloudtasks_relay", "--once") == (
        "Nothing is due.\nTasks that wait after failures: 2. The next attempt is at "
        "2026-11-22 12:01:01 UTC. The error of its task is: The queue does not exist\n"
    )


def with_authentication(mode: str) -> override_settings:
    entry: dict[str, Any] = dict(settings.TASKS["stored"])
    options = {**entry["OPTIONS"], "AUTHENTICATION": mode}
    if mode == "platform":
        options |= {"OIDC_SERVICE_ACCOUNT_EMAIL": ACCOUNT, "OIDC_AUDIENCE": AUDIENCE}
    return override_settings(TASKS={"stored": {**entry, "OPTIONS": options}})


@pytest.mark.parametrize("mode", ["signature", "platform"])
def test_cloud_scheduler_calls_with_the_static_header_that_the_command_prints(
    site: Site, mode: str
) -> None:
    with with_authentication(mode):
        enqueue_and_die(site)
        name, _, value = run("cloudtasks_relay", "--print-signature").strip().partition("=")
        headers = {name: value}
        if mode == "platform":
            claims = {"iss": "https://accounts.google.com", "email": ACCOUNT}
            told = base64.urlsafe_b64encode(json.dumps({**claims, "email_verified": True}).encode())
            token = f"e30.{told.decode().rstrip('=')}.SIGNATURE_REMOVED_BY_GOOGLE"
            headers["Authorization"] = f"Bearer {token}"
        assert relay(**headers) == (200, {"status": "success", "sent": 1, "failed": 0})
        # This header authorizes the relay and no execution of a task.
        response: Any = Client().post(
            "/cloudtasks/execute/", headers=headers, content_type="application/json", data=b""
        )
        assert response.status_code == 400
        response = Client().post(
            "/cloudtasks/execute/",
            headers=headers,
            content_type="application/json",
            data=site.queue.requests[0].body,
        )
        assert response.status_code == 401


@pytest.mark.parametrize("interval", ["0", "-1", "nan"])
def test_an_invalid_interval_is_refused(site: Site, interval: str) -> None:
    with pytest.raises(CommandError, match="must be more than 0 seconds"):
        run("cloudtasks_relay", f"--interval={interval}")


def test_the_command_ends_with_an_error_if_tasks_are_refused(site: Site) -> None:
    enqueue_and_die(site)
    site.queue.down = QueueNotFoundError("The queue does not exist")
    with pytest.raises(CommandError, match=r"did not accept: 1\. The log contains the"):
        run("cloudtasks_relay", "--once")


@pytest.mark.parametrize(
    "command", [["cloudtasks_relay", "--once"], ["cloudtasks_prune", "--older-than=1d"]]
)
def test_the_commands_require_a_store(command: list[str]) -> None:
    with (
        override_settings(TASKS={"default": settings.TASKS["default"]}),
        pytest.raises(CommandError, match="Set RESULTS to 'database'"),
    ):
        run(*command)


def test_the_relay_runs_until_a_signal_stops_it(tmp_path: Path) -> None:
    """The relay is a process of its own; another process records a task and dies."""
    database = sqlite(tmp_path)
    (tmp_path / "own_settings.py").write_text(
        "from tests.settings import *\n"
        f"DATABASES = {{'default': {database | {'NAME': str(database['NAME'])}!s}}}\n"
        "import os\n"
        "TASKS['stored']['OPTIONS'] |= {\n"
        "    'EMULATOR_HOST': os.environ['TEST_EMULATOR'],\n"
        "    'ENQUEUE_TIMEOUT': float(os.environ.get('TEST_TIMEOUT', 10)),\n"
        "}\n"
    )
    dies = (
        "import django; django.setup()\n"
        "from tests import recorded_tasks\n"
        "from django_tasks_cloud_tasks.core import lifecycle\n"
        "from django_tasks_cloud_tasks.adapters import cloud_tasks\n"
        "import datetime, os\n"
        "lifecycle.GRACE_PERIOD = datetime.timedelta(0)\n"
        "cloud_tasks.GrpcTaskQueue.create = lambda *_, **__: os._exit(9)\n"
        "recorded_tasks.does.enqueue('a')\n"
    )
    queue = "projects/test-project/locations/europe-west1/queues/default"
    with emulator_program("--queue", queue, "--queue", QUEUE) as (program, address):
        environ = os.environ | {
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "DJANGO_SETTINGS_MODULE": "own_settings",
            "TEST_EMULATOR": address,
            "PYTHONUNBUFFERED": "1",
        }
        manage = [sys.executable, "-m", "django"]
        migrate = [*manage, "migrate", "--run-syncdb", "-v0"]
        subprocess.run(migrate, check=True, env=environ, cwd=ROOT)
        with subprocess.Popen(
            [*manage, "cloudtasks_relay", "--interval", "0.05"],
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
            cwd=ROOT,
        ) as relaying:
            assert relaying.stdout is not None
            try:
                assert relaying.stdout.readline() == (
                    "The relay is running. Press Ctrl-C to stop it.\n"
                )
                # The relay waits for the time that a creation may take; here that is almost none.
                died = subprocess.run(
                    [sys.executable, "-c", dies],
                    check=False,
                    env=environ | {"TEST_TIMEOUT": "0.001"},
                    cwd=ROOT,
                )
                assert died.returncode == 9
                assert relaying.stdout.readline() == "Sent: 1. Not accepted: 0.\n"
                relaying.send_signal(signal.SIGTERM)
                assert relaying.wait(20) == 0
            finally:
                relaying.kill()
        created = [line for line in program_lines(program) if "task created" in line]
        assert len(created) == 1


def program_lines(program: Any) -> Iterator[str]:
    """Return the lines of the emulator up to the first delivery."""
    for line in program.stdout:
        yield line
        if "attempt started" in line:
            return


# Pruning.


def finished(site: Site, name: str, state: State, days: int) -> None:
    record = site.record(recorded_tasks.does.enqueue(name).id)
    ended = changed(
        record,
        payload__task_id=name,
        state=state,
        finished_at=START - timedelta(days=days),
    )
    site.store.add(ended)


def test_pruning_deletes_tasks_that_finished_long_ago(site: Site) -> None:
    for number in range(25):
        finished(site, f"success-{number}", State.SUCCESSFUL, 31)
    finished(site, "failure", State.FAILED, 40)
    finished(site, "young", State.SUCCESSFUL, 29)
    counted = "26 finished before 2026-10-23 12:00:00 UTC (25 SUCCESSFUL, 1 FAILED, 0 CANCELLED).\n"
    said = run("cloudtasks_prune", "--older-than", "30d", "--dry-run")
    assert said == counted + "Nothing was deleted, because of --dry-run.\n"
    assert site.store.get("failure")
    said = run("cloudtasks_prune", "--older-than", "30d", "--batch-size", "10")
    assert said == counted + ("Deleted 10 of 26.\nDeleted 20 of 26.\nDeleted 26 of 26.\n")
    assert site.store.get("failure") is None
    assert site.store.get("young")


def test_pruning_deletes_only_tasks_with_the_given_status(site: Site) -> None:
    finished(site, "success", State.SUCCESSFUL, 31)
    finished(site, "failure", State.FAILED, 31)
    finished(site, "cancelled", State.CANCELLED, 31)
    run("cloudtasks_prune", "--older-than=4w", "--status=failed", "--status", "CANCELLED")
    assert [n for n in ("success", "failure", "cancelled") if site.store.get(n)] == ["success"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--older-than"),
        (["--older-than", "soon"], "such as 30d"),
        (["--older-than", "1d", "--status", "RUNNING"], "invalid choice"),
        (["--older-than", "1d", "--batch-size", "0"], "must be 1 or more"),
    ],
)
def test_the_error_for_an_invalid_pruning_argument_gives_the_reason(
    site: Site, arguments: list[str], reason: str
) -> None:
    with pytest.raises(CommandError, match=re.escape(reason)):
        run("cloudtasks_prune", *arguments)

"""`manage.py cloudtasks_queues`, against the emulator and with the real `gcloud`."""

from __future__ import annotations

import builtins
import io
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import override_settings
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator

from tests.integration.grpc_calls import client_over
from tests.integration.refusals import START

PARENT = "projects/p/locations/europe-west1"
GCLOUD = shutil.which("gcloud")


@pytest.fixture
def emulator() -> Iterator[BackgroundEmulator]:
    queues = [f"{PARENT}/queues/old"]
    made = BackgroundEmulator(lambda: Emulator(clock=ManualClock(START), queues=queues))
    with made as running:
        yield running


def site(emulator: str, *more: dict[str, Any], **options: object) -> override_settings:
    """Settings with one backend, or several in the same location."""
    place = {
        "CLOUD_TASKS_PROJECT": "p",
        "CLOUD_TASKS_LOCATION": "europe-west1",
        "EMULATOR_HOST": emulator,
    }
    entries = [{"OPTIONS": {**place, **one}} for one in ({"CLOUD_QUEUES": {}, **options}, *more)]
    backend = "django_tasks_cloud_tasks.CloudTasksBackend"
    names = ("default", "other")
    return override_settings(
        TASKS={
            name: {"BACKEND": backend, **entry} for name, entry in zip(names, entries, strict=False)
        }
    )


MAIL = {
    "mail": {
        "max_attempts": 5,
        "max_doublings": 0,
        "min_backoff": 2,
        "max_concurrent_dispatches": 7,
    }
}


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("cloudtasks_queues", *arguments, stdout=out)
    return out.getvalue()


def test_diff_shows_what_apply_then_changes(emulator: BackgroundEmulator) -> None:
    with site(emulator.address, CLOUD_QUEUES=MAIL, PRIORITY_QUEUES={50: "{queue}-urgent"}):
        with pytest.raises(CommandError, match="Queues that differ: 4"):
            run("diff")
        applied = run("apply")
        assert "+ mail-urgent\n" in applied
        assert "    min_backoff: 2 s" in applied
        assert applied.endswith("Queues changed: 4.\n")
        assert run("diff") == "All queues are as the settings describe them.\n"
    changed = {"mail": {"max_attempts": -1, "logging_sampling_ratio": 0.5}}
    with site(emulator.address, CLOUD_QUEUES=changed):
        assert "~ mail\n" in run("apply")
        lines = run("list").splitlines()
        assert lines[0] == "Queues in p, europe-west1:"
        (mail,) = [line.split() for line in lines if line.startswith("  mail ")]
        assert mail == ["mail", "RUNNING", "500/s", "7", "unlimited", "0", "yes"]
        (old,) = [line.split() for line in lines if line.startswith("  old ")]
        assert old[-1] == "no"
        run("diff")


def test_a_missing_queue_is_listed(emulator: BackgroundEmulator) -> None:
    with site(emulator.address, CLOUD_QUEUES=MAIL):
        assert "Queues that do not exist: default, mail." in run("list")


def test_queues_are_paused_resumed_and_purged(
    emulator: BackgroundEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with grpc.insecure_channel(emulator.address) as channel, site(emulator.address):
        client = client_over(channel)
        name = f"{PARENT}/queues/old"
        assert run("pause", "old") == "Paused old.\n"
        assert client.get_queue(name=name).state.name == "PAUSED"
        task = {"http_request": {"url": "http://127.0.0.1:1/"}}
        client.create_task(parent=name, task=task)
        answers = ["no", "yes"]
        asked: list[str] = []

        def answer(text: str) -> str:
            asked.append(text)
            return answers.pop(0)

        monkeypatch.setattr(builtins, "input", answer)
        with pytest.raises(CommandError, match="Nothing was changed"):
            run("purge", "old")
        assert len(list(client.list_tasks(parent=name))) == 1
        assert run("purge", "old") == "Purged old.\n"
        assert asked[0] == "Do you want to delete all tasks of old (1 task)? Type yes: "
        assert list(client.list_tasks(parent=name)) == []
        assert run("resume", "old") == "Resumed old.\n"
        assert client.get_queue(name=name).state.name == "RUNNING"
        with pytest.raises(CommandError, match=r"There is no queue 'mial'\. The queues are: old\."):
            run("pause", "mial")


def test_queues_are_deleted_only_after_a_yes(
    emulator: BackgroundEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_terminal(_: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", no_terminal)
    with site(emulator.address):
        run("apply")
        run("diff")
        with pytest.raises(CommandError, match="Queues that differ: 1"):
            run("diff", "--delete")
        with pytest.raises(CommandError, match=r"Nothing was changed\. Use --yes"):
            run("apply", "--delete")
        assert "- old\n" in run("apply", "--delete", "--yes")
        run("diff", "--delete")


@pytest.mark.skipif(not GCLOUD, reason="no gcloud on this machine")
def test_the_printed_commands_do_the_same(emulator: BackgroundEmulator, tmp_path: Path) -> None:
    environ = os.environ | {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"http://{emulator.address}/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CONFIG": str(tmp_path),
    }
    queues: dict[str, Any] = {
        "mail": {"max_attempts": -1, "min_backoff": 1.5, "max_doublings": 0},
        "old": {"max_attempts": 3, "max_backoff": 60, "logging_sampling_ratio": 0.25},
    }
    with site(emulator.address, CLOUD_QUEUES=queues):
        commands = run("apply", "--print", "gcloud").splitlines()
        assert len(commands) == 4
        for command in commands:
            subprocess.run(
                [GCLOUD or "", *shlex.split(command)[1:]],
                check=True,
                capture_output=True,
                env=environ,
                timeout=120,
            )
        assert run("diff") == "All queues are as the settings describe them.\n"
        assert run("apply", "--print", "gcloud") == ""


def test_terraform_is_printed_without_a_call() -> None:
    with site("127.0.0.1:1", CLOUD_QUEUES=MAIL):
        printed = run("apply", "--print", "terraform")
    assert printed.count('resource "google_cloud_tasks_queue"') == 2


def test_an_emulator_that_does_not_run_is_told() -> None:
    with (
        site("127.0.0.1:1"),
        pytest.raises(CommandError, match=r"The call to the emulator at 127\.0\.0\.1:1 failed: "),
    ):
        run("diff")


def test_backends_that_contradict_each_other_are_told(emulator: BackgroundEmulator) -> None:
    other = {"CLOUD_QUEUES": {"mail": {"max_attempts": 6}}}
    said = "The backends 'default' and 'other' have different values of max_attempts"
    with site(emulator.address, other, CLOUD_QUEUES=MAIL):
        with pytest.raises(CommandError, match=said):
            run("diff")
        with pytest.raises(CommandError, match="'mial' is not an entry of TASKS"):
            run("diff", "--backend", "mial")
        assert "+ mail\n" in run("apply", "--backend", "other")
        (error,) = [m for m in run_checks() if m.id == "django_tasks_cloud_tasks.E010"]
        assert said in error.msg


def test_a_wrong_setting_is_an_error_of_check() -> None:
    with site("127.0.0.1:1", CLOUD_QUEUES={"mail": {"max_attempts": 0}}):
        (error,) = [m for m in run_checks() if m.id == "django_tasks_cloud_tasks.E001"]
    assert "CLOUD_QUEUES must be a mapping in which max_attempts is" in error.msg

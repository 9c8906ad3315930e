"""The steps of the README in a new project, with its settings, a real server and the emulator."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", README, flags=re.DOTALL)
SETTINGS = [code for name, code in BLOCKS if name == "settings.py"]
SHELL = [code for name, code in BLOCKS if name == "shell"]
RECORDED = "shop/payments.py"  # only where results are kept


def test_every_python_block_says_where_it_goes() -> None:
    assert len(BLOCKS) == README.count("```python")
    assert {name for name, _ in BLOCKS} == {
        *("settings.py", "urls.py", "shop/tasks.py", "shell", RECORDED),
        *("shop/invoices.py", "shop/parcels.py", "shop/reports.py"),
        *("shop/test_tasks.py", "shop/tests.py"),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Project:
    """A new Django project with the files of the README."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        self.folder = folder
        self.emulator_port, self.site_port = free_port(), free_port()
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DJANGO_", "PYTEST_"))
        } | {
            "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{self.emulator_port}",
            # The README's port may be taken here; everything else is as it says.
            "TASK_HANDLER_HOST": f"http://127.0.0.1:{self.site_port}",
            "PYTHONUNBUFFERED": "1",
        }
        self.run("-m", "django", "startproject", "mysite", ".")
        self.run("manage.py", "startapp", "shop")
        files = {name: code for name, code in BLOCKS if name != "shell"}
        with (folder / "mysite" / "settings.py").open("a") as file:
            file.write("\n".join(["", *settings, 'INSTALLED_APPS += ["shop"]', ""]))
        with (folder / "mysite" / "urls.py").open("a") as file:
            file.write(files["urls.py"])
        for name, code in files.items():
            if name.startswith("shop/"):
                (folder / name).write_text(code)

    def run(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environ,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def advance(self, seconds: int) -> None:
        """Move the clock of the emulator. What becomes due in between is delivered and answered."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.emulator_port}/emulator/clock",
            json.dumps({"advance": seconds}).encode(),
        )
        with urllib.request.urlopen(request) as response:
            assert response.status == 200

    @contextmanager
    def running(self, *arguments: str) -> Iterator[IO[str]]:
        with subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.environ,
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.terminate()

    @contextmanager
    def up(self) -> Iterator[IO[str]]:
        """A context in which emulator and site run. It yields the output of the emulator."""
        emulator = (
            *("cloudtasks_emulator", "--auto-create-queues"),
            *("--host", "127.0.0.1", "--port", str(self.emulator_port)),
        )
        site = ("runserver", "--noreload", f"127.0.0.1:{self.site_port}")
        with self.running(*emulator) as said, self.running(*site):
            for line in said:
                if line.startswith("Press Ctrl-C"):
                    break
            until = time.monotonic() + 60
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", self.site_port)) == 0:
                        break
                assert time.monotonic() < until, "the site did not come up"
                time.sleep(0.05)  # Nothing tells when runserver listens but trying.
            yield said


def test_quick_start(tmp_path: Path) -> None:
    project = Project(tmp_path, [SETTINGS[0]])
    shell = [code for code in SHELL if "shop.payments" not in code and "StoredTask" not in code]
    assert [answers for _, answers in delivered(project, shell, tasks=4)] == [
        *(["200"], ["200"], ["200"], ["500", "500", "200"])
    ]


def test_with_every_other_setting_and_results(tmp_path: Path) -> None:
    project = Project(tmp_path, SETTINGS)
    project.run("manage.py", "migrate")
    answers = dict(delivered(project, SHELL, tasks=5))
    assert sorted(answers.values()) == [*([["200"]] * 4), ["500", "500", "200"]]
    said = project.run("manage.py", "shell", "-c", WHAT_HAPPENED)
    assert "book SUCCESSFUL 1400" in said
    assert "charge SUCCESSFUL 'order 1815 charged at attempt 3' 2 errors" in said
    assert "export FAILED TaskCancelledError" in said
    assert project.run("manage.py", "cloudtasks_relay", "--once") == "Nothing is due.\n"
    for line in re.findall(r"^\$ python (manage.py cloudtasks_prune .*)$", README, re.MULTILINE):
        assert "0 finished before" in project.run(*line.split())


def test_retries_and_ends(tmp_path: Path) -> None:
    project = Project(tmp_path, SETTINGS)
    project.run("manage.py", "migrate")
    with project.up():
        project.run("manage.py", "shell", "-c", HAS_POLICIES)
        project.advance(3600)
        said = project.run("manage.py", "shell", "-c", WHAT_HAPPENED)
    assert "mail_invoice FAILED ConnectionError in attempt 5" in said
    assert "print_invoice FAILED LookupError in attempt 1" in said
    assert "ship SUCCESSFUL 'order 1 shipped at attempt 2 of 100' 1 errors" in said
    assert "ship READY  in attempt 0" in said
    assert "ship FAILED Discard in attempt 1" in said


def test_recurring_tasks(tmp_path: Path) -> None:
    project = Project(tmp_path, SETTINGS)
    project.run("manage.py", "migrate")
    assert "no issues" in project.run("manage.py", "check")
    listed = project.run("manage.py", "cloudtasks_schedules", "list")
    assert "nightly-report  shop.reports.nightly  cron 0 3 * * * Europe/Berlin" in listed
    with project.up():
        project.run("manage.py", "cloudtasks_relay", "--once")
        project.run("manage.py", "cloudtasks_schedules", "run", "poll")
        project.advance(60)
        said = project.run("manage.py", "shell", "-c", WHAT_HAPPENED)
    assert "poll SUCCESSFUL 'at most 100 messages'" in said


HAS_POLICIES = """
from shop.invoices import mail_invoice, print_invoice
from shop.parcels import ship
mail_invoice.enqueue(1)
print_invoice.enqueue(1)
for state in ("paid", "unpaid", "cancelled"):
    ship.enqueue(1, state)
"""

WHAT_HAPPENED = """
from django_tasks_cloud_tasks import StoredTask
for row in StoredTask.objects.all():
    result = row.result
    told = repr(result.return_value) if result.status == "SUCCESSFUL" else ""
    told += f" {len(result.errors)} errors" if result.errors and told else ""
    told += result.errors[-1].exception_class.__name__ if result.errors and not told else ""
    told += f" in attempt {result.attempts}" if result.status != "SUCCESSFUL" else ""
    print(result.task.name, result.status, told)
"""


def delivered(project: Project, shell: list[str], *, tasks: int) -> list[tuple[str, list[str]]]:
    """The answers to each task that ran, fewest first, once so many have ended with success."""
    assert "no issues" in project.run("manage.py", "check")
    answers: dict[str, list[str]] = {}
    with project.up() as said:
        for code in shell:
            project.run("manage.py", "shell", "-c", code)
        for line in said:
            found = re.search(r"attempt finished .*?task=(\S+) .* answer=(\d+)", line)
            if found:
                answers.setdefault(found[1], []).append(found[2])
                if sum(given[-1] == "200" for given in answers.values()) == tasks:
                    break
    return sorted(answers.items(), key=lambda item: len(item[1]))


def test_check_finds_a_misspelt_option_in_a_new_project(tmp_path: Path) -> None:
    project = Project(tmp_path, [SETTINGS[0], 'TASKS["default"]["OPTIONS"]["NAME_TASK"] = True\n'])
    said = project.run("manage.py", "check", status=1)
    assert "did you mean 'NAME_TASKS'?" in said
    assert "django_tasks_cloud_tasks.E001" in said


TASKS_WITH_FAULTS = """
TASKS["default"]["OPTIONS"] |= {"NAME_TASK": True, "RESULTS": "database"}
TASKS["default"]["QUEUES"] = ["my_queue"]
TASKS["default"]["LEASE"] = 60
INSTALLED_APPS.remove("django_tasks_cloud_tasks")
"""


@pytest.mark.parametrize(
    "first", ["", "from shop import tasks\n"], ids=["alone", "behind a module"]
)
def test_check_tells_of_everything_at_once_though_the_app_is_missing(
    tmp_path: Path, first: str
) -> None:
    """Whether django.tasks is loaded before Django chooses its checks, meanwhile, or not at all."""
    project = Project(tmp_path, [SETTINGS[0], TASKS_WITH_FAULTS])
    urls = tmp_path / "mysite" / "urls.py"
    urls.write_text(first + urls.read_text())
    for models in ("", "from django.tasks import task\n"):
        (tmp_path / "shop" / "models.py").write_text(models)
        said = project.run("manage.py", "check", status=1)
        told = re.findall(r"django_tasks_cloud_tasks\.(\w+)", said)
        assert sorted(told) == ["E001", "E001", "E003", "E006", "W005"]


def test_check_deploy_tells_of_everything_at_once_though_the_app_is_missing(
    tmp_path: Path,
) -> None:
    faults = (
        'TASKS["default"]["OPTIONS"] |= {"AUTHENTICATION": "none"}\n'
        'DEBUG = False\nALLOWED_HOSTS = ["other.example.com"]\n'
        'INSTALLED_APPS.remove("django_tasks_cloud_tasks")\n'
    )
    project = Project(tmp_path, [SETTINGS[0], faults])
    said = project.run("manage.py", "check", "--deploy", status=1)
    told = sorted(re.findall(r"\(django_tasks_cloud_tasks\.(\w+)\)", said))
    assert told == ["E006", "W002", "W003", "W004", "W010"]


def test_curl(tmp_path: Path) -> None:
    project = Project(tmp_path, [SETTINGS[0]])
    found = re.search(
        r"curl http://localhost:8000(\S+) .*?-d '(.*?)'\n(\{.*?\})\n", README, re.DOTALL
    )
    assert found
    path, body, answer = found.groups()
    with project.up():
        request = urllib.request.Request(
            f"http://127.0.0.1:{project.site_port}{path}",
            body.encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            assert json.load(response) == json.loads(answer)


@pytest.mark.parametrize("settings", [SETTINGS[:1], SETTINGS], ids=["quick start", "all of it"])
def test_tests_of_a_site(tmp_path: Path, settings: list[str]) -> None:
    project = Project(tmp_path, settings)
    project.environ.pop("CLOUD_TASKS_EMULATOR_HOST")
    project.environ.pop("TASK_HANDLER_HOST")
    said = project.run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--ds", "mysite.settings", "shop"),
    )
    assert "3 passed" in said
    said = project.run("manage.py", "test")
    assert "Ran 2 tests" in said
    assert said.rstrip().endswith("OK") or "\nOK\n" in said


def test_tests_that_enqueue_in_passing_call_nothing(tmp_path: Path) -> None:
    runner = next(code for code in SETTINGS if "TEST_RUNNER" in code)
    project = Project(tmp_path, [SETTINGS[0], runner])
    project.environ.pop("CLOUD_TASKS_EMULATOR_HOST")
    (tmp_path / "shop" / "tests.py").write_text(ENQUEUES_IN_PASSING)
    for parallel in ("1", "2"):
        assert "\nOK\n" in project.run("manage.py", "test", "--parallel", parallel)


ENQUEUES_IN_PASSING = """
from django.test import SimpleTestCase
from shop.tasks import add_up

class First(SimpleTestCase):
    def test(self):
        self.assertTrue(add_up.enqueue([1]).id)

class Second(First):
    pass
"""


def test_the_table_of_options_has_them_all() -> None:
    from django_tasks_cloud_tasks.core.options import _OPTIONS

    table = README.partition("| option | meaning | default |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == set(_OPTIONS)


def test_the_table_of_arguments_has_them_all() -> None:
    from argparse import ArgumentParser

    from django_tasks_cloud_tasks.emulator.command_line import add_arguments

    parser = ArgumentParser(add_help=False)
    add_arguments(parser)
    declared = {name for action in parser._actions for name in action.option_strings}
    table = README.partition("| argument | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"(--[a-z][a-z-]+)", table)) == declared


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{command}:" in makefile
    assert shutil.which("make")

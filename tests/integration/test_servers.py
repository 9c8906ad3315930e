"""Both views under real servers, gunicorn and uvicorn. The emulator delivers the tasks."""

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from django_tasks_cloud_tasks.adapters.metadata import NoMetadataServer
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator

from tests import tasks
from tests.integration.paths import ROOT as ROOT

GUNICORN = [
    *("gunicorn", "tests.wsgi:application", "--bind", "127.0.0.1:0", "--workers", "2"),
    *("--threads", "4", "--no-control-socket"),
]
UVICORN = ["uvicorn", "tests.asgi:application", "--host", "127.0.0.1", "--port", "0"]


@contextmanager
def serving(
    command: list[str], log: Path, *, settings: str = "tests.settings", **environ: str
) -> Iterator[str]:
    """Start a server and wait until it listens. It yields the URL of the server."""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": settings} | environ,
    ) as process:
        assert process.stderr is not None
        heard = []
        for line in process.stderr:
            heard.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            raise AssertionError("".join(heard))
        # A thread reads the rest of the output, so that the server never blocks.
        reader = threading.Thread(target=lambda: log.write_text(process.stderr.read()))  # type: ignore[union-attr]  # asserted above
        reader.start()
        try:
            yield found.group(0)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join()


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (GUNICORN, "/cloudtasks/execute/"),
        (GUNICORN, "/async/cloudtasks/execute/"),
        (UVICORN, "/async/cloudtasks/execute/"),
        (UVICORN, "/cloudtasks/execute/"),
    ],
    ids=["wsgi-sync", "wsgi-async", "asgi-async", "asgi-sync"],
)
def test_each_view_executes_tasks_under_each_server(
    command: list[str], path: str, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    with (
        serving(command, log) as url,
        BackgroundEmulator(lambda: Emulator(create_queues=True)) as emulator,
    ):
        options = {
            "CLOUD_TASKS_PROJECT": "p",
            "CLOUD_TASKS_LOCATION": "l",
            "TASK_HANDLER_HOST": url,
            "TASK_HANDLER_PATH": path,
            "EMULATOR_HOST": emulator.address,
        }
        backend = {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend", "OPTIONS": options}
        runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
        done = threading.Event()
        finished: dict[str, list[int]] = {}

        def hear(event: str, facts: dict[str, Any]) -> None:
            if event == "attempt finished":
                finished.setdefault(facts["task"].rpartition("/")[2], []).append(facts["answer"])
                if sum(answers[-1] == 200 for answers in finished.values()) == 81:
                    done.set()

        emulator.emulator._log = hear
        with use_runtime(runtime), override_settings(TASKS={"default": backend}):
            failing = tasks.fails_twice.enqueue().id
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda n: tasks.add.enqueue(n, n), range(40)))
                list(pool.map(lambda n: tasks.add_async.enqueue(n, n), range(40)))
        assert done.wait(30), finished
        assert finished.pop(failing) == [500, 500, 200]
        assert set(map(tuple, finished.values())) == {(200,)}
        for method, status in (("GET", 405), ("POST", 401)):
            request = urllib.request.Request(url + path, data=None, method=method)
            with pytest.raises(urllib.error.HTTPError) as raised:
                urllib.request.urlopen(request)
            assert raised.value.code == status
            raised.value.close()


def test_coroutine_tasks_share_the_event_loop_of_the_server_and_hold_no_thread(
    tmp_path: Path,
) -> None:
    """Fifty tasks wait for one another; with a thread for each they would wait forever."""
    with (
        serving(UVICORN, tmp_path / "server.log") as url,
        BackgroundEmulator(lambda: Emulator(create_queues=True)) as emulator,
    ):
        options = {
            "CLOUD_TASKS_PROJECT": "p",
            "CLOUD_TASKS_LOCATION": "l",
            "TASK_HANDLER_HOST": url,
            "TASK_HANDLER_PATH": "/async/cloudtasks/execute/",
            "EMULATOR_HOST": emulator.address,
        }
        backend = {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend", "OPTIONS": options}
        runtime = Runtime(environ={}, make_metadata=lambda _: NoMetadataServer())
        answers: list[int] = []
        done = threading.Event()

        def hear(event: str, facts: dict[str, Any]) -> None:
            if event == "attempt finished":
                answers.append(facts["answer"])
                if len(answers) == 50:
                    done.set()

        emulator.emulator._log = hear
        with use_runtime(runtime), override_settings(TASKS={"default": backend}):
            for _ in range(50):
                tasks.meets.enqueue(50)
        assert done.wait(30), answers
        assert answers == [200] * 50

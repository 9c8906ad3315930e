"""`gcloud tasks` with the emulator, over REST."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from google.cloud import tasks_v2

GCLOUD = shutil.which("gcloud")
AT = ("--location=europe-west1",)
IN = ("--queue=mail", *AT)

pytestmark = pytest.mark.skipif(not GCLOUD, reason="no gcloud on this machine")


class Gcloud:
    """Runs `gcloud tasks ...` with the environment variables of the README."""

    def __init__(self, address: str, home: Path) -> None:
        self.environ = os.environ | {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"http://{address}/",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_PROJECT": "demo",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CONFIG": str(home),
        }

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [GCLOUD or "", "tasks", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def gcloud(tmp_path: Path) -> Iterator[Gcloud]:
    with BackgroundEmulator() as emulator:
        yield Gcloud(emulator.address, tmp_path)


def test_gcloud_manages_queues_and_tasks(gcloud: Gcloud) -> None:
    gcloud("queues", "create", "mail", *AT, "--max-attempts=5", "--log-sampling-ratio=0.5")
    described = gcloud("queues", "describe", "mail", *AT)
    assert "maxAttempts: 5" in described
    assert "samplingRatio: 0.5" in described
    assert "RUNNING" in gcloud("queues", "list", *AT)
    gcloud("queues", "update", "mail", *AT, "--max-dispatches-per-second=7")
    assert "maxDispatchesPerSecond: 7.0" in gcloud("queues", "describe", "mail", *AT)
    gcloud("queues", "pause", "mail", *AT)
    url = "--url=http://127.0.0.1:1/x"
    gcloud("create-http-task", "one", *IN, url, "--body-content=hello", "--header=X-Shop: mine")
    assert "one" in gcloud("list", *IN)
    full = gcloud("describe", "one", *IN, "--response-view=full")
    assert "body: aGVsbG8=" in full
    assert "X-Shop: mine" in full
    assert "dispatchCount: 1" in gcloud("run", "one", *IN)
    gcloud("delete", "one", *IN)
    gcloud("queues", "purge", "mail", *AT)
    gcloud("queues", "resume", "mail", *AT)
    assert "europe-west1" in gcloud("locations", "list")
    gcloud("queues", "delete", "mail", *AT)


@pytest.mark.skipif(
    not hasattr(tasks_v2.Queue(), "http_target"),
    reason="this version of google-cloud-tasks has no http_target of queues",
)
def test_gcloud_buffers_a_task(gcloud: Gcloud) -> None:
    gcloud("queues", "create", "mail", *AT)
    gcloud("queues", "pause", "mail", *AT)
    gcloud("queues", "update", "mail", *AT, "--http-uri-override=host:127.0.0.1,port:1")
    assert "Buffered task" in gcloud("buffer", *IN)
    assert "http" in gcloud("list", *IN)

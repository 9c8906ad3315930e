"""`gcloud tasks` and `gcloud scheduler` with the emulator, over REST."""

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
    """Runs `gcloud GROUP ...` with the environment variables of the README."""

    def __init__(self, address: str, home: Path, group: str = "tasks") -> None:
        self.group = group
        self.environ = os.environ | {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"http://{address}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDSCHEDULER": f"http://{address}/",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_PROJECT": "demo",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CONFIG": str(home),
        }

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [GCLOUD or "", self.group, *arguments],
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


def test_gcloud_manages_jobs_of_cloud_scheduler(tmp_path: Path) -> None:
    with BackgroundEmulator() as emulator:
        gcloud = Gcloud(emulator.address, tmp_path, "scheduler")
        gcloud(
            *("jobs", "create", "http", "relay", *AT, "--schedule=*/5 * * * *"),
            *("--uri=http://127.0.0.1:1/relay/", "--http-method=POST", "--message-body=hello"),
            *("--headers=X-Shop=mine", "--time-zone=Europe/Berlin", "--max-retry-attempts=3"),
            *("--attempt-deadline=60s", "--oidc-service-account-email=shop@p.example"),
        )
        assert "*/5 * * * * (Europe/Berlin)" in gcloud("jobs", "list", *AT)
        described = gcloud("jobs", "describe", "relay", *AT)
        for shown in (
            *("attemptDeadline: 60s", "body: aGVsbG8=", "X-Shop: mine", "retryCount: 3"),
            *("serviceAccountEmail: shop@p.example", "state: ENABLED", "scheduleTime:"),
        ):
            assert shown in described
        gcloud(
            *("jobs", "update", "http", "relay", *AT, "--schedule=0 6 * * *", "--clear-time-zone"),
            *("--update-headers=X-Shop=yours", "--clear-auth-token"),
        )
        described = gcloud("jobs", "describe", "relay", *AT)
        for shown in ("schedule: 0 6 * * *", "X-Shop: yours", "body: aGVsbG8=", "retryCount: 3"):
            assert shown in described
        assert "oidcToken" not in described
        gcloud("jobs", "pause", "relay", *AT)
        assert "PAUSED" in gcloud("jobs", "list", *AT)
        gcloud("jobs", "resume", "relay", *AT)
        gcloud("jobs", "run", "relay", *AT)
        emulator.call(emulator.emulator.settle())
        described = gcloud("jobs", "describe", "relay", *AT)
        assert "lastAttemptTime:" in described
        assert "code: 14" in described
        gcloud("jobs", "delete", "relay", *AT)
        assert "relay" not in gcloud("jobs", "list", *AT)
        assert "europe-west1" in gcloud("locations", "list")

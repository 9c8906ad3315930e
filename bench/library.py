"""Benchmarks of the library. The references do the same work with the least possible code."""

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

from .measure import Row, alternate

SETTINGS = {
    "SECRET_KEY": "bench",
    "DEBUG": True,
    "ALLOWED_HOSTS": ["*"],
    "ROOT_URLCONF": "bench.site_urls",
    "INSTALLED_APPS": ["django_tasks_cloud_tasks"],
    "LOGGING_CONFIG": None,
    "DATABASES": {},
}
OPTIONS = {
    "CLOUD_TASKS_PROJECT": "project",
    "CLOUD_TASKS_LOCATION": "europe-west1",
    "TASK_HANDLER_HOST": "https://app.example.com",
    "OIDC_SERVICE_ACCOUNT_EMAIL": "tasks@project.iam.gserviceaccount.com",
}
_QUEUE = "projects/project/locations/europe-west1/queues/default"
ARGUMENTS = {"order": 12345, "customer": "c-1815", "notify": True}
_BODY = json.dumps(
    {
        "task_id": "0" * 32,
        "task_path": "bench.site_tasks.nothing",
        "args": [],
        "kwargs": ARGUMENTS,
        "queue_name": "default",
        "backend": "default",
        "priority": 0,
        "takes_context": False,
        "enqueued_at": "2026-01-01T00:00:00+00:00",
    }
).encode()
_ROUNDS, _CALLS = 30, 150

# The headers of a delivery, and those default middleware classes that need no installed app.
DELIVERY = {
    "HTTP_HOST": "testserver",
    "HTTP_USER_AGENT": "Google-Cloud-Tasks",
    "HTTP_X_CLOUDTASKS_QUEUENAME": "default",
    "HTTP_X_CLOUDTASKS_TASKNAME": "0" * 32,
    "HTTP_X_CLOUDTASKS_TASKRETRYCOUNT": "0",
    "HTTP_X_CLOUDTASKS_TASKEXECUTIONCOUNT": "0",
    "HTTP_X_CLOUDTASKS_TASKETA": "1767225600.000000",
}
STARTPROJECT_MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


@contextmanager
def emulator() -> Iterator[str]:
    """Run the emulator in its own process with a paused queue, and yield its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.paused_emulator", _QUEUE], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def enqueue() -> list[Row]:
    """Compare `task.enqueue()` with the official client and with a bare call of encoded bytes."""
    import grpc
    from django.conf import settings
    from django.test import override_settings
    from django_tasks_cloud_tasks.adapters.cloud_tasks import encode
    from django_tasks_cloud_tasks.core.names import QueueName
    from django_tasks_cloud_tasks.core.requests import OidcIdentity, TaskRequest
    from google.cloud import tasks_v2
    from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

    from .site_tasks import nothing

    with emulator() as address:
        url = "https://app.example.com/cloudtasks/execute/"
        account = OPTIONS["OIDC_SERVICE_ACCOUNT_EMAIL"]
        audience = "https://app.example.com"
        names = (f"{number:032x}" for number in count())

        def ready_bytes() -> bytes:
            return encode(
                TaskRequest(
                    queue=QueueName.parse(_QUEUE),
                    task_id=next(names),
                    url=url,
                    headers={"Content-Type": "application/json"},
                    body=_BODY,
                    oidc=OidcIdentity(service_account_email=account, audience=audience),
                )
            )

        ready = iter([ready_bytes() for _ in range(_ROUNDS * _CALLS + _CALLS)])
        channel = grpc.insecure_channel(address)
        call = channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/CreateTask")
        metadata = (("x-goog-request-params", "parent=" + _QUEUE.replace("/", "%2F")),)
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))

        def official() -> object:
            return client.create_task(
                parent=_QUEUE,
                task=tasks_v2.Task(
                    name=f"{_QUEUE}/tasks/{next(names)}",
                    http_request=tasks_v2.HttpRequest(
                        url=url,
                        http_method=tasks_v2.HttpMethod.POST,
                        headers={"Content-Type": "application/json"},
                        body=_BODY,
                        oidc_token=tasks_v2.OidcToken(
                            service_account_email=account, audience=audience
                        ),
                    ),
                ),
            )

        tasks = {
            "default": {
                **settings.TASKS["default"],
                "OPTIONS": {**OPTIONS, "EMULATOR_HOST": address},
            }
        }
        with override_settings(TASKS=tasks):
            times = alternate(
                {
                    "enqueue": lambda: nothing.enqueue(**ARGUMENTS),
                    "official": official,
                    "bare": lambda: call(next(ready), timeout=10, metadata=metadata),
                },
                rounds=_ROUNDS,
                calls=_CALLS,
            )
        channel.close()
    ours = times["enqueue"]
    return [
        Row("task.enqueue()", ours * 1e6, "official client", ours / times["official"], 1.0),
        Row("task.enqueue()", ours * 1e6, "bare call, ready bytes", ours / times["bare"], 1.25),
        Row(
            "(official client)",
            times["official"] * 1e6,
            "bare call, ready bytes",
            times["official"] / times["bare"],
            None,
        ),
    ]


def execution() -> list[Row]:
    """Compare the task view with a bare view that parses the same JSON."""
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import Client, override_settings

    def wsgi_request(handler: WSGIHandler, path: str) -> None:
        statuses: list[str] = []
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": path,
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(_BODY)),
            "wsgi.input": io.BytesIO(_BODY),
            "wsgi.url_scheme": "http",
            **DELIVERY,
        }
        handler(environ, lambda status, _headers: statuses.append(status)).close()
        assert statuses == ["200 OK"], statuses

    def client_request(client: Client, path: str) -> None:
        response = client.post(path, _BODY, content_type="application/json", **DELIVERY)
        assert response.status_code == 200

    def http_request(port: int, path: str) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(_raw_request(path))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer

    rows = []
    options = {k: v for k, v in OPTIONS.items() if k != "OIDC_SERVICE_ACCOUNT_EMAIL"}
    tasks = {
        "default": {
            **settings.TASKS["default"],
            "OPTIONS": {**options, "EMULATOR_HOST": "127.0.0.1:1"},
        }
    }
    with override_settings(MIDDLEWARE=STARTPROJECT_MIDDLEWARE, TASKS=tasks), wsgi_server() as port:
        # Each call opens a connection. So there are few calls, because the ports are limited.
        for label, request, target, aim, calls in (
            ("over HTTP, Django's own server", http_request, port, 1.25, 50),
            ("Django's test client", client_request, Client(), None, 200),
            ("the WSGI handler alone", wsgi_request, WSGIHandler(), None, 200),
        ):
            times = alternate(
                {
                    "view": partial(request, target, "/cloudtasks/execute/"),
                    "bare": partial(request, target, "/bare/execute/"),
                },
                rounds=20,
                calls=calls,
            )
            rows.append(
                Row(
                    f"execution, {label}",
                    times["view"] * 1e6,
                    "bare view, same JSON",
                    times["view"] / times["bare"],
                    aim,
                )
            )
    return rows


def _raw_request(path: str) -> bytes:
    """Return a delivery as bytes. One packet avoids delays by Nagle's algorithm."""
    headers = {"Connection": "close", "Content-Type": "application/json"} | {
        name.removeprefix("HTTP_").replace("_", "-"): value for name, value in DELIVERY.items()
    }
    headers["Content-Length"] = str(len(_BODY))
    lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + _BODY


@contextmanager
def wsgi_server() -> Iterator[int]:
    """Run the server of `runserver` in a thread, and yield its port."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    server.set_app(WSGIHandler())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def verification() -> list[Row]:
    """Compare the authorization by a token with `jwt.decode` and given certificates."""
    from django_tasks_cloud_tasks.adapters.tokens import (
        CertificateStore,
        FetchedCertificates,
        GoogleTokenVerifier,
    )
    from django_tasks_cloud_tasks.core.authorization import (
        NeedsToken,
        Policy,
        Proof,
        demand,
        judge_token,
    )
    from django_tasks_cloud_tasks.core.options import Authentication
    from django_tasks_cloud_tasks.emulator.state.targets import OidcToken
    from django_tasks_cloud_tasks.emulator.ways_out.identity import TokenIssuer
    from google.auth import jwt

    issuer = TokenIssuer(time=time.time)
    email, audience = "tasks@project.iam.gserviceaccount.com", "https://app.example.com"
    token = issuer.issue(OidcToken(email=email, audience=audience))
    certificates = issuer.certificates()
    fetches: list[None] = []

    def fetch() -> FetchedCertificates:
        fetches.append(None)
        return FetchedCertificates(certificates, 3600)

    verifier = GoogleTokenVerifier(CertificateStore(fetch))
    policy = Policy(mode=Authentication.OIDC, service_accounts=(email,), audiences=(audience,))
    proof = Proof(body=b"", authorization=f"Bearer {token}")

    def ours() -> None:
        needed = demand(policy, proof)
        assert isinstance(needed, NeedsToken)
        claims = verifier.verify(needed.token, may_wait=True)
        assert claims is not None
        assert judge_token(policy, claims).granted

    times = alternate(
        {
            "ours": ours,
            "bare": lambda: jwt.decode(token, certs=certificates, audience=audience),
        },
        rounds=40,
        calls=200,
    )
    calls = f"{len(fetches)} request{'' if len(fetches) == 1 else 's'} in all"
    return [
        Row(
            f"authorization by token ({calls})",
            times["ours"] * 1e6,
            "bare jwt.decode",
            times["ours"] / times["bare"],
            1.2,
        )
    ]


_START = """
import sys, time
from django.conf import settings
settings.configure(SECRET_KEY="bench", INSTALLED_APPS=APPS, USE_TZ=True, TASKS=TASKS)
import django
began = time.perf_counter()
django.setup()
took = time.perf_counter() - began
import sys
import threading
heavy = [name for name in ("grpc", "google.cloud", "google.auth", "aiohttp") if name in sys.modules]
print(took, ",".join(heavy))
"""


def start_up() -> list[Row]:
    """Compare `django.setup()` with and without the app. Each run has its own process."""
    variants = {"with": ["django_tasks_cloud_tasks"], "without": []}
    heavy: set[str] = set()

    def run(apps: list[str]) -> float:
        tasks = {"default": {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend"}}
        script = f"APPS={apps!r}\nTASKS={tasks if apps else {}!r}\n{_START}"
        output = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
        heavy.update(output[1].split(",") if len(output) > 1 else [])
        return float(output[0])

    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(15):
        for name, apps in variants.items():
            times[name].append(run(apps))
    best = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    return [
        Row(
            f"django.setup() (loads {', '.join(sorted(heavy)) or 'no grpc, google, aiohttp'})",
            best["with"] * 1e6,
            "without the app",
            best["with"] / best["without"],
            None,
        )
    ]

"""The client of the metadata server. A local server answers, fails, hangs or sends bad data."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import attrs
import pytest
from django_tasks_cloud_tasks import detect_gcp_project, is_app_engine, is_cloud_run
from django_tasks_cloud_tasks.adapters.metadata import (
    HttpMetadataServer,
    NoMetadataServer,
    metadata_server,
)
from django_tasks_cloud_tasks.core.errors import ConfigurationError
from django_tasks_cloud_tasks.core.names import is_project_id
from django_tasks_cloud_tasks.core.options import Authentication
from django_tasks_cloud_tasks.django_integration.configuration import Configuration
from django_tasks_cloud_tasks.django_integration.runtime import Runtime, use_runtime

from tests.integration.http_servers import QuietRequestHandler, http_server

FLAVOR = b"Metadata-Flavor: Google\r\n"


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers every request with `answer`. It yields HOST:PORT and the paths."""
    asked: list[str] = []

    class Requests(QuietRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the base class calls it by this name
            asked.append(self.path)
            assert self.headers["Metadata-Flavor"] == "Google"
            self.wfile.write(answer(self))

    with http_server(Requests) as address:
        yield address, asked


@contextmanager
def hanging() -> Iterator[str]:
    """A server that accepts connections, but sends no response."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def response(body: bytes, status: bytes = b"200 OK", headers: bytes = FLAVOR) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def test_a_value_is_requested_once() -> None:
    with answering(lambda _: response(b"my-shop\n")) as (host, asked):
        server = HttpMetadataServer(host)
        assert [server.get("project/project-id") for _ in range(3)] == ["my-shop"] * 3
        assert asked == ["/computeMetadata/v1/project/project-id"]


def test_a_value_that_the_server_lacks_does_not_hide_the_others() -> None:
    def answer(request: BaseHTTPRequestHandler) -> bytes:
        if "region" in request.path:
            return response(b"", b"404 Not Found")
        return response(b"projects/1/zones/us-central1-c")

    with answering(answer) as (host, asked):
        server = HttpMetadataServer(host)
        assert server.get("instance/region") is None
        assert server.get("instance/zone") == "projects/1/zones/us-central1-c"
        assert server.get("instance/region") is None
        assert len(asked) == 2


RUBBISH = {
    "another flavour": response(b"x", headers=b"Metadata-Flavor: Acme\r\n"),
    "no flavour": response(b"<html>Log in</html>", headers=b""),
    "no HTTP": b"\x00\x01\x02rubbish\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_a_server_with_malformed_answers_is_not_used_and_is_asked_once(kind: str) -> None:
    with answering(lambda _: RUBBISH[kind]) as (host, asked):
        server = HttpMetadataServer(host)
        assert [server.get(path) for path in ("a", "b", "a")] == [None, None, None]
        assert len(asked) == 1


def test_a_missing_server_has_no_values() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server = HttpMetadataServer(f"127.0.0.1:{unused.getsockname()[1]}")
        assert server.get("a") is None
    assert HttpMetadataServer("name.invalid").get("a") is None


def test_a_server_that_hangs_is_asked_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpMetadataServer(f"127.0.0.1:{listener.getsockname()[1]}", budget=0.2)
        assert [server.get(path) for path in ("a", "b", "c")] == [None, None, None]
        listener.settimeout(10)
        listener.accept()[0].close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_an_expected_server_that_does_not_answer_causes_an_error_each_time() -> None:
    with hanging() as host:
        server = HttpMetadataServer(host, expected=True, budget=0.1)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="did not answer within"):
                server.get("a")


def test_the_environment_sets_the_address_of_the_server() -> None:
    assert isinstance(metadata_server({"NO_GCE_CHECK": "true"}), NoMetadataServer)
    with (
        answering(lambda _: response(b"my-shop")) as (host, _),
        use_runtime(Runtime(environ={"GCE_METADATA_HOST": host})),
    ):
        assert detect_gcp_project() == "my-shop"
        assert not is_cloud_run()
        assert not is_app_engine()


@attrs.define
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


NO_VALUE = {
    "an error": response(b"no", b"503 Service Unavailable"),
    "another error": response(b"no", b"500 Internal Server Error"),
    "no UTF-8": response(b"\xff\xfe"),
    "something else": response(b"<html>"),
    "nothing": response(b""),
}


@pytest.mark.parametrize("kind", NO_VALUE)
def test_a_server_that_answers_without_a_usable_value_is_asked_again_later(kind: str) -> None:
    answers = [NO_VALUE[kind], response(b"my-shop")]
    clock = Clock()
    with answering(lambda _: answers.pop(0)) as (host, asked):
        server = HttpMetadataServer(host, clock=clock)
        for _ in range(3):
            with pytest.raises(ConfigurationError, match="It is asked again in a few seconds"):
                server.get("project/project-id", is_project_id)
        assert len(asked) == 1, "not each time"
        clock.now = 6
        assert server.get("project/project-id", is_project_id) == "my-shop"
        assert not server.is_absent


def test_a_missing_value_is_requested_again_later() -> None:
    answers = [response(b"", b"404 Not Found"), response(b"my-shop")]
    clock = Clock()
    with answering(lambda _: answers.pop(0)) as (host, _):
        server = HttpMetadataServer(host, clock=clock)
        assert server.get("project/project-id") is None
        clock.now = 6
        assert server.get("project/project-id") == "my-shop"


def test_a_missing_answer_is_remembered_only_outside_of_google_cloud(tmp_path: Path) -> None:
    google, other, hidden = tmp_path / "google", tmp_path / "other", tmp_path / "none"
    google.write_text("Google Compute Engine\n")
    other.write_text("Standard PC\n")
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    with hanging() as host:
        at_host = {"GCE_METADATA_HOST": host}
        cases: list[tuple[dict[str, str], Path, bool]] = [
            ({"K_SERVICE": "s", "K_REVISION": "r", **at_host}, other, True),
            (at_host, other, True),
            ({}, google, True),
            (pod, google, True),
            (pod, hidden, True),
            (pod, other, False),
            ({}, other, False),
            ({}, hidden, False),
        ]
        for environ, product, there in cases:
            server = metadata_server(environ, product)
            assert isinstance(server, HttpMetadataServer)
            server._host, server._budget = host, 0.05
            if there:
                with pytest.raises(ConfigurationError, match="set NO_GCE_CHECK=true"):
                    server.get("a")
            else:
                assert server.get("a") is None
            assert server.is_absent is not there


# How a site uses it.


EMAIL = b"shop@my-shop.iam.gserviceaccount.com"
PASSING = {
    "silence": None,
    "an error": response(b"no", b"503 Service Unavailable"),
    "nothing there": response(b"", b"404 Not Found"),
    "no e-mail": response(b"default"),
}


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("on", ["cloud run", "compute engine"])
def test_a_service_account_that_is_temporarily_unavailable_is_requested_again(
    kind: str, on: str
) -> None:
    told = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> bytes:
        if "project-id" in request.path:
            return response(b"my-shop")
        if "email" not in request.path:
            return response(b"projects/1/regions/europe-west1")
        passing = PASSING[kind]
        if told.is_set():
            return response(EMAIL)
        if passing is None:
            told.wait(10)
            return b""
        return passing

    with answering(answer) as (host, _):
        clock = Clock()
        server = HttpMetadataServer(host, expected=True, budget=0.2, clock=clock)
        environ = {"K_SERVICE": "s", "K_REVISION": "r"} if on == "cloud run" else {}
        options = {"TASK_HANDLER_HOST": "https://shop.example.com"}
        runtime = Runtime(environ=environ, make_metadata=lambda _: server)
        with use_runtime(runtime):
            configuration = Configuration(options, runtime)
            if on == "compute engine" and kind == "nothing there":
                # A machine may have no account now, and one later.
                assert configuration.route.oidc is None
                assert configuration.policy.mode is Authentication.SIGNATURE
            else:
                for _ in range(2):
                    with pytest.raises(ConfigurationError):
                        _ = configuration.route
                    with pytest.raises(ConfigurationError):
                        _ = configuration.policy
            told.set()
            clock.now = 6
            assert configuration.route.oidc is not None
            assert configuration.route.oidc.service_account_email == EMAIL.decode()
            assert configuration.policy.mode is Authentication.OIDC
            assert not configuration.may_block

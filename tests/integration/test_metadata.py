"""The metadata server: a real one on this machine that answers, errs, hangs or talks rubbish."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django_tasks_cloud_tasks import detect_gcp_project, is_app_engine, is_cloud_run
from django_tasks_cloud_tasks.adapters.metadata import (
    HttpMetadataServer,
    NoMetadataServer,
    metadata_server,
)
from django_tasks_cloud_tasks.core.errors import ConfigurationError
from django_tasks_cloud_tasks.django_integration.surroundings import Surroundings, use

FLAVOR = b"Metadata-Flavor: Google\r\n"


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that writes `answer` for every request; yields HOST:PORT and the paths asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            assert self.headers["Metadata-Flavor"] == "Google"
            self.wfile.write(answer(self))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hanging() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def response(body: bytes, status: bytes = b"200 OK", headers: bytes = FLAVOR) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def test_a_value_is_asked_for_once() -> None:
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
    "an error": response(b"no", b"500 Internal Server Error"),
    "another flavour": response(b"x", headers=b"Metadata-Flavor: Acme\r\n"),
    "no flavour": response(b"<html>Log in</html>", headers=b""),
    "no HTTP": b"\x00\x01\x02rubbish\r\n\r\n",
    "no UTF-8": response(b"\xff\xfe"),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_is_no_metadata_server_and_is_asked_once(kind: str) -> None:
    with answering(lambda _: RUBBISH[kind]) as (host, asked):
        server = HttpMetadataServer(host)
        assert [server.get(path) for path in ("a", "b", "a")] == [None, None, None]
        assert len(asked) == 1


def test_no_server_is_none() -> None:
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


def test_where_there_must_be_one_silence_is_an_error_each_time() -> None:
    with hanging() as host:
        server = HttpMetadataServer(host, expected=True, budget=0.1)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="did not answer within"):
                server.get("a")


def test_the_environment_says_where_it_is() -> None:
    assert isinstance(metadata_server({"NO_GCE_CHECK": "true"}), NoMetadataServer)
    with (
        answering(lambda _: response(b"my-shop")) as (host, _),
        use(Surroundings(environ={"GCE_METADATA_HOST": host})),
    ):
        assert detect_gcp_project() == "my-shop"
        assert not is_cloud_run()
        assert not is_app_engine()


def test_only_off_google_cloud_is_it_given_up_on() -> None:
    with hanging() as host:
        cloud_run = {"K_SERVICE": "s", "K_REVISION": "r", "GCE_METADATA_HOST": host}
        assert metadata_server(cloud_run)._expected  # type: ignore[union-attr]
        assert not metadata_server({"GCE_METADATA_HOST": host})._expected  # type: ignore[union-attr]

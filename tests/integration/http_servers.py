"""HTTP servers on this machine that receive tasks and other requests from tests."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietRequestHandler(BaseHTTPRequestHandler):
    """A request handler that logs nothing."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def read_body(self) -> bytes:
        """Read the whole body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int) -> None:
        """Answer with this status and an empty body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def http_server(requests: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A context in which a server with this class of request handlers runs. It yields HOST:PORT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), requests)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def handler(
    status: int = 200,
    hold: threading.Event | None = None,
    calls: list[None] | None = None,
    bodies: list[bytes] | None = None,
) -> Iterator[tuple[str, threading.Event]]:
    """A context in which a server answers each task with `status`.

    Args:
        hold: the server waits for this event before each answer.
        calls: the server appends an entry for each call.
        bodies: the server appends the body of each call.

    Yields:
        The URL of the server, and an event that the first call sets.
    """
    called = threading.Event()

    class Requests(QuietRequestHandler):
        def do_POST(self) -> None:
            body = self.read_body()
            if calls is not None:
                calls.append(None)
            if bodies is not None:
                bodies.append(body)
            called.set()
            if hold:
                hold.wait(30)
            self.answer(status)

    with http_server(Requests) as address:
        try:
            yield f"http://{address}/", called
        finally:
            if hold:
                hold.set()


class Recorder:
    """A task handler that stores the requests, and answers with one status after the other."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[list[tuple[str, str]]] = []
        self.bodies: list[bytes] = []


@contextmanager
def recorder(statuses: Sequence[int | None]) -> Iterator[Recorder]:
    """A context in which a server stores the requests, and answers with these statuses in order.

    Args:
        statuses: the statuses; None means that the request gets no answer.
    """
    made = Recorder()
    leave = threading.Event()

    class Requests(QuietRequestHandler):
        def do_POST(self) -> None:
            made.requests.append(self.headers.items())
            made.bodies.append(self.read_body())
            status = statuses[len(made.requests) - 1]
            if status is None:
                leave.wait(30)
            else:
                self.answer(status)

    with http_server(Requests) as made.address:
        try:
            yield made
        finally:
            leave.set()

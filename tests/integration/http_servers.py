"""HTTP servers on this machine that tests send tasks and questions to."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietRequestHandler(BaseHTTPRequestHandler):
    """Writes no log."""

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    def read_body(self) -> bytes:
        """The whole body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int) -> None:
        """Answer with that status and an empty body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def http_server(requests: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve with that class of request handlers; yields HOST:PORT."""
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
    """A handler of tasks that answers each with `status`.

    Args:
        hold: answers wait for this event.
        calls: gets an entry for each call.
        bodies: gets the body of each call.

    Yields:
        its URL, and an event that the first call sets.
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
    """A handler of tasks that answers with one status after the other, and keeps the requests."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[list[tuple[str, str]]] = []
        self.bodies: list[bytes] = []


@contextmanager
def recorder(statuses: Sequence[int | None]) -> Iterator[Recorder]:
    """Record the requests, and answer the first with the first status, and so on.

    Args:
        statuses: None stands for a request that is not answered.
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

"""HTTP requests to a server, each over a new connection, and bare TCP connections."""

import http.client
import json
import socket
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """The response of the server."""

    status: int
    body: bytes

    @property
    def document(self) -> Any:
        """The body, decoded from JSON."""
        return json.loads(self.body)


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """Send one request to the server at HOST:PORT."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


def post(address: str, path: str, document: object = None, **headers: str) -> Answer:
    """POST this document as JSON; None means an empty body."""
    body = b"" if document is None else json.dumps(document).encode()
    return ask(address, "POST", path, body, **headers)


def connect(address: str, timeout: float = 20) -> socket.socket:
    """Open a TCP connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)

"""Chooses the protocol of a connection by its first bytes, so that all protocols share one port."""

import asyncio
from collections.abc import Callable

from .grpc_protocol import PREFACE

_LONGEST_HEAD = 65_536  # bytes of the request line and the headers


class SniffingProtocol(asyncio.Protocol):
    """Reads the first bytes of a connection, and then passes it to gRPC or HTTP/1.1.

    It passes an HTTP/1.1 connection on when all headers of its first request have arrived. It
    aborts a connection whose first bytes do not arrive within `idle_timeout`.

    Args:
        grpc: creates the protocol for a gRPC connection.
        http: creates the protocol for an HTTP/1.1 connection.
        connections: the transports that the emulator must close when it stops.
        idle_timeout: seconds within which the first bytes must arrive.
    """

    def __init__(
        self,
        grpc: Callable[[], asyncio.Protocol],
        http: Callable[[], asyncio.Protocol],
        connections: set[asyncio.Transport],
        idle_timeout: float,
    ) -> None:
        self._grpc = grpc
        self._http = http
        self._connections = connections
        self._idle_timeout = idle_timeout
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer for the first bytes."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - loops pass a Transport
        self._transport = transport
        self._connections.add(transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._idle_timeout, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Stop the timer, and remove the connection from `connections`."""
        self._timer.cancel()
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Pass the connection on when its protocol is known."""
        self._seen += data
        if self._seen.startswith(PREFACE):
            protocol = self._grpc()
        elif PREFACE.startswith(self._seen):
            return  # More bytes are needed to decide.
        elif b"\r\n\r\n" not in self._seen and len(self._seen) < _LONGEST_HEAD:
            return
        else:
            self._connections.discard(self._transport)  # aiohttp closes its own connections.
            protocol = self._http()
        self._timer.cancel()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._seen)

"""gRPC over HTTP/2, unary calls only: bytes of a connection in, calls of the API out.

h2 does the framing; what is left of gRPC is five bytes before each message and a status in the
trailers. On this API it answers more calls a second than grpcio's own servers do (`make bench`),
and it shares its port with HTTP/1.1 because it is a protocol like any other on the loop.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

import attrs
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import Help as HelpMessage
from google.rpc.status_pb2 import Status as StatusMessage
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError

from .api import Method
from .encoding import base64_unpadded
from .errors import ApiError, Status

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What an HTTP/2 connection without negotiation begins with."""

_PREFIX_SIZE = 5  # one byte for compression, four for the length
_LARGEST_MESSAGE = 4 * 1024 * 1024  # the limit that gRPC servers have by default
_WINDOW = 8 * 1024 * 1024

type Headers = list[tuple[bytes, bytes]]

_RESPONSE: Headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_OK_TRAILERS: Headers = [(b"grpc-status", b"0")]


@attrs.define
class _Request:
    path: str
    content_type: bytes
    body: bytearray = attrs.field(factory=bytearray)


@attrs.define
class _Response:
    """What could not be sent yet, for the peer's window is full."""

    rest: memoryview
    trailers: Headers


class GrpcProtocol(asyncio.Protocol):
    """One connection. Calls are answered in place: none of them waits for anything.

    Args:
        methods: by their path.
        connections: holds the connection while it is open, so that the server can close it.
    """

    def __init__(self, methods: Mapping[str, Method], connections: "set[GrpcProtocol]") -> None:
        self._methods = methods
        self._connections = connections
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                # The peers are gRPC libraries; checking their header blocks costs a fifth.
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._requests: dict[int, _Request] = {}
        self._blocked: dict[int, _Response] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what loops give to servers
        self._transport = transport
        self._connections.add(self)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        transport.write(self._h2.data_to_send())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the connection."""
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        try:
            for event in self._h2.receive_data(data):
                if isinstance(event, RequestReceived):
                    self._requests[event.stream_id] = _request(event.headers)
                elif isinstance(event, DataReceived):
                    self._receive(event)
                elif isinstance(event, StreamEnded):
                    self._answer(event.stream_id)
                elif isinstance(event, WindowUpdated):
                    self._unblock()
                elif isinstance(event, StreamReset):
                    self._requests.pop(event.stream_id, None)
                    self._blocked.pop(event.stream_id, None)
                elif isinstance(event, ConnectionTerminated):
                    self._transport.close()
        except ProtocolError:
            # h2 has prepared the GOAWAY that says why.
            self._transport.write(self._h2.data_to_send())
            self._transport.close()
            return
        self._transport.write(self._h2.data_to_send())

    def close(self) -> None:
        """Tell the peer that the server ends, and hang up."""
        if not self._transport.is_closing():
            self._h2.close_connection()
            self._transport.write(self._h2.data_to_send())
            self._transport.close()

    def _receive(self, event: DataReceived) -> None:
        request = self._requests.get(event.stream_id)
        if request is not None:
            request.body += event.data
            if len(request.body) > _LARGEST_MESSAGE + _PREFIX_SIZE:
                del self._requests[event.stream_id]
                self._refuse(
                    event.stream_id,
                    ApiError(Status.RESOURCE_EXHAUSTED, "The message is larger than 4 MiB."),
                )
                self._h2.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)
                return
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _answer(self, stream: int) -> None:
        request = self._requests.pop(stream, None)
        if request is None:
            return
        if not request.content_type.startswith(b"application/grpc"):
            self._h2.send_headers(stream, [(b":status", b"415")], end_stream=True)
            return
        try:
            message = self._call(request)
        except ApiError as error:
            self._refuse(stream, error)
            return
        self._h2.send_headers(stream, _RESPONSE)
        framed = b"\0" + len(message).to_bytes(4) + message
        if len(framed) <= self._sendable(stream):
            self._h2.send_data(stream, framed)
            self._h2.send_headers(stream, _OK_TRAILERS, end_stream=True)
        else:
            self._blocked[stream] = _Response(memoryview(framed), _OK_TRAILERS)
            self._unblock()

    def _call(self, request: _Request) -> bytes:
        method = self._methods.get(request.path)
        if method is None:
            raise ApiError(Status.UNIMPLEMENTED, f"Method not found: {request.path}")
        body = request.body
        if len(body) < _PREFIX_SIZE or len(body) != _PREFIX_SIZE + int.from_bytes(body[1:5]):
            raise ApiError(Status.INTERNAL, "The request is not one gRPC message.")
        if body[0]:
            raise ApiError(Status.UNIMPLEMENTED, "Compressed messages are not supported.")
        try:
            message = method.request.FromString(bytes(memoryview(body)[_PREFIX_SIZE:]))
        except DecodeError:
            raise ApiError(Status.INTERNAL, "The request message cannot be parsed.") from None
        response: bytes = method.handle(message).SerializeToString()
        return response

    def _refuse(self, stream: int, error: ApiError) -> None:
        self._h2.send_headers(stream, _RESPONSE + _trailers(error), end_stream=True)

    def _sendable(self, stream: int) -> int:
        return min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)

    def _unblock(self) -> None:
        for stream, response in list(self._blocked.items()):
            try:
                while response.rest and (room := self._sendable(stream)) > 0:
                    self._h2.send_data(stream, response.rest[:room].tobytes())
                    response.rest = response.rest[room:]
                if not response.rest:
                    del self._blocked[stream]
                    self._h2.send_headers(stream, response.trailers, end_stream=True)
            except StreamClosedError:
                self._blocked.pop(stream, None)


def _request(headers: Headers) -> _Request:
    path = content_type = b""
    for name, value in headers:
        if name == b":path":
            path = value
        elif name == b"content-type":
            content_type = value
    return _Request(path.decode("latin-1"), content_type)


def _trailers(error: ApiError) -> Headers:
    message = quote(error.message, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()
    trailers = [
        (b"grpc-status", str(error.status.value).encode()),
        (b"grpc-message", message),
    ]
    if error.help:
        detail = AnyMessage()
        detail.Pack(
            HelpMessage(links=[{"description": error.help.description, "url": error.help.url}])
        )
        status = StatusMessage(code=error.status.value, message=error.message, details=[detail])
        encoded = base64_unpadded(status.SerializeToString())
        trailers.append((b"grpc-status-details-bin", encoded))
    return trailers

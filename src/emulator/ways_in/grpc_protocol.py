"""gRPC over HTTP/2 for unary calls, as an asyncio protocol.

h2 implements the framing of HTTP/2. gRPC adds five bytes before each message, and a status in the
trailers. On this API the protocol answers more calls per second than the servers of grpcio. It can
share its port with HTTP/1.1, because it is an ordinary asyncio protocol.
"""

import asyncio
from base64 import b64encode
from collections import deque
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
    Event,
    PingReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError

from ..api.method import Method
from ..errors import ApiError, Status

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of an HTTP/2 connection with prior knowledge."""

_PREFIX_SIZE = 5  # bytes: one for compression, four for the length
_LARGEST_MESSAGE = 4 * 1024 * 1024  # bytes; the default limit of gRPC servers
_WINDOW = 8 * 1024 * 1024  # bytes that are added to the flow control window of a connection
_MOST_RECEIVED = 64 * 1024 * 1024  # bytes of unanswered requests on one connection
_MOST_UNSENT = 16 * 1024 * 1024  # bytes of responses that wait for the client's window

type Headers = list[tuple[bytes, bytes]]

_RESPONSE: Headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_OK_TRAILERS: Headers = [(b"grpc-status", b"0")]


@attrs.define
class _Request:
    path: str
    content_type: bytes
    body: bytearray = attrs.field(factory=bytearray)


class GrpcProtocol(asyncio.Protocol):
    """One connection. Calls are answered on the event loop, because no method of the API waits.

    Args:
        methods: the methods of the API by gRPC path.
        connections: the protocol removes its transport from this set when the connection is lost.
        idle_timeout: the connection is closed after this many seconds without data other than
            pings.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        connections: set[asyncio.Transport],
        idle_timeout: float,
    ) -> None:
        self._methods = methods
        self._connections = connections
        self._idle_timeout = idle_timeout
        self._received = 0  # bytes of unanswered requests
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                # The clients are gRPC libraries, and checking headers costs a fifth of the speed.
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._requests: dict[int, _Request] = {}
        # Streams whose requests are complete, but not answered yet.
        self._complete: deque[int] = deque()
        self._is_paused = False
        # The remaining bytes of responses that are larger than the client's window.
        self._unsent: dict[int, memoryview] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the HTTP/2 settings."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - loops pass a Transport
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(self._idle_timeout, self._drop_if_idle)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        transport.write(self._h2.data_to_send())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Remove the connection from `connections`."""
        self._timer.cancel()
        self._connections.discard(self._transport)

    def pause_writing(self) -> None:
        """Stop reading and answering calls, because the client does not read the responses."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Continue, because the client reads again."""
        self._is_paused = False
        self._transport.resume_reading()
        self._answer_what_is_complete()

    def _drop_if_idle(self) -> None:
        silent = self._loop.time() - self._heard_at
        if silent < self._idle_timeout:
            self._timer = self._loop.call_later(self._idle_timeout - silent, self._drop_if_idle)
            return
        # A client that still runs connects again for its next call.
        self._h2.close_connection()
        self._transport.write(self._h2.data_to_send())
        # `close` would wait until the client has read all data.
        self._loop.call_soon(self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Read frames, and answer the calls that are complete."""
        try:
            self._take(data)
        except ProtocolError:
            # h2 has created a GOAWAY frame with the reason.
            self._transport.write(self._h2.data_to_send())
            self._transport.close()

    def _take(self, data: bytes) -> None:
        events = self._h2.receive_data(data)
        if any(isinstance(event, ConnectionTerminated) for event in events):
            # The client closes the connection. Its calls in the same data are not executed.
            self._transport.close()
            return
        if not all(isinstance(event, PingReceived) for event in events):
            self._heard_at = self._loop.time()
        # A call that is cancelled in the same data is not executed.
        for event in events:
            if isinstance(event, StreamReset):
                self._forget(event.stream_id)
                self._unsent.pop(event.stream_id, None)
        cancelled = {event.stream_id for event in events if isinstance(event, StreamReset)}
        for event in events:
            if getattr(event, "stream_id", None) not in cancelled:
                self._handle(event)
        self._write()
        self._answer_what_is_complete()

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._requests[event.stream_id] = _request(event.headers)
        elif isinstance(event, DataReceived):
            self._receive(event)
        elif isinstance(event, StreamEnded):
            self._complete.append(event.stream_id)
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            for stream in list(self._unsent):
                self._send_on(stream)

    def _answer_what_is_complete(self) -> None:
        """Answer complete calls in order, until the client stops reading the responses."""
        while self._complete and not self._is_paused:
            self._answer(self._complete.popleft())
            self._write()

    def _write(self) -> None:
        if data := self._h2.data_to_send():
            self._transport.write(data)

    def _forget(self, stream: int) -> _Request | None:
        request = self._requests.pop(stream, None)
        if request is not None:
            self._received -= len(request.body)
        return request

    def _receive(self, event: DataReceived) -> None:
        stream, request = event.stream_id, self._requests.get(event.stream_id)
        self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
        if request is None:
            return
        request.body += event.data
        self._received += len(event.data)
        error = None
        if len(request.body) > _LARGEST_MESSAGE + _PREFIX_SIZE:
            error = ApiError(Status.RESOURCE_EXHAUSTED, "The message is larger than 4 MiB.")
        elif self._received > _MOST_RECEIVED:
            error = ApiError(Status.RESOURCE_EXHAUSTED, "Too many calls are not complete.")
        if error is not None:
            self._forget(stream)
            self._h2.send_headers(stream, _RESPONSE + _trailers(error), end_stream=True)
            if event.stream_ended is None:
                self._h2.reset_stream(stream, ErrorCodes.NO_ERROR)

    def _answer(self, stream: int) -> None:
        request = self._forget(stream)
        if request is None:
            return
        if not request.content_type.startswith(b"application/grpc"):
            self._h2.send_headers(stream, [(b":status", b"415")], end_stream=True)
            return
        try:
            message = self._call(request)
        except ApiError as error:
            self._h2.send_headers(stream, _RESPONSE + _trailers(error), end_stream=True)
            return
        self._h2.send_headers(stream, _RESPONSE)
        self._unsent[stream] = memoryview(b"\0" + len(message).to_bytes(4) + message)
        self._send_on(stream)

    def _call(self, request: _Request) -> bytes:
        if sum(map(len, self._unsent.values())) > _MOST_UNSENT:
            raise ApiError(Status.RESOURCE_EXHAUSTED, "Earlier answers are not read.")
        method = self._methods.get(request.path)
        if method is None:
            raise ApiError(Status.UNIMPLEMENTED, f"Method not found: {request.path[:200]}")
        body = request.body
        if len(body) < _PREFIX_SIZE or len(body) != _PREFIX_SIZE + int.from_bytes(body[1:5]):
            raise ApiError(Status.INTERNAL, "The request is not one gRPC message.")
        if body[0]:
            raise ApiError(Status.UNIMPLEMENTED, "Compressed messages are not supported.")
        try:
            message = method.request.FromString(bytes(memoryview(body)[_PREFIX_SIZE:]))
        except DecodeError:
            raise ApiError(Status.INTERNAL, "The request message cannot be parsed.") from None
        response: bytes = method.answer(message).SerializeToString()
        return response

    def _send_on(self, stream: int) -> None:
        """Send as much of a response as the client's window allows.

        After the last byte, send the trailers.
        """
        rest = self._unsent[stream]
        try:
            while rest and (room := self._room(stream)) > 0:
                self._h2.send_data(stream, rest[:room].tobytes())
                rest = rest[room:]
            if rest:
                self._unsent[stream] = rest
                return
            self._h2.send_headers(stream, _OK_TRAILERS, end_stream=True)
        except StreamClosedError:
            pass  # The client has cancelled the call.
        del self._unsent[stream]

    def _room(self, stream: int) -> int:
        return min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)


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
        link = {"description": error.help.description, "url": error.help.url}
        detail = AnyMessage()
        detail.Pack(HelpMessage(links=[link]))
        status = StatusMessage(code=error.status.value, message=error.message, details=[detail])
        # gRPC encodes binary metadata in base64 without padding.
        encoded = b64encode(status.SerializeToString()).rstrip(b"=")
        trailers.append((b"grpc-status-details-bin", encoded))
    return trailers

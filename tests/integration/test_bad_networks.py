"""Calls to Cloud Tasks over real sockets that lose data, break or refuse."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import grpc
import pytest
from django_tasks_cloud_tasks import CancelError, ServiceUnavailableError, TaskRejectedError
from django_tasks_cloud_tasks.adapters.cloud_tasks import GrpcTaskQueue
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.model import QueueState
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as StatusMessage
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived, StreamEnded

from tests.integration.paths import ROOT
from tests.integration.task_requests import QUEUE_NAME, task_request


@pytest.fixture
def paused() -> Iterator[BackgroundEmulator]:
    """An emulator whose queue dispatches nothing."""

    def make() -> Emulator:
        emulator = Emulator(clock=ManualClock(), queues=[str(QUEUE_NAME)])
        emulator.service.set_state(str(QUEUE_NAME), QueueState.PAUSED)
        return emulator

    with BackgroundEmulator(make) as running:
        yield running


def tasks_of(emulator: BackgroundEmulator) -> list[str]:
    async def collect() -> list[str]:
        return [task.task_id for task in emulator.emulator.service.tasks(str(QUEUE_NAME))]

    return emulator.call(collect())


class Proxy:
    """A proxy that forwards bytes. It can also lose all bytes on the open connections."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._swallowed: set[int] = set()
        self._open: dict[int, list[socket.socket]] = {}
        self.connections = 0
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def swallow(self) -> None:
        """Keep the open connections, but forward no more bytes on them."""
        self._swallowed.update(range(self.connections))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            number, self.connections = self.connections, self.connections + 1
            self._open[number] = [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(
                    target=self._pass_on, args=(number, source, sink), daemon=True
                ).start()

    def _pass_on(self, number: int, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if number not in self._swallowed:
                    sink.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()
        for pair in self._open.values():
            for end in pair:
                end.close()


@pytest.fixture
def proxy(paused: BackgroundEmulator) -> Iterator[Proxy]:
    with closing(Proxy(paused.address)) as made:
        yield made


def test_a_connection_that_loses_everything_is_replaced(
    proxy: Proxy, paused: BackgroundEmulator
) -> None:
    queue = GrpcTaskQueue(proxy.address)
    queue.create(task_request("first"), timeout=10)
    proxy.swallow()
    queue.create(task_request("second"), timeout=4)
    assert tasks_of(paused) == ["first", "second"]
    queue.create(task_request("third"), timeout=4)
    assert proxy.connections == 2, "the new one is kept"
    proxy.swallow()
    assert queue.delete(QUEUE_NAME, "second", timeout=4) is True
    assert queue.delete(QUEUE_NAME, "second", timeout=4) is False
    queue.close()


def test_an_awaited_connection_that_loses_everything_is_replaced(
    proxy: Proxy, paused: BackgroundEmulator
) -> None:
    queue = GrpcTaskQueue(proxy.address)

    async def create() -> None:
        await queue.acreate(task_request("first"), timeout=10)
        proxy.swallow()
        names = ["second", "third", "fourth"]
        await asyncio.gather(*(queue.acreate(task_request(name), timeout=4) for name in names))

    asyncio.run(create())
    assert sorted(tasks_of(paused)) == ["first", "fourth", "second", "third"]
    assert proxy.connections == 2


def test_threads_that_share_a_connection_that_loses_everything_all_create_their_tasks(
    proxy: Proxy, paused: BackgroundEmulator
) -> None:
    queue = GrpcTaskQueue(proxy.address)
    queue.create(task_request("first"), timeout=10)
    proxy.swallow()
    with futures.ThreadPoolExecutor(8) as pool:
        names = [str(number) for number in range(16)]
        list(pool.map(lambda name: queue.create(task_request(name), timeout=6), names))
    assert sorted(tasks_of(paused)) == sorted(["first", *names])
    queue.close()


# Statuses.


@attrs.define
class Answers:
    """A gRPC server that first answers with the errors in `fail`, and then creates tasks."""

    fail: list[Callable[[grpc.ServicerContext], None]] = attrs.field(factory=list)
    calls: int = 0

    def __call__(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        if self.fail:
            self.fail.pop(0)(context)
        return b""


@pytest.fixture
def service() -> Iterator[tuple[Answers, str]]:
    answers = Answers()
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(answers) for name in ("CreateTask", "DeleteTask")
    }
    server = grpc.server(futures.ThreadPoolExecutor(2))
    generic = grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", handlers)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield answers, f"127.0.0.1:{port}"
    server.stop(None).wait()


def status(code: grpc.StatusCode) -> Callable[[grpc.ServicerContext], None]:
    return lambda context: context.abort(code, "as it was told")


def asks_to_wait(seconds: float) -> Callable[[grpc.ServicerContext], None]:
    def fail(context: grpc.ServicerContext) -> None:
        delay = Duration()
        delay.FromNanoseconds(round(seconds * 1e9))
        detail = AnyMessage()
        detail.Pack(RetryInfo(retry_delay=delay))
        told = StatusMessage(code=8, message="quota", details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", told.SerializeToString()),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")

    return fail


def create(queue: GrpcTaskQueue, timeout: float, awaited: bool) -> None:
    if awaited:
        asyncio.run(queue.acreate(task_request(), timeout=timeout))
    else:
        queue.create(task_request(), timeout=timeout)


PASSING = ["CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL"]
PASSING += ["UNAVAILABLE"]
FINAL = ["INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED", "DATA_LOSS"]


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("name", PASSING)
def test_a_temporary_error_status_loses_no_task(
    service: tuple[Answers, str], name: str, awaited: bool
) -> None:
    answers, address = service
    answers.fail = [status(grpc.StatusCode[name])] * 2
    create(GrpcTaskQueue(address), 10, awaited)
    assert answers.calls == 3
    answers.fail = [status(grpc.StatusCode[name])] * 100
    # On this clock each call takes longer than the time-out.
    queue = GrpcTaskQueue(address, clock=count(0, 20).__next__)
    with pytest.raises(ServiceUnavailableError, match=name):
        create(queue, 10, awaited)
    assert answers.calls == 4


@pytest.mark.parametrize("name", FINAL)
def test_a_permanent_error_status_is_reported_immediately(
    service: tuple[Answers, str], name: str
) -> None:
    answers, address = service
    answers.fail = [status(grpc.StatusCode[name])] * 2
    with pytest.raises(TaskRejectedError, match=name):
        create(GrpcTaskQueue(address), 10, awaited=False)
    assert answers.calls == 1


@pytest.mark.parametrize("awaited", [False, True])
def test_a_retry_waits_as_long_as_the_service_asks(
    service: tuple[Answers, str], awaited: bool
) -> None:
    answers, address = service
    slept: list[float] = []
    answers.fail = [asks_to_wait(0.75)]
    queue = GrpcTaskQueue(address, sleep=slept.append)
    create(queue, 10, awaited)
    assert answers.calls == 2
    assert awaited or slept == [0.75]
    answers.fail = [asks_to_wait(30)]
    with pytest.raises(ServiceUnavailableError, match="asks to wait 30 s"):
        create(queue, 10, awaited)
    assert answers.calls == 3


def test_a_cancellation_without_an_answer_is_marked_as_unanswered(
    service: tuple[Answers, str],
) -> None:
    answers, address = service
    answers.fail = [status(grpc.StatusCode.UNAVAILABLE)] * 100
    with pytest.raises(CancelError) as raised:
        GrpcTaskQueue(address).delete(QUEUE_NAME, "a", timeout=0.3)
    assert raised.value.unanswered


# Broken streams: a small server on h2.


class Http2:
    """A server that resets the first calls, and answers the later calls with success."""

    def __init__(self, break_off: Callable[[H2Connection, int], None], times: int) -> None:
        self._break_off, self._times = break_off, times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        with client:
            client.sendall(connection.data_to_send())
            while data := client.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, RequestReceived):
                        connection.acknowledge_received_data(0, event.stream_id)
                    if isinstance(event, StreamEnded):
                        self._answer(connection, event.stream_id)
                client.sendall(connection.data_to_send())

    def _answer(self, connection: H2Connection, stream: int) -> None:
        if self._times > 0:
            self._times -= 1
            self._break_off(connection, stream)
            return
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        connection.send_headers(stream, headers)
        connection.send_data(stream, b"\0\0\0\0\0")
        connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    def close(self) -> None:
        self._listener.close()


def reset(code: ErrorCodes) -> Callable[[H2Connection, int], None]:
    return lambda connection, stream: connection.reset_stream(stream, code)


def http_status(status: str) -> Callable[[H2Connection, int], None]:
    def answer(connection: H2Connection, stream: int) -> None:
        headers = [(":status", status), ("content-type", "text/html")]
        connection.send_headers(stream, headers, end_stream=True)

    return answer


def no_trailers(connection: H2Connection, stream: int) -> None:
    headers = [(":status", "200"), ("content-type", "application/grpc")]
    connection.send_headers(stream, headers)
    connection.send_data(stream, b"\0\0\0\0\0", end_stream=True)


BROKEN = {
    **{f"reset {code.name}": reset(code) for code in ErrorCodes if code.name != "NO_ERROR"},
    **{f"HTTP {code}": http_status(code) for code in ("408", "429", "500", "502", "503", "504")},
    "no trailers": no_trailers,
}
# This error says that the server did not process the call.
del BROKEN["reset HTTP_1_1_REQUIRED"], BROKEN["reset INADEQUATE_SECURITY"]


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_stream_loses_no_task(kind: str, awaited: bool) -> None:
    with closing(Http2(BROKEN[kind], times=2)) as server:
        create(GrpcTaskQueue(server.address), 10, awaited)


# Closed event loops, and proxies from the environment.


def test_channels_of_closed_event_loops_are_closed(paused: BackgroundEmulator) -> None:
    queue = GrpcTaskQueue(paused.address)

    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    for number in range(5):
        asyncio.run(queue.acreate(task_request(f"a{number}"), timeout=10))
    before = descriptors()
    for number in range(60):
        asyncio.run(queue.acreate(task_request(f"b{number}"), timeout=10))
    assert descriptors() <= before + 20
    assert len(tasks_of(paused)) == 65


def test_a_site_connects_to_its_emulator_without_a_proxy(paused: BackgroundEmulator) -> None:
    """The test uses a new process, because gRPC reads the variables only once."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        program = (
            "import asyncio, sys\n"
            "from django_tasks_cloud_tasks.adapters.cloud_tasks import GrpcTaskQueue\n"
            "from tests.integration.task_requests import task_request\n"
            "from django_tasks_cloud_tasks.adapters import tokens\n"
            "queue = GrpcTaskQueue(sys.argv[1])\n"
            "queue.create(task_request('a'), timeout=5)\n"
            "asyncio.run(queue.acreate(task_request('b'), timeout=5))\n"
            "url = f'http://{sys.argv[1]}/oauth2/v1/certs'\n"
            "assert tokens.fetch_certificates(url, proxied=False).certificates\n"
        )
        names = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
        proxies = dict.fromkeys((*names, *map(str.upper, names)), dead)
        without = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
        subprocess.run(
            [sys.executable, "-c", program, paused.address],
            check=True,
            timeout=60,
            cwd=ROOT,
            env={**without, **proxies, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        )
    assert sorted(tasks_of(paused)) == ["a", "b"]


def test_another_server_at_the_emulators_address_is_told_at_once() -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            # Until the test closes the socket: the client chooses how often it connects.
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ServiceUnavailableError, match=f"No emulator listens at {address}"):
            create(GrpcTaskQueue(address), 10, awaited=False)

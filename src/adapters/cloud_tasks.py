"""The client of the Cloud Tasks API over gRPC.

It uses the messages and the channel of google-cloud-tasks. It does not use the client class,
because the overhead of that class takes more time than the call itself. This module imports grpc
and google.cloud, which is slow. So import it at the first enqueue, not at start-up.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import attrs
import google.auth.exceptions
import grpc
from google.cloud.tasks_v2.services.cloud_tasks.transports import (
    CloudTasksGrpcTransport,
)
from google.cloud.tasks_v2.types import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    RunTaskRequest,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as StatusMessage

from ..core.api_failures import (
    Call,
    Code,
    Control,
    Failure,
    NextStep,
    Reply,
    Sleep,
    Told,
    after_failed_control,
    after_failure,
    calling,
)
from ..core.errors import (
    CloudTasksError,
    ControlError,
    EnqueueError,
    PermissionDeniedError,
)
from ..core.names import QueueName
from ..core.requests import TaskRequest
from .forks import renew_in_children

_SERVICE = "/google.cloud.tasks.v2.CloudTasks/"
_POST = 1  # HttpMethod.POST
_ENDPOINT = CloudTasksGrpcTransport.DEFAULT_HOST + ":443"
_OPTIONS = (
    # The core decides on retries, so the retries of gRPC are turned off.
    ("grpc.enable_retries", 0),
    # With this option, every new channel opens its own connection. By default, channels share
    # connections, also with the channels that a forked child inherits.
    ("grpc.use_local_subchannel_pool", 1),
    # Some platforms freeze an instance between requests, and its connections break meanwhile. So a
    # channel without calls drops its connection after this time, and the next call opens another.
    ("grpc.client_idle_timeout_ms", 120_000),
)
# An emulator is on the same machine or in the same network, and never behind a proxy.
_EMULATOR_OPTIONS = (*_OPTIONS, ("grpc.enable_http_proxy", 0))
# Parts of gRPC's error messages if no server listens, the name is unknown, or the server does not
# speak HTTP/2.
_NOBODY_LISTENS = (
    *("Connection refused", "Domain name not found", "DNS resolution failed"),
    *("Name or service not known", "Failed parsing HTTP/2"),
)
_Message = CreateTaskRequest.pb()
_CONTROLS = {
    Control.DELETE: ("DeleteTask", DeleteTaskRequest.pb()),
    Control.RUN: ("RunTask", RunTaskRequest.pb()),
    Control.LOOK_UP: ("GetTask", GetTaskRequest.pb()),
}

type Metadata = tuple[tuple[str, str], ...]


class _Call(Protocol):
    def __call__(self, request: bytes, *, timeout: float, metadata: Metadata) -> Any: ...  # noqa: ANN401 - the response as bytes

    def future(self, request: bytes, *, timeout: float, metadata: Metadata) -> grpc.Future[Any]: ...


@attrs.define(eq=False)
class _Client:
    """A channel, and the function that calls `CreateTask` over it."""

    channel: grpc.Channel
    create: _Call = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.create = self.method("CreateTask")

    def method(self, name: str) -> _Call:
        """Return a function that calls this method of the API."""
        call: _Call = self.channel.unary_unary(_SERVICE + name)
        return call


# The clients that a forked child inherits from its parent. The child must not use or free them, so
# this list keeps a reference to them.
_inherited: list[object] = []


class GrpcTaskQueue:
    """A `TaskQueue` that calls Cloud Tasks, or an emulator of it.

    All threads and event loops of a process can share one instance, and it keeps working after a
    fork. The first call opens the channel. A forked child opens its own channel. If a call over
    the channel gets no response, the next attempt opens a new channel. Calls that are in progress
    on the old channel continue.

    Args:
        emulator_host: HOST:PORT of an emulator, which is called without TLS and credentials; None
            for the service.
        clock: returns a monotonic time, in seconds.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        emulator_host: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._emulator_host = emulator_host
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._client: _Client | None = None
        renew_in_children(self)

    def after_fork_in_child(self) -> None:
        """See `Forkable`."""
        _inherited.append(self._client)
        self._lock = threading.Lock()
        self._client = None

    def create(self, request: TaskRequest, *, timeout: float) -> None:
        """See `TaskQueue.create`."""
        flow = calling(self._creation_failed(request, timeout), timeout=timeout)
        self._drive(flow, "CreateTask", encode(request), _routing(request))

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - the port's signature
        """See `TaskQueue.acreate`.

        It uses the same channel as `create`, because `grpc.aio` crashes in forked children.
        """
        flow = calling(self._creation_failed(request, timeout), timeout=timeout)
        message, metadata, began = encode(request), _routing(request), self._clock()
        client, cause = None, None
        step = next(flow)
        while True:
            reply = None
            if isinstance(step, Sleep):
                self._forget_if(client, step.reconnect)
                await asyncio.sleep(step.seconds)
            else:
                client = self._client or await self._aconnect()
                call = client.create.future(message, timeout=step.timeout, metadata=metadata)
                try:
                    await _answered(call)
                except grpc.RpcError as error:
                    reply, cause = _reply(error), error
            try:
                step = flow.send(Told(self._clock() - began, reply))
            except StopIteration:
                return
            except CloudTasksError as error:
                raise error from cause

    def delete(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """See `TaskQueue.delete`."""
        return self._control(Control.DELETE, queue, task_id, timeout)

    def run(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """See `TaskQueue.run`."""
        return self._control(Control.RUN, queue, task_id, timeout)

    def exists(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """See `TaskQueue.exists`."""
        return self._control(Control.LOOK_UP, queue, task_id, timeout)

    def _control(self, control: Control, queue: QueueName, task_id: str, timeout: float) -> bool:
        """Delete, run or look up a task, and return whether it exists.

        Raises:
            CancelError, RunNowError, LookUpError: the call failed. The class depends on `control`.
        """
        name = f"{queue}/tasks/{task_id}"
        method, message = _CONTROLS[control]
        metadata = (("x-goog-request-params", "name=" + _escaped(name)),)

        def failed(failure: Failure) -> NextStep[ControlError]:
            return after_failed_control(
                failure, control=control, name=name, timeout=timeout, jitter=_jitter()
            )

        encoded: bytes = message(name=name).SerializeToString()
        return self._drive(calling(failed, timeout=timeout), method, encoded, metadata)

    def _drive(
        self,
        flow: Generator[Call | Sleep, Told, bool],
        method: str,
        message: bytes,
        metadata: Metadata,
    ) -> bool:
        """Execute the calls and waits that the flow yields, and return the result of the flow.

        Args:
            flow: the generator from `calling`. It raises the error of a failed call.
            method: the name of the API method.
            message: the encoded request.
            metadata: the gRPC metadata.
        """
        client, cause, began = None, None, self._clock()
        step = next(flow)
        while True:
            reply = None
            if isinstance(step, Sleep):
                self._forget_if(client, step.reconnect)
                self._sleep(step.seconds)
            else:
                client = self._client or self._connect()
                call = client.create if method == "CreateTask" else client.method(method)
                try:
                    call(message, timeout=step.timeout, metadata=metadata)
                except grpc.RpcError as error:
                    reply, cause = _reply(error), error
            try:
                step = flow.send(Told(self._clock() - began, reply))
            except StopIteration as end:
                return bool(end.value)
            except CloudTasksError as error:
                raise error from cause

    def close(self) -> None:
        """Close the channel. The next call opens a new one."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.channel.close()

    def _forget_if(self, client: _Client | None, reconnect: bool) -> None:  # noqa: FBT001 - a field of `Sleep`
        """Forget the client if `reconnect` is set, so that the next call opens a new channel.

        If another call has already replaced the client, this does nothing.
        """
        if not reconnect:
            return
        with self._lock:
            if self._client is client:
                self._client = None

    def _connect(self) -> _Client:
        with self._lock:
            if self._client is not None:
                return self._client
            if self._emulator_host:
                channel = grpc.insecure_channel(self._emulator_host, options=_EMULATOR_OPTIONS)
            else:
                channel = CloudTasksGrpcTransport.create_channel(
                    _ENDPOINT, credentials=_default_credentials(), options=_OPTIONS
                )
            self._client = _Client(channel)
            return self._client

    async def _aconnect(self) -> _Client:
        if self._emulator_host:
            return self._connect()
        # Finding credentials reads files and calls the metadata server. So it needs a thread once.
        return await asyncio.to_thread(self._connect)

    def _creation_failed(
        self, request: TaskRequest, timeout: float
    ) -> Callable[[Failure], NextStep[EnqueueError]]:
        return lambda failure: after_failure(
            failure,
            request=request,
            timeout=timeout,
            jitter=_jitter(),
            emulator=self._emulator_host,
        )


async def _answered(call: grpc.Future[Any]) -> None:
    """Wait for a call without a thread. If the caller is cancelled, cancel the call.

    Raises:
        grpc.RpcError: the call failed.
    """
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def tell(_: object) -> None:
        # If the loop is closed, no coroutine waits for the call any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(end)

    call.add_done_callback(tell)
    try:
        await ended
    except asyncio.CancelledError:
        call.cancel()
        raise
    call.result()


def _reply(error: grpc.RpcError) -> Reply:
    status, details = error.code().name, error.details() or ""
    return Reply(
        code=Code.named(status),
        status=status,
        details=details,
        refused=any(sign in details for sign in _NOBODY_LISTENS),
        retry_after=_retry_after(error),
    )


def _retry_after(error: grpc.RpcError) -> float:
    """Return the seconds in the `google.rpc.RetryInfo` of an error; 0 without one."""
    metadata: Any = error.trailing_metadata() or ()
    for name, value in metadata:
        if name == "grpc-status-details-bin":
            with suppress(DecodeError):
                for detail in StatusMessage.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        delay = info.retry_delay
                        return max(0.0, delay.seconds + delay.nanos / 1e9)
    return 0.0


def _jitter() -> float:
    return random.random()  # noqa: S311 - spreads retries, no secret


def _routing(request: TaskRequest) -> Metadata:
    """Return the routing header. The front end of the service finds the queue's region with it."""
    return (("x-goog-request-params", "parent=" + _escaped(str(request.queue))),)


def _escaped(queue: str) -> str:
    """Escape a resource name for the routing header. Only these two of its characters need it."""
    return queue.replace("/", "%2F").replace(":", "%3A")


def encode(request: TaskRequest) -> bytes:
    """Convert a request to an encoded `CreateTaskRequest` message."""
    queue = str(request.queue)
    message = _Message(parent=queue)
    task = message.task
    if request.task_id:
        task.name = f"{queue}/tasks/{request.task_id}"
    http = task.http_request
    http.url = request.url
    http.http_method = _POST
    http.headers.update(request.headers)
    http.body = request.body
    if request.oidc:
        http.oidc_token.service_account_email = request.oidc.service_account_email
        http.oidc_token.audience = request.oidc.audience
    if request.schedule_time:
        moment = Timestamp()
        moment.FromDatetime(request.schedule_time)
        task.schedule_time.CopyFrom(moment)
    if request.dispatch_deadline:
        deadline = Duration()
        deadline.FromTimedelta(request.dispatch_deadline)
        task.dispatch_deadline.CopyFrom(deadline)
    if request.retry:
        backoff, config = request.retry.backoff, task.retry_config
        config.max_attempts = request.retry.max_attempts
        config.min_backoff.FromTimedelta(timedelta(seconds=backoff.first))
        config.max_backoff.FromTimedelta(timedelta(seconds=backoff.longest))
        config.max_doublings = backoff.doublings
    encoded: bytes = message.SerializeToString()
    return encoded


def _default_credentials() -> Any:  # noqa: ANN401 - google-auth publishes no types
    try:
        credentials, _ = google.auth.default(default_scopes=CloudTasksGrpcTransport.AUTH_SCOPES)
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise PermissionDeniedError(
            "Google Cloud credentials were not found. For development, run 'gcloud auth "
            "application-default login', or start the emulator and set CLOUD_TASKS_EMULATOR_HOST. "
            f"On Google Cloud, attach a service account to the app. The error was: {error}"
        ) from error
    return credentials

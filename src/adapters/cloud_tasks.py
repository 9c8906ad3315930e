"""The Cloud Tasks API over gRPC.

The messages and the channel are those of google-cloud-tasks; its typed client is left out of the
way, because its wrapping costs more than the call. This module imports grpc and google.cloud:
import it at the first enqueue, never at start-up.
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
    Decision,
    Failure,
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
    # Attempts are repeated here, where the core decides on it; gRPC's own machinery stays out.
    ("grpc.enable_retries", 0),
    # A new channel is a new connection, and a forked child's is not its parent's.
    ("grpc.use_local_subchannel_pool", 1),
    # Instances that are frozen between requests find their connections dead: after a while without
    # a call the next one makes another.
    ("grpc.client_idle_timeout_ms", 120_000),
)
# An emulator is on this machine or beside it, and never behind a proxy.
_EMULATOR_OPTIONS = (*_OPTIONS, ("grpc.enable_http_proxy", 0))
# What gRPC says where nobody listens, the name is unknown, or something else answers.
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
    def __call__(self, request: bytes, *, timeout: float, metadata: Metadata) -> Any: ...  # noqa: ANN401 - bytes

    def future(self, request: bytes, *, timeout: float, metadata: Metadata) -> grpc.Future[Any]: ...


@attrs.define(eq=False)
class _Client:
    """A channel with the calls that were made over it, by method."""

    channel: grpc.Channel
    create: _Call = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.create = self.method("CreateTask")

    def method(self, name: str) -> _Call:
        """What calls that method."""
        call: _Call = self.channel.unary_unary(_SERVICE + name)
        return call


# What a forked child has of its parent's: it must not be touched there, not even freed.
_inherited: list[object] = []


class GrpcTaskQueue:
    """`TaskQueue` on the service, or on an emulator of it.

    One instance serves all threads and event loops of a process, and its forks: the channel is
    made at the first task, and anew in a forked child. A channel over which no answer comes is
    replaced by another; calls that are under way over the old one end by themselves.

    Args:
        emulator_host: HOST:PORT of an emulator, reached without TLS and credentials.
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

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - the port's word
        """See `TaskQueue.acreate`.

        Over the channel of the threads: gRPC's own for event loops crashes in forked children.
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
        """Have something done to a task; whether there was one."""
        name = f"{queue}/tasks/{task_id}"
        method, message = _CONTROLS[control]
        metadata = (("x-goog-request-params", "name=" + _escaped(name)),)

        def failed(failure: Failure) -> Decision[ControlError]:
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
        """Do what the flow says, in this thread; what it returns."""
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
        """Close the synchronous channel; the next task opens another."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.channel.close()

    def _forget_if(self, client: _Client | None, reconnect: bool) -> None:  # noqa: FBT001 - the flow's word
        """Have the next call make a channel, unless another call has had that done."""
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
        # Finding credentials reads files and asks the metadata server: once.
        return await asyncio.to_thread(self._connect)

    def _creation_failed(
        self, request: TaskRequest, timeout: float
    ) -> Callable[[Failure], Decision[EnqueueError]]:
        return lambda failure: after_failure(
            failure,
            request=request,
            timeout=timeout,
            jitter=_jitter(),
            emulator=self._emulator_host,
        )


async def _answered(call: grpc.Future[Any]) -> None:
    """Wait for a call without a thread; cancelled, if this is.

    Raises:
        grpc.RpcError: it failed.
    """
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def tell(_: object) -> None:
        # The loop is closed where nobody waits any more.
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
    """The seconds of a `google.rpc.RetryInfo` among the error's details; 0 without one."""
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
    return random.random()  # noqa: S311 - spreads clients, hides nothing


def _routing(request: TaskRequest) -> Metadata:
    """Tells the service's front end where the queue lives."""
    return (("x-goog-request-params", "parent=" + _escaped(str(request.queue))),)


def _escaped(queue: str) -> str:
    """A queue's name in a query: of its alphabet only these two need escaping."""
    return queue.replace("/", "%2F").replace(":", "%3A")


def encode(request: TaskRequest) -> bytes:
    """The `CreateTaskRequest` of the API, as bytes."""
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
            "No Google Cloud credentials found. On a laptop run 'gcloud auth application-default "
            "login', or start the emulator and set CLOUD_TASKS_EMULATOR_HOST; on Google Cloud "
            f"give the app a service account. ({error})"
        ) from error
    return credentials

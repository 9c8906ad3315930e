"""The processes that `bench.emulator` measures. The arguments are a role and its parameters.

A process prints its address first.
"""

import asyncio
import sys

from django_tasks_cloud_tasks.emulator.api.method import Method
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.model import QueueConfig, QueueState, RateLimits
from django_tasks_cloud_tasks.emulator.ways_in.grpc_protocol import GrpcProtocol
from google.cloud.tasks_v2 import types

QUEUE = "projects/project/locations/europe-west1/queues/bench"
# The queue must not limit the benchmark. Through the API the highest rate is 500 per second.
UNLIMITED = QueueConfig(limits=RateLimits(rate=1_000_000.0, concurrent=100))


async def emulator(state: str) -> None:
    """Run the emulator. `state` is the state of its queue: RUNNING or PAUSED."""
    made = Emulator()
    queue = made.service.create_queue(QUEUE, UNLIMITED, made.now())
    queue.state = QueueState[state]
    port = await made.start("127.0.0.1", 0)
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


async def echo() -> None:
    """Run a server with the same protocol that only returns the task of the request."""
    method = Method(types.CreateTaskRequest.pb(), lambda request: request.task)
    methods = {"/google.cloud.tasks.v2.CloudTasks/CreateTask": method}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: GrpcProtocol(methods, set(), 300.0), "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


class Handler(asyncio.Protocol):
    """A minimal HTTP server. It answers every request with 200."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = transport
        self.seen = b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self.seen += data
        while (end := self.seen.find(b"\r\n\r\n")) >= 0:
            head = self.seen[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.seen) < end + 4 + length:
                return
            self.seen = self.seen[end + 4 + length :]
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]


async def handler() -> None:
    """Run a server that answers every request with 200."""
    server = await asyncio.get_running_loop().create_server(Handler, "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    roles = {"emulator": emulator, "echo": echo, "handler": handler}
    asyncio.run(roles[sys.argv[1]](*sys.argv[2:]))

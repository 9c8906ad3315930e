"""Benchmarks of the emulator. The references are servers and clients with the least code."""

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import attrs

from .emulator_process import QUEUE, Handler
from .measure import alternate

_METHOD = "/google.cloud.tasks.v2.CloudTasks/CreateTask"
_BODY = b'{"task_id": "0", "task_path": "shop.tasks.add", "args": [1, 2], "kwargs": {}}' * 3
_NUMBERS = count()


@attrs.frozen
class Line:
    """A line of the table: the measurement, its value, and the comparison with the aim."""

    what: str
    value: str
    compared: str

    def __str__(self) -> str:
        return f"  {self.what:<46} {self.value:>14}  {self.compared}"


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run a process of `bench.emulator_process`, and yield its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.emulator_process", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            yield running.stdout.readline().strip()
        finally:
            running.terminate()


def request(url: str, *, later: bool = False, prefix: str = "t") -> bytes:
    """Return an encoded `CreateTaskRequest` for a task with a new name.

    Args:
        url: the URL of the task.
        later: whether the task is due tomorrow; otherwise it is due now.
        prefix: the start of the task id.
    """
    from google.cloud.tasks_v2.types import CreateTaskRequest

    message = CreateTaskRequest.pb()(parent=QUEUE)
    message.task.name = f"{QUEUE}/tasks/{prefix}{next(_NUMBERS)}"
    message.task.http_request.url = url
    message.task.http_request.http_method = 1
    message.task.http_request.headers["Content-Type"] = "application/json"
    message.task.http_request.body = _BODY
    if later:
        message.task.schedule_time.seconds = int(time.time()) + 86_400
    return bytes(message.SerializeToString())


def _verdict(ratio: float, aim: float, *, at_least: bool) -> str:
    reached = ratio >= aim if at_least else ratio <= aim
    return f"aim {'>=' if at_least else '<='} {aim:g}  {'reached' if reached else 'MISSED'}"


def creations() -> list[Line]:
    """Compare created tasks per second with the calls of an echo server."""
    import grpc

    lines = []
    with process("emulator", "PAUSED") as emulator, process("echo") as echo:
        for clients in (1, 16):
            rates: dict[str, list[float]] = {"emulator": [], "echo": []}
            for _ in range(5):
                for name, address in (("emulator", emulator), ("echo", echo)):
                    rates[name].append(_create(grpc, address, clients, 3000))
            ours, theirs = (statistics.median(rates[name]) for name in ("emulator", "echo"))
            ratio = ours / theirs
            compared = f"{ratio:.2f}x an echo  {_verdict(ratio, 0.75, at_least=True)}"
            lines.append(Line(f"creations, {clients} clients", f"{ours:,.0f}/s", compared))
    return lines


def _create(grpc: object, address: str, clients: int, calls: int) -> float:
    """Return the creations per second with this number of clients. Each has its own connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options=options) for _ in range(clients)]  # type: ignore[attr-defined]
    ready = [[request("http://127.0.0.1:1/") for _ in range(calls // clients)] for _ in channels]
    stubs = [channel.unary_unary(_METHOD) for channel in channels]
    for stub in stubs:
        stub(request("http://127.0.0.1:1/"))

    def work(stub: object, messages: list[bytes]) -> None:
        for message in messages:
            stub(message)  # type: ignore[operator]

    threads = [threading.Thread(target=work, args=pair) for pair in zip(stubs, ready, strict=True)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    for channel in channels:
        channel.close()
    return sum(map(len, ready)) / took


def deliveries() -> list[Line]:
    """Compare delivered tasks per second with the requests of a bare HTTP client."""
    tasks = 3000
    with process("handler") as handler:
        url = f"http://{handler}/"
        rates: dict[str, list[float]] = {"emulator": [], "bare": []}
        for _ in range(5):
            rates["emulator"].append(asyncio.run(_deliver(url, tasks)))
            rates["bare"].append(asyncio.run(_post(url, tasks)))
        ours, theirs = (statistics.median(rates[name]) for name in ("emulator", "bare"))
    ratio = ours / theirs
    compared = f"{ratio:.2f}x a bare client  {_verdict(ratio, 0.6, at_least=True)}"
    return [Line("deliveries", f"{ours:,.0f}/s", compared)]


async def _deliver(url: str, tasks: int) -> float:
    from django_tasks_cloud_tasks.emulator.server import Emulator
    from django_tasks_cloud_tasks.emulator.state.model import QueueState
    from google.cloud.tasks_v2.types import CreateTaskRequest

    from .emulator_process import UNLIMITED

    emulator = Emulator()
    emulator.service.create_queue(QUEUE, UNLIMITED, emulator.now())
    await emulator.start("127.0.0.1", 0)
    emulator.service.set_state(QUEUE, QueueState.PAUSED)
    create = emulator._api.methods[_METHOD].answer
    for _ in range(tasks):
        create(CreateTaskRequest.pb().FromString(request(url)))
    emulator.service.set_state(QUEUE, QueueState.RUNNING)
    began = time.perf_counter()
    emulator.touched(QUEUE)
    await emulator.settle()
    took = time.perf_counter() - began
    assert not emulator.service.tasks(QUEUE)
    await emulator.stop()
    return tasks / took


async def _post(url: str, tasks: int) -> float:
    """Return the requests per second of aiohttp, with the same body, headers and concurrency."""
    import aiohttp

    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Google-Cloud-Tasks",
        "X-CloudTasks-QueueName": "bench",
        "X-CloudTasks-TaskName": "t0",
        "X-CloudTasks-TaskETA": "1767225600.000000",
        "X-CloudTasks-TaskExecutionCount": "0",
        "X-CloudTasks-TaskRetryCount": "0",
    }
    left = iter(range(tasks))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for _ in left:
                async with session.post(url, data=_BODY, headers=headers) as response:
                    await response.read()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(100)))
        return tasks / (time.perf_counter() - began)


def latency() -> list[Line]:
    """Measure the time from the creation of a task in an idle queue to its arrival."""
    import grpc

    arrived = threading.Event()
    moment = [0.0]

    class Clocked(Handler):
        def data_received(self, data: bytes) -> None:
            moment[0] = time.perf_counter()
            super().data_received(data)
            arrived.set()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Clocked, "127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    took = []
    with process("emulator", "RUNNING") as address, grpc.insecure_channel(address) as channel:
        stub = channel.unary_unary(_METHOD)
        for number in range(220):
            arrived.clear()
            message = request(url)
            began = time.perf_counter()
            stub(message)
            assert arrived.wait(10)
            if number >= 20:
                took.append((moment[0] - began) * 1000)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    took.sort()
    median, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    verdict = _verdict(median, 5, at_least=False)
    compared = f"p99 {p99:.2f} ms  {verdict}"
    return [Line("creation to delivery, idle queue", f"{median:.2f} ms", compared)]


_MEMORY = """
import resource, sys
from bench.emulator import fill, resident
import asyncio
async def main():
    from django_tasks_cloud_tasks.emulator.server import Emulator
    emulator = Emulator()
    fill(emulator, 100_000)
    print(resident())
asyncio.run(main())
"""


def resident() -> float:
    """Return the resident memory of this process, in megabytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6


def fill(emulator: object, tasks: int) -> None:
    """Create tasks through the API that are due tomorrow."""
    from google.cloud.tasks_v2.types import CreateTaskRequest

    from .emulator_process import UNLIMITED

    emulator.service.create_queue(QUEUE, UNLIMITED, emulator.now())  # type: ignore[attr-defined]
    create = emulator._api.methods[_METHOD].answer  # type: ignore[attr-defined]
    parse = CreateTaskRequest.pb().FromString
    for _ in range(tasks):
        create(parse(request("http://127.0.0.1:1/", later=True)))


def memory() -> list[Line]:
    """Measure the memory of a process with 100,000 waiting tasks, including its libraries."""
    used = float(
        subprocess.run(
            [sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True
        ).stdout
    )
    verdict = _verdict(used, 200, at_least=False)
    return [Line("memory with 100,000 tasks waiting", f"{used:.0f} MB", verdict)]


def cost_of_waiting() -> list[Line]:
    """Compare a creation while 100,000 tasks wait with one in an empty queue."""
    from django_tasks_cloud_tasks.emulator.server import Emulator
    from google.cloud.tasks_v2.types import CreateTaskRequest

    async def measure() -> dict[str, float]:
        parse = CreateTaskRequest.pb().FromString
        contestants = {}
        for name, tasks in (("full", 100_000), ("empty", 0)):
            emulator = Emulator()
            fill(emulator, tasks)
            create = emulator._api.methods[_METHOD].answer
            contestants[name] = lambda create=create: create(
                parse(request("http://127.0.0.1:1/", later=True))
            )
        return alternate(contestants, rounds=20, calls=100)

    times = asyncio.run(measure())
    ratio = times["full"] / times["empty"]
    compared = f"{ratio:.2f}x an empty queue  {_verdict(ratio, 1.5, at_least=False)}"
    return [Line("a creation while 100,000 wait", f"{times['full'] * 1e6:.0f} us", compared)]

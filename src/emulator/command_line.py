"""The emulator's command line, for `python -m` and for `manage.py`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import datetime

from ..core.errors import InvalidNameError
from ..core.names import QueueName
from .server import Emulator

_FAULT = 2  # exit code for what the caller has to change


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the emulator's arguments."""
    parser.add_argument(
        "--host",
        default="localhost",
        help="address to listen on (default: %(default)s, which only this machine reaches)",
    )
    parser.add_argument(
        "--port", type=int, default=8123, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="NAME",
        help="a queue to begin with: projects/P/locations/L/queues/Q; may be given repeatedly",
    )
    parser.add_argument(
        "--auto-create-queues",
        action="store_true",
        help="create a queue when a task for it arrives, instead of refusing the task",
    )


def main(arguments: Sequence[str]) -> int:
    """Run the emulator as a program of its own; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m django_tasks_cloud_tasks.emulator",
        description="A Cloud Tasks emulator: gRPC API, dispatch over HTTP, OIDC tokens.",
        epilog="Clients of this package find it through CLOUD_TASKS_EMULATOR_HOST=HOST:PORT.",
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return run(
        host=options.host,
        port=options.port,
        queue=options.queue,
        auto_create_queues=options.auto_create_queues,
    )


def run(
    *, host: str, port: int, queue: Sequence[str], auto_create_queues: bool, **_: object
) -> int:
    """Run the emulator until Ctrl-C or SIGTERM; the exit code."""
    try:
        queues = [str(QueueName.parse(name)) for name in queue]
    except InvalidNameError as error:
        return _fault(str(error))
    emulator = Emulator(queues=queues, create_queues=auto_create_queues, log=_print_event)
    try:
        asyncio.run(_serve(emulator, host, port))
    except OSError as error:
        return _fault(f"Cannot listen on {host}:{port}: {error.strerror or error}.")
    except OverflowError:
        return _fault(f"{port} is no port: ports go from 0 to 65535.")
    return 0


async def _serve(emulator: Emulator, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    port = await emulator.start(host, port)
    _say(f"Cloud Tasks emulator on {host}:{port}. Point clients at it with:")
    _say(f"    export CLOUD_TASKS_EMULATOR_HOST={host}:{port}")
    for queue in emulator.service.queues():
        _say(f"Queue {queue.name}")
    _say("Ctrl-C ends it.")
    await stop.wait()
    await emulator.stop()
    _say("Ended.")


def _print_event(event: str, facts: dict[str, object]) -> None:
    moment = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    told = "  ".join(
        f"{name}={value:.3f}s" if isinstance(value, float) else f"{name}={value}"
        for name, value in facts.items()
    )
    _say(f"{moment}  {event:<16}  {told}")


def _say(line: str) -> None:
    print(line, flush=True)


def _fault(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return _FAULT

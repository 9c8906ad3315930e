"""The emulator's command line, for `python -m` and for `manage.py`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from ..core.errors import InvalidNameError
from ..core.names import QueueName
from .server import Emulator

_HIGHEST_PORT = 65535
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
    if not 0 <= port <= _HIGHEST_PORT:
        return _fault(f"{port} is no port: ports go from 0 to {_HIGHEST_PORT}.")
    try:
        queues = {str(QueueName.parse(name)) for name in queue}
    except InvalidNameError as error:
        return _fault(str(error))
    emulator = Emulator(queues=queues, create_queues=auto_create_queues, log=_print_event)
    try:
        asyncio.run(_serve(emulator, host, port))
    except _CannotListenError as error:
        return _fault(f"Cannot listen on {host}:{port}: {error}. Choose another --port or --host.")
    except KeyboardInterrupt:
        pass  # Where signals cannot be handled on the loop, this is how Ctrl-C arrives.
    return 0


class _CannotListenError(Exception):
    """The address is taken, or is none."""


async def _serve(emulator: Emulator, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, stop.set)
    try:
        port = await emulator.start(host, port)
    except OSError as error:
        raise _CannotListenError(error.strerror or str(error)) from error
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _say(f"Cloud Tasks emulator on {address}. Point clients at it with:")
    _say(f"    export CLOUD_TASKS_EMULATOR_HOST={address}")
    for queue in emulator.service.queues():
        _say(f"Queue {queue.name}")
    _say("Ctrl-C ends it.")
    try:
        await stop.wait()
    finally:
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
    # Whoever read the output may be gone (`| head`); the emulator's work goes on.
    with suppress(BrokenPipeError):
        print(line, flush=True)


def _fault(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return _FAULT

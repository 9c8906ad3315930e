"""The emulator's command line, for `python -m` and for `manage.py`."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError, InvalidNameError
from ..core.names import QueueName
from .server import Emulator
from .storage import Storage
from .ways_out.chaos import Chaos
from .ways_out.identity import GOOGLE_ISSUER

_HIGHEST_PORT = 65535
_SILENCE = 60.0  # seconds before the same error is printed again
_USAGE_ERROR = 2  # the exit code when the arguments or the environment must be corrected


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the emulator to `parser`."""
    parser.add_argument(
        "--host",
        default="localhost",
        help="address to listen on (default: %(default)s, which only this machine can reach)",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="an additional host name that clients use, for example the name of a container; can "
        "be repeated",
    )
    parser.add_argument(
        "--port", type=int, default=8123, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="NAME",
        help="a queue to create at the start: projects/P/locations/L/queues/Q; can be repeated",
    )
    parser.add_argument(
        "--auto-create-queues",
        action="store_true",
        help="create a missing queue when a task for it arrives; without this option the task is "
        "refused",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="keep queues, tasks and jobs in this SQLite file, and load what it contains",
    )
    parser.add_argument(
        "--chaos",
        nargs="?",
        const="",
        metavar="SPEC",
        help="inject faults: seed=7,duplicate=0.1,drop=0.1,refuse=0.05,delay=0.2,longest_delay=1; "
        f"omitted names have their default values ({Chaos()})",
    )
    parser.add_argument(
        "--oidc-issuer",
        default=GOOGLE_ISSUER,
        metavar="URL",
        help="the issuer of OIDC tokens (default: %(default)s, as in production)",
    )
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="format of the log, with one event per line: text or JSON (default: %(default)s)",
    )


def main(arguments: Sequence[str]) -> int:
    """Run the emulator as a program, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m django_tasks_cloud_tasks.emulator",
        description="An emulator of Cloud Tasks and (extra [scheduler]) of Cloud Scheduler.",
        epilog="Set CLOUD_TASKS_EMULATOR_HOST=HOST:PORT so that this package uses the emulator.",
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return run(**vars(options))


def run(
    *,
    host: str,
    port: int,
    queue: Sequence[str],
    allowed_host: Sequence[str] = (),
    auto_create_queues: bool,
    state: Path | None = None,
    chaos: str | None = None,
    oidc_issuer: str = GOOGLE_ISSUER,
    log_format: str = "text",
    **_: object,
) -> int:
    """Run the emulator until Ctrl-C or SIGTERM, and return the exit code.

    The arguments are those of `add_arguments`. Additional keyword arguments are ignored, because
    `manage.py` passes its own.
    """
    if not 0 <= port <= _HIGHEST_PORT:
        return _fail(f"--port {port} is not a port. Use a number from 0 to {_HIGHEST_PORT}.")
    try:
        queues = {str(QueueName.parse(name)) for name in queue}
        emulator = Emulator(
            queues=queues,
            create_queues=auto_create_queues,
            log=_print_json if log_format == "json" else _print_text,
            chaos=None if chaos is None else Chaos.parse(chaos),
            storage=Storage(state) if state else None,
            issuer=oidc_issuer,
            allowed_hosts=allowed_host,
        )
    except (InvalidNameError, ConfigurationError) as error:
        return _fail(str(error))
    if isinstance(sys.stdout, TextIOWrapper):
        # A URL may contain characters that the encoding of the output does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    say = _silent if log_format == "json" else _say
    try:
        asyncio.run(_serve(emulator, host, port, say))
    except _CannotListenError as error:
        return _fail(f"Cannot listen on {host}:{port}: {error}. Choose another --port or --host.")
    except KeyboardInterrupt:
        pass  # Ctrl-C raises this on platforms where the loop cannot handle signals.
    finally:
        _end_output()
    return 0


class _CannotListenError(Exception):
    """The address is in use or does not exist."""


async def _serve(emulator: Emulator, host: str, port: int, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_LoopErrors())
    with suppress(NotImplementedError):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, stop.set)
    try:
        port = await emulator.start(host, port)
    except OSError as error:
        raise _CannotListenError(error.strerror or str(error)) from error
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if say is _silent:
        emulator.log("emulator started", address=address)
    say(f"The Cloud Tasks emulator listens on {address}. Set this variable for its clients:")
    say(f"    export CLOUD_TASKS_EMULATOR_HOST={address}")
    say(f"Dashboard: http://{address}/")
    for queue in emulator.service.queues():
        say(f"Queue {queue.name}")
    say("Press Ctrl-C to stop the emulator.")
    try:
        await stop.wait()
    finally:
        await emulator.stop()
    say("The emulator has stopped.")


class _LoopErrors:
    """The exception handler of the event loop.

    It prints an operating system error as one line. It prints the same error at most once a minute.
    """

    def __init__(self) -> None:
        self._printed: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError):
            loop.default_exception_handler(context)
            return
        message = f"{context['message']}: {error.strerror or error}"
        if self._printed.get(message, float("-inf")) < loop.time() - _SILENCE:
            self._printed[message] = loop.time()
            print(message, file=sys.stderr, flush=True)


def _print_text(event: str, facts: dict[str, object]) -> None:
    moment = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    told = "  ".join(
        f"{name}={value:.3f}s" if isinstance(value, float) else f"{name}={_on_one_line(value)}"
        for name, value in facts.items()
    )
    _say(f"{moment}  {event:<16}  {told}")


def _on_one_line(value: object) -> str:
    """Return a value as text, with line breaks and other nonprintable characters escaped.

    A URL may contain such characters.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _print_json(event: str, facts: dict[str, object]) -> None:
    _say(json.dumps({"time": datetime.now(UTC).isoformat(), "event": event, **facts}))


def _silent(_: str) -> None:
    """Print nothing, because with `--log-format json` every line of the output is an event."""


class _Output:
    """A function that prints lines. If writing to the standard output fails, it does not raise."""

    def __init__(self) -> None:
        self._refuses = False

    def __call__(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            pass  # The reader has exited (`| head`).
        except OSError as error:
            if not self._refuses:
                print(
                    f"Writing to the standard output failed: {error}. The emulator continues.",
                    file=sys.stderr,
                    flush=True,
                )
            self._refuses = True
        else:
            self._refuses = False


_say = _Output()


def _end_output() -> None:
    """Flush the output.

    If that fails, redirect it to the null device. Otherwise the interpreter would report the error
    when it exits.
    """
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return _USAGE_ERROR

"""`make demo`: the emulator, the example site, and a handful of tasks that go all the way.

On a terminal the site stays up afterwards, until Ctrl-C; otherwise the demo ends. Its exit code
is 0 if every task ended as it should. Where a task waits for minutes between its attempts, the
demo moves the clock of the emulator.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.tasks import TaskResult

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
DATA = HERE.parent / ".demo"
PATIENCE = 120.0  # seconds for all tasks together
WAITS = {"policy": ("READY", 1), "retry": ("READY", 1)}  # tasks that then wait for minutes
FAILS = {"policy": ("FAILED", 3)}  # as its last attempt failed, too
CLOCK_STEPS = (60, 120, 3420)  # seconds; after each of them another attempt is due


def free_port(wanted: int) -> int:
    """`wanted`, or another one where it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("No free port on 127.0.0.1.")


@contextmanager
def running(name: str, *command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program, for as long as the demo needs it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=SITE, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                print(f"{name} had to be killed.")


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until something answers at `url`."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{url} does not answer:\n{log.read_text()}") from None
            time.sleep(0.05)


class Watch:
    """Prints what happens to tasks, with the seconds by the clock of the emulator."""

    def __init__(self, tasks: list[tuple[TaskResult[..., Any], str]]) -> None:
        self._tasks = tasks
        self._shown: dict[str, tuple[str, int]] = {}
        self._began = time.monotonic()
        self._moved = 0.0

    def until(self, wanted: list[tuple[str, int]]) -> bool:
        """Show each change until every task has this status and at least this many attempts.

        Returns:
            Whether they have it in time.
        """
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self._show()
            states = [self._shown[result.id] for result, _ in self._tasks]
            if all(
                status == wanted_status and attempts >= least
                for (status, attempts), (wanted_status, least) in zip(states, wanted, strict=True)
            ):
                return True
            time.sleep(0.05)
        return False

    def advance(self, emulator_url: str, seconds: int) -> None:
        """Move the clock of the emulator. It delivers what becomes due before it answers."""
        print(f"           The clock of the emulator moves on by {seconds} seconds.")
        request = urllib.request.Request(
            f"{emulator_url}/emulator/clock", json.dumps({"advance": seconds}).encode()
        )
        with urllib.request.urlopen(request, timeout=PATIENCE):
            self._moved += seconds
        self._show()

    def _show(self) -> None:
        from orders.views import outcome

        for result, label in self._tasks:
            result.refresh()
            state = (result.status, result.attempts)
            if self._shown.get(result.id) != state:
                self._shown[result.id] = state
                moment = f"{time.monotonic() - self._began + self._moved:7.2f} s"
                attempt = f"attempt {result.attempts}" if result.attempts else ""
                print(f"{moment}  {label:<34} {result.status:<11} {attempt:<10} {outcome(result)}")


def main() -> int:
    """Run the demo."""
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir()
    emulator_port, site_port = free_port(8123), free_port(8000)
    site_url, emulator_url = f"http://127.0.0.1:{site_port}", f"http://127.0.0.1:{emulator_port}"
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "settings",
        "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{emulator_port}",
        "EXAMPLE_HOST": site_url,
        "EXAMPLE_DATA_DIR": str(DATA),
        "PYTHONUNBUFFERED": "1",
    }
    sys.path.insert(0, str(SITE))

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)

    from django.contrib.auth.models import User
    from orders.views import KINDS, enqueue_kind, outcome

    User.objects.create_superuser("demo", password="demo")

    with ExitStack() as stack:
        emulator_log, site_log = DATA / "emulator.log", DATA / "site.log"
        emulator = stack.enter_context(
            running(
                "The emulator",
                *("manage.py", "cloudtasks_emulator", "--auto-create-queues"),
                *("--host", "127.0.0.1", "--port", str(emulator_port)),
                log=emulator_log,
            )
        )
        site = stack.enter_context(
            running(
                "The site",
                *("manage.py", "runserver", "--noreload", f"127.0.0.1:{site_port}"),
                log=site_log,
            )
        )
        wait_for(f"{emulator_url}/.well-known/openid-configuration", emulator, emulator_log)
        wait_for(site_url, site, site_log)
        print(f"Emulator on 127.0.0.1:{emulator_port}, site on {site_url}. Enqueueing:\n")
        expected = [(enqueue_kind(kind), label) for kind, label in KINDS.items()]
        watch = Watch(expected)
        success = ("SUCCESSFUL", 1)
        succeeded = watch.until([WAITS.get(kind, success) for kind in KINDS])
        for seconds in CLOCK_STEPS if succeeded else ():
            watch.advance(emulator_url, seconds)
        succeeded = succeeded and watch.until([FAILS.get(kind, success) for kind in KINDS])
        print("\nHow each ended:" if succeeded else "\nNot all tasks ended as expected in time:")
        for result, label in expected:
            told = f"({result.status}, {result.attempts} attempts)"
            print(f"  {label:<34} {outcome(result)}  {told}")
        if succeeded and sys.stdin.isatty() and sys.stdout.isatty():
            print(f"\nThe site is up: open {site_url} and click,")
            print(f"or {site_url}/admin/ (demo, demo) for the results,")
            print(f"or {emulator_url} to move the clock. Ctrl-C ends it.", flush=True)
            try:
                site.wait()
            except KeyboardInterrupt:
                print()
        return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())

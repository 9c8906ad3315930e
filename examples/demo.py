"""`make demo`: the emulator, the example site, and a handful of tasks that go all the way.

On a terminal the site stays up afterwards, until Ctrl-C; otherwise the demo ends. Its exit code
is 0 if every task ended as it should.
"""

from __future__ import annotations

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


def follow(expected: list[tuple[TaskResult[..., Any], str]]) -> bool:
    """Show what happens to the tasks until all have succeeded; whether they did in time."""
    from orders.views import outcome

    shown: dict[str, tuple[str, int]] = {}
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        for result, label in expected:
            result.refresh()
            state = (result.status, result.attempts)
            if shown.get(result.id) != state:
                shown[result.id] = state
                moment = f"{time.monotonic() - began:6.2f} s"
                attempt = f"attempt {result.attempts}" if result.attempts else ""
                print(f"{moment}  {label:<34} {result.status:<11} {attempt:<10} {outcome(result)}")
        if len(shown) == len(expected) and all(s == "SUCCESSFUL" for s, _ in shown.values()):
            return True
        time.sleep(0.05)
    return False


def main() -> int:
    """Run the demo."""
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir()
    emulator_port, site_port = free_port(8123), free_port(8000)
    site_url = f"http://127.0.0.1:{site_port}"
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
        wait_for(
            f"http://127.0.0.1:{emulator_port}/.well-known/openid-configuration",
            emulator,
            emulator_log,
        )
        wait_for(site_url, site, site_log)
        print(f"Emulator on 127.0.0.1:{emulator_port}, site on {site_url}. Enqueueing:\n")
        expected = [(enqueue_kind(kind), label) for kind, label in KINDS.items()]
        succeeded = follow(expected)
        print("\nWhat each returned:" if succeeded else "\nNot all tasks succeeded in time:")
        for result, label in expected:
            told = f"({result.status}, {result.attempts} attempts)"
            print(f"  {label:<34} {outcome(result)}  {told}")
        if succeeded and sys.stdin.isatty() and sys.stdout.isatty():
            print(f"\nThe site is up: open {site_url} and click,")
            print(f"or {site_url}/admin/ (demo, demo) for the results. Ctrl-C ends it.", flush=True)
            try:
                site.wait()
            except KeyboardInterrupt:
                print()
        return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())

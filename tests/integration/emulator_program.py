"""The emulator as a program: the commands that start it, and a running one."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.paths import ROOT

MODULE = [sys.executable, "-m", "django_tasks_cloud_tasks.emulator"]
COMMAND = [sys.executable, "-m", "django", "cloudtasks_emulator", "--settings", "tests.settings"]
LOOPBACK = ["--host", "127.0.0.1"]


@contextmanager
def emulator_program(*arguments: str, command: list[str] = MODULE) -> Iterator[tuple[Any, str]]:
    """Start the emulator and wait until it listens. It yields the process and its address."""
    with subprocess.Popen(
        [*command, *LOOPBACK, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            address = re.search(r"on (127\.0\.0\.1:\d+)\.", greeting)
            assert address, greeting + process.stdout.read()
            yield process, address.group(1)
        finally:
            process.kill()

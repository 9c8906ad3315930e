"""The example site and the demo."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.paths import ROOT

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def browser() -> str:
    if CHROMIUM and DRIVER:
        return CHROMIUM
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail("chromium and chromedriver must be there, and are not")
    pytest.skip("no browser: install chromium and chromedriver (Debian: chromium-driver)")


def test_the_tests_of_the_example_pass(browser: str, tmp_path: Path) -> None:
    # The test case of the example runs in another process, because it has other settings.
    done = subprocess.run(
        [sys.executable, "manage.py", "test", "--verbosity", "2"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT / "examples" / "site",
        env={k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "PYTEST_"))}
        | {"EXAMPLE_DATA_DIR": str(tmp_path)},
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Ran [1-9]\d* tests? in", done.stderr), done.stderr
    assert "OK" in done.stderr
    assert "skipped" not in done.stderr


def test_the_demo_ends_without_an_error(tmp_path: Path) -> None:
    """`make demo` runs this script; here it has no terminal."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "PYTEST_"))},
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told, _, ended = done.stdout.partition("How each ended:")
    assert ended.count("(SUCCESSFUL") == 8
    assert "order 1815 charged at attempt 3  (SUCCESSFUL, 3 attempts)" in ended
    assert "over 2049 paid 1 time  (SUCCESSFUL, 1 attempts)" in ended
    assert "the printer does not answer (order 1815)  (FAILED, 3 attempts)" in ended
    assert "order 1815 confirmed at attempt 2  (SUCCESSFUL, 2 attempts)" in ended
    assert "The clock of the emulator moves on by 3420 seconds." in told
    statuses = re.findall(r"Policy: \S+ attempts, all fail +(READY|FAILED) +attempt (\d)", told)
    assert statuses == [("READY", "1"), ("READY", "2"), ("FAILED", "3")]


def test_the_example_needs_no_migration() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "makemigrations", "--check"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT / "examples" / "site",
        env={k: v for k, v in os.environ.items() if not k.startswith("DJANGO_")},
    )
    assert done.returncode == 0, done.stdout

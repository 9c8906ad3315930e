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
    returned = done.stdout.partition("What each returned:")[2]
    assert returned.count("(SUCCESSFUL") == 7
    assert "order 1815 charged at attempt 3  (SUCCESSFUL, 3 attempts)" in returned
    assert "over 2049 paid 1 time  (SUCCESSFUL, 1 attempts)" in returned


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

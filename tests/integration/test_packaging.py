"""The distributions. The tests build them, install them into an empty environment, and use them."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import django_tasks_cloud_tasks
import pytest

from tests.integration.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = django_tasks_cloud_tasks.__version__


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DJANGO_"))},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution, built from the tracked files."""
    source = tmp_path_factory.mktemp("source")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.is_symlink() or not path.exists():
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(path.read_bytes())
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, source, cwd=source)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


def modules() -> set[str]:
    return {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file()
        and path.suffix in {".py", ".html", ".css", ".js"}
        and "__pycache__" not in path.parts
        and not any(part.endswith(".egg-info") for part in path.parts)
    }


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    info = f"django_tasks_cloud_tasks-{VERSION}.dist-info"
    expected = {f"django_tasks_cloud_tasks/{name}" for name in modules() | {"py.typed"}}
    meta = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt"}
    assert names == expected | {f"{info}/{name}" for name in meta} | {f"{info}/licenses/LICENSE"}


def test_the_source_distribution_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {name for name in names if "." in Path(name).name or name in {"LICENSE", "PKG-INFO"}}
    generated = {name for name in files if "egg-info" in name} | {"PKG-INFO", "setup.cfg"}
    expected = {f"src/{name}" for name in modules() | {"py.typed"}}
    assert files - generated == expected | {"pyproject.toml", "README.md", "LICENSE"}


def test_the_tested_lowest_versions_equal_the_declared_ones() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = PROJECT["dependencies"] + extras["emulator"] + extras["scheduler"]
    pinned = [
        line.replace("==", ">=")
        for line in (ROOT / "constraints" / "oldest.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert sorted(pinned) == sorted(declared)


SITE = """
import django, sys
from django.conf import settings
settings.configure(SECRET_KEY="x", INSTALLED_APPS=["django_tasks_cloud_tasks"],
    ROOT_URLCONF="django_tasks_cloud_tasks.urls", DATABASES={}, TASKS={"default": {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "OPTIONS": {"TASK_HANDLER_PATH": "/execute/"}}})
django.setup()
from django.core.management import call_command

call_command("check")
import django_tasks_cloud_tasks as package
for name in package.__all__:
    getattr(package, name)
assert "site-packages" in package.__file__, package.__file__
assert not {"aiohttp", "h2", "pytest"} & set(sys.modules)
try:
    call_command("cloudtasks_emulator")
except SystemExit as error:
    print(error)
"""


def test_the_wheel_works_in_an_empty_environment(built: dict[str, Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", built["wheel"], cwd=tmp_path)
    said = run(python, "-c", SITE, cwd=tmp_path)
    assert "pip install 'django-tasks-cloud-tasks[emulator]'" in said
    installed = run(python, "-m", "pip", "list", cwd=tmp_path)
    assert "aiohttp" not in installed
    run(python, "-m", "pip", "install", "--quiet", f"{built['wheel']}[emulator]", cwd=tmp_path)
    shown = run(python, "-m", "django_tasks_cloud_tasks.emulator", "--help", cwd=tmp_path)
    assert "--auto-create-queues" in shown


def test_the_installed_package_has_types(tmp_path: Path) -> None:
    """mypy checks a module of a user strictly against the installed package."""
    (tmp_path / "user.py").write_text(
        "from django_tasks_cloud_tasks import QueueNotFoundError, detect_gcp_project\n"
        "project: str | None = detect_gcp_project()\n"
        "error: Exception = QueueNotFoundError('x')\n"
        "wrong: int = detect_gcp_project()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "user.py"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT / "typings")},
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith("user.py")]
    assert len(errors) == 1, done.stdout
    assert errors[0].startswith("user.py:4: error: Incompatible types in assignment")

"""Arrows point inwards, and start-up stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import django_tasks_cloud_tasks
import pytest

PACKAGE = Path(django_tasks_cloud_tasks.__file__).parent

# What each room may import of the others, besides itself.
ALLOWED = {
    "core": set(),
    "adapters": {"core"},
    "emulator": {"core"},
    "django_integration": {"core", "adapters", "emulator"},
}

# The standard library modules that the core may use: none of them has a clock, an environment,
# randomness, a log or a socket. `datetime` is there for its values; see the test below.
CORE_MAY_IMPORT = {
    "attrs",
    "base64",
    "binascii",
    "collections.abc",
    "contextlib",
    "datetime",
    "difflib",
    "enum",
    "functools",
    "hmac",
    "http",
    "json",
    "math",
    "re",
    "typing",
}


def modules(room: str) -> list[Path]:
    found = sorted((PACKAGE / room).rglob("*.py"))
    assert found
    return found


def imports(path: Path) -> list[tuple[int, str]]:
    """Level and module of each import; level 0 is absolute."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def rooms_imported(path: Path) -> set[str]:
    depth = len(path.relative_to(PACKAGE).parts) - 1
    return {
        module.partition(".")[0]
        for level, module in imports(path)
        if level == depth + 1 and module.partition(".")[0] in ALLOWED
    }


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_point_inwards(room: str) -> None:
    for path in modules(room):
        outwards = rooms_imported(path) - ALLOWED[room] - {room}
        assert not outwards, f"{path.name} imports {outwards}"


def test_imports_inside_the_package_are_relative() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "migrations":
            continue  # Django writes them, with full names.
        absolute = [m for level, m in imports(path) if level == 0 and m.startswith("django_tasks")]
        assert not absolute, f"{path} imports {absolute}"


def test_the_core_imports_values_only() -> None:
    for path in modules("core"):
        outside = {m for level, m in imports(path) if level == 0} - CORE_MAY_IMPORT
        assert not outside, f"{path.name} imports {outside}"


def test_the_core_does_not_ask_the_time() -> None:
    for path in modules("core"):
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not calls & {"now", "utcnow", "today"}, path.name


@pytest.mark.parametrize("library", ["grpc", "google", "aiohttp", "h2"])
def test_start_up_loads_nothing_heavy(library: str) -> None:
    script = (
        "import sys, django; from django.conf import settings;"
        "settings.configure(SECRET_KEY='x', INSTALLED_APPS=['django_tasks_cloud_tasks'],"
        "ROOT_URLCONF='django_tasks_cloud_tasks.urls', DEBUG=True, TASKS={'default': {'BACKEND':"
        "'django_tasks_cloud_tasks.CloudTasksBackend'}});"
        "django.setup(); from django.core.management import call_command; call_command('check');"
        "from django.tasks import default_task_backend; default_task_backend.alias;"
        f"sys.exit({library!r} in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""Imports point from the outer layers to the core, and start-up imports no heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
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

# The modules that the core may use: none of them has a clock, an environment, randomness, a log or
# a socket. `datetime` is there for its values; see the test below. cronsim computes with datetimes.
CORE_MAY_IMPORT = {
    "attrs",
    "base64",
    "binascii",
    "collections.abc",
    "contextlib",
    "cronsim",
    "datetime",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "http",
    "inspect",
    "json",
    "math",
    "operator",
    "re",
    "shlex",
    "typing",
}


def modules(room: str) -> list[Path]:
    found = sorted((PACKAGE / room).rglob("*.py"))
    assert found
    return found


def imports(path: Path) -> list[tuple[int, str]]:
    """Return level and module of each import. Level 0 means an absolute import."""
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


def edges() -> dict[str, set[str]]:
    """Return the modules of this package that each module imports, at the top or in a function.

    Imports for type checkers only are excluded, because they do not happen at run time.
    """
    names = {module_name(path) for path in PACKAGE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "migrations":
            continue
        found[module_name(path)] = {
            name for name in imported(path) if name in names and name != module_name(path)
        }
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    here = path.relative_to(PACKAGE).parts[:-1]
    for node in at_run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}".strip(".") for alias in node.names)


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from at_run_time(node)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = edges()
    while leaves := [name for name, found in graph.items() if not found & graph.keys()]:
        for name in leaves:
            del graph[name]
    # What is left imports only what is left: circles, and what leads to them.
    assert not graph


# A call of one of these is a call of a port. Some of the words are methods of dictionaries, too.
PORTS = ("TaskQueue", "ResultStore", "MetadataServer", "TokenVerifier")


def test_the_core_calls_no_port() -> None:
    """It names ports in one module, and takes none as an argument."""
    for path in modules("core"):
        if path.name == "ports.py":
            continue
        named = {
            node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)
        } | {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not named & set(PORTS), path.name


def test_the_documentation_names_every_module() -> None:
    page = (PACKAGE.resolve().parent / "docs" / "architecture.md").read_text()
    missing = [
        path.relative_to(PACKAGE)
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.name.startswith("__")
        and "migrations" not in path.parts
        and f"`{path.stem}`" not in page
    ]
    # Those of the root hand names on; commands are named by their own words.
    assert [
        str(path) for path in missing if len(path.parts) > 1 and "commands" not in path.parts
    ] == []

"""A PostgreSQL cluster that only the tests use. The server programs must be installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """Return the folder of initdb and postgres, from PATH or from Debian's default folders."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = [folder / "bin" for folder in _DEBIAN.glob("*") if (folder / "bin/initdb").exists()]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def cluster() -> Iterator[dict[str, Any]]:
    """A context in which a cluster runs. It yields an entry for `DATABASES`.

    The cluster listens on a Unix socket in its own folder, so it needs no port. PostgreSQL refuses
    to run as root. For root, it runs as Debian's user `postgres`, or as `nobody`.
    """
    binaries = programs()
    assert binaries is not None, "ask programs() first"
    user = _user()
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        folder.chmod(0o755)
        data = folder / "data"
        subprocess.run(
            [
                str(binaries / "initdb"),
                "-D",
                str(data),
                "-U",
                "tests",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "-N",
            ],
            check=True,
            user=user,
            stdout=subprocess.DEVNULL,
        )
        _start(folder)
        try:
            yield {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "postgres",
                "USER": "tests",
                "HOST": str(folder),
            }
        finally:
            _stop(folder, "immediate")


@contextmanager
def away(entry: dict[str, Any], *, crashes: bool) -> Iterator[None]:
    """A context during which the cluster of that entry is down, after a crash or a shutdown."""
    folder = Path(entry["HOST"])
    _stop(folder, "immediate" if crashes else "fast")
    try:
        yield
    finally:
        _start(folder)


def _start(folder: Path) -> None:
    # Without fsync, a crash of PostgreSQL loses no data. Tests do not crash the machine.
    options = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=200"
    _control(folder, "-l", str(folder / "log"), "-o", options, "start")


def _stop(folder: Path, mode: str) -> None:
    _control(folder, "-m", mode, "stop")


def _control(folder: Path, *arguments: str) -> None:
    """Run pg_ctl with these arguments, and wait until it is done."""
    binaries = programs()
    assert binaries is not None, "ask programs() first"
    subprocess.run(
        [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w", *arguments],
        check=True,
        user=_user(),
        stdout=subprocess.DEVNULL,
    )


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"

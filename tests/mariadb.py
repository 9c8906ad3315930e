"""A MariaDB server that only the tests use. The server programs must be installed.

Django connects through PyMySQL, because PyMySQL installs without a compiler. Django supports only
mysqlclient, so PyMySQL is registered under its name.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CLIENT

_FOLDERS = ("/usr/sbin", "/usr/bin", "/usr/libexec")
_PATIENCE = 60.0  # seconds for the server to start, or to end


def use_driver() -> None:
    """Make Django use PyMySQL in place of mysqlclient."""
    pymysql.install_as_MySQLdb()


def programs() -> tuple[str, str] | None:
    """The paths of the server and of the program that creates its data folder."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS])
    server = shutil.which("mariadbd", path=path)
    install = shutil.which("mariadb-install-db", path=path)
    return (server, install) if server and install else None


class Server:
    """A server that tests can stop and start again. It listens on a Unix socket in its folder."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None, "ask programs() first"
        self._server, install = found
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        self._folder = folder
        self.socket = folder / "socket"
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [
                *(install, "--no-defaults", f"--datadir={folder / 'data'}"),
                *(f"--user={self._user}", "--auth-root-authentication-method=normal"),
                "--skip-test-db",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = {
            "datadir": self._folder / "data",
            "socket": self.socket,
            "pid-file": self._folder / "pid",
            "user": self._user,
            "innodb-buffer-pool-size": "64M",
            # Committed data survives a crash of the server, but not a crash of the machine.
            "innodb-flush-log-at-trx-commit": "2",
            "max-connections": "200",
            "character-set-server": "utf8mb4",
        }
        command = [self._server, "--no-defaults", "--skip-networking"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _PATIENCE
        while True:
            with socket.socket(socket.AF_UNIX) as knocking:
                if knocking.connect_ex(str(self.socket)) == 0:
                    return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(0.05)  # only an attempt to connect shows that it listens

    def execute(self, statement: str) -> None:
        """Execute statements as root."""
        connection = pymysql.connect(
            unix_socket=str(self.socket), user="root", client_flag=CLIENT.MULTI_STATEMENTS
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            connection.commit()

    def kill(self) -> None:
        """Kill the server, like a power failure."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_PATIENCE)
            self._process = None

    def stop(self) -> None:
        """Stop the server with an orderly shutdown."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)
            self._process = None


_running: dict[str, Server] = {}


@contextmanager
def away(entry: dict[str, Any], *, crashes: bool) -> Iterator[None]:
    """A context during which the server of that entry is down, after a crash or a shutdown."""
    running = _running[entry["HOST"]]
    if crashes:
        running.kill()
    else:
        running.stop()
    try:
        yield
    finally:
        running.start()


@contextmanager
def server() -> Iterator[dict[str, Any]]:
    """A context in which a server runs. It yields the server and an entry for `DATABASES`."""
    with tempfile.TemporaryDirectory(prefix="mariadb") as name:
        running = Server(Path(name))
        running.start()
        try:
            running.execute("CREATE DATABASE tests CHARACTER SET utf8mb4")
            _running[str(running.socket)] = running
            yield {
                "ENGINE": "django.db.backends.mysql",
                "NAME": "tests",
                "USER": "root",
                "HOST": str(running.socket),
                "OPTIONS": {"charset": "utf8mb4"},
            }
        finally:
            _running.pop(str(running.socket), None)
            running.kill()

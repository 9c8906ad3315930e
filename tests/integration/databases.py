"""Databases of the tests: SQLite in a file; PostgreSQL and MariaDB if they are installed.

The database of the test site is in memory, and threads cannot share it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from tests import mariadb, postgres

NO_MARIADB = "no MariaDB: install its server programs (Debian: mariadb-server)"
NO_POSTGRES = "no PostgreSQL: install its server programs (Debian: postgresql)"


def sqlite(folder: Path) -> dict[str, Any]:
    """An entry for `DATABASES` with the options that the README recommends."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": folder / "tests.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=wal; PRAGMA synchronous=normal;",
        },
    }


@contextmanager
def reachable(alias: str, entry: dict[str, Any]) -> Iterator[None]:
    """Register a database with Django under that alias, and create its tables."""
    known = connections.settings
    complete = connections.configure_settings({"default": known["default"], alias: entry})
    known[alias] = complete[alias]
    call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
    try:
        yield
    finally:
        connections[alias].close()
        del connections[alias]
        del known[alias]


def demand_postgres() -> None:
    """Skip the test if there is no PostgreSQL; fail it if REQUIRE_POSTGRES is set."""
    if postgres.programs() is None:
        if os.environ.get("REQUIRE_POSTGRES"):
            pytest.fail(NO_POSTGRES)
        pytest.skip(NO_POSTGRES)


def demand_mariadb() -> None:
    """Skip the test if there is no MariaDB; fail it if REQUIRE_MARIADB is set."""
    if mariadb.programs() is None:
        if os.environ.get("REQUIRE_MARIADB"):
            pytest.fail(NO_MARIADB)
        pytest.skip(NO_MARIADB)
    mariadb.use_driver()

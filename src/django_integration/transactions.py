"""Transactions that a task leaves open on the database connections of its thread.

A function can leave a transaction open with `set_autocommit(False)`, a raw BEGIN, or an `atomic()`
block that it does not exit. Django would roll back this work after the response, when it closes the
connection. This module commits the work if the function returns, before the task is reported as
successful. It rolls the work back if the function raises. In both cases the connection is then in
its initial state again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..core.errors import UncommittedWorkError

logger = logging.getLogger("django_tasks_cloud_tasks")

# Values of PGTransactionStatusType in libpq. 0 means idle, 4 means a lost connection.
_ACTIVE, _IN_TRANSACTION, _IN_ERROR = 1, 2, 3
_OPEN = {_ACTIVE, _IN_TRANSACTION, _IN_ERROR}

# The attribute of a driver's connection that contains its transaction status.
_STATUS = {"postgresql": "info", "sqlite": "in_transaction", "mysql": "server_status"}


def open_transactions() -> frozenset[str]:
    """Return the aliases of this thread's connections that are in an `atomic()` block now.

    These blocks belong to the caller, for example to a TestCase. A task must not end them.
    """
    return frozenset(c.alias for c in _connections() if c.in_atomic_block)


def commit_leftovers(callers: Collection[str]) -> None:
    """Commit the transactions that a function left open before it returned.

    Args:
        callers: the result of `open_transactions` from before the function ran.

    Raises:
        UncommittedWorkError: a transaction is broken and cannot be committed.
        django.db.Error: the database refuses the commit, or cannot be reached.
    """
    for connection in _connections():
        if connection.alias in callers or not _is_open(connection):
            continue
        if not _always_open(connection):
            logger.warning(
                "A task returned and left a transaction open on the database %r. The transaction "
                "is committed now. Use transaction.atomic(), or commit before the task returns.",
                connection.alias,
            )
        _commit(connection)


def roll_back_leftovers(callers: Collection[str]) -> None:
    """Roll back the transactions that a function left open before it raised.

    Args:
        callers: the result of `open_transactions` from before the function ran.
    """
    for connection in _connections():
        if connection.alias not in callers and _is_open(connection):
            _reset(connection)


def awaited_transactions(database: str | None = None) -> list[str]:
    """Return the aliases of the databases whose transactions are open in this thread.

    Args:
        database: the only alias to check; None for all databases.
    """
    if database is not None:
        return [database] if _is_in_transaction(connections[database]) else []
    connected = _connections()
    # The transaction that a TestCase opens around a test is never committed. For the default
    # database, Django's `captureOnCommitCallbacks` calls the functions that wait for its commit.
    waiting = [c.alias for c in connected if _is_in_transaction(c) and not _is_of_a_test(c)]
    is_default = [c.alias for c in connected if c.alias == DEFAULT_DB_ALIAS and c.in_atomic_block]
    return waiting or is_default


def after_commit(awaited: Sequence[str], call: Callable[[], None]) -> None:
    """Call `call` when the transactions of all these databases are committed.

    If one of them is rolled back, `call` is not called.

    Args:
        awaited: the aliases of the databases; empty to call immediately.
        call: the function to call.
    """
    if awaited:
        rest = partial(after_commit, awaited[1:], call)
        transaction.on_commit(rest, using=awaited[0], robust=True)
    else:
        call()


def _is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the connection is in an `atomic()` block, or autocommit is off."""
    by_hand = connection.connection is not None and not connection.autocommit
    return connection.in_atomic_block or by_hand


def _is_of_a_test(connection: BaseDatabaseWrapper) -> bool:
    blocks = connection.atomic_blocks
    return bool(blocks) and all(getattr(block, "_from_testcase", False) for block in blocks)


def commit_own(connection: BaseDatabaseWrapper) -> None:
    """Commit the writes of a result store, if the connection does not commit automatically."""
    if not connection.in_atomic_block and _is_open(connection):
        _commit(connection)


def renew(alias: str) -> None:
    """Close a connection of this thread, so that its next query opens a new one.

    In an `atomic()` block this does nothing.
    """
    connection = connections[alias]
    if not connection.in_atomic_block:
        connection.close()
        # Also delete Django's connection object. A task may have added execute wrappers to it that
        # cause the error.
        if connection.connection is None:
            del connections[alias]


def _connections() -> list[BaseDatabaseWrapper]:
    return list(connections.all(initialized_only=True))


def _is_open(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a transaction is open on the connection."""
    if connection.connection is None and not connection.in_atomic_block:
        return False
    return (
        connection.in_atomic_block
        or connection.autocommit is not connection.settings_dict["AUTOCOMMIT"]
        or _status(connection) in _OPEN
    )


def _always_open(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the connection is expected to have an open transaction after any statement.

    This is so if the settings turn autocommit off, or if the status of the driver is unknown.
    """
    return not connection.settings_dict["AUTOCOMMIT"] or not hasattr(
        connection.connection, _STATUS.get(connection.vendor, "")
    )


def _status(connection: BaseDatabaseWrapper) -> int:
    """Return libpq's number of the transaction status; for an unknown driver, in transaction."""
    driver = connection.connection
    found = getattr(driver, _STATUS.get(connection.vendor, ""), None)
    match connection.vendor:
        case "postgresql" if found is not None:
            return int(found.transaction_status)
        case "sqlite" if found is not None:
            return int(found)
        case "mysql" if found is not None:
            return int(found) & 1  # SERVER_STATUS_IN_TRANS
    return _IN_TRANSACTION


def _commit(connection: BaseDatabaseWrapper) -> None:
    broken = connection.in_atomic_block and (
        connection.needs_rollback or connection.closed_in_transaction
    )
    if broken or _status(connection) == _IN_ERROR:
        _reset(connection)
        raise UncommittedWorkError(
            f"The task left a broken transaction open on the database {connection.alias!r}. Its "
            "work in this transaction is rolled back. Use transaction.atomic(), or commit before "
            "the task returns."
        )
    try:
        with connection.wrap_database_errors:
            connection.connection.commit()
    except BaseException:
        _reset(connection)
        raise
    hooks = connection.run_on_commit
    _reset(connection, keep=True)
    connection.run_on_commit = hooks
    connection.run_and_clear_commit_hooks()


def _reset(connection: BaseDatabaseWrapper, *, keep: bool = False) -> None:
    """Put the connection into its initial state, and roll back its open transaction.

    Args:
        connection: the connection.
        keep: whether to skip the rollback, because the transaction was committed.
    """
    if connection.closed_in_transaction:
        connection.connection = None  # The connection is already closed.
    connection.in_atomic_block = False
    connection.savepoint_ids = []
    connection.atomic_blocks = []
    connection.needs_rollback = False
    connection.closed_in_transaction = False
    connection.commit_on_exit = True
    connection.run_on_commit = []
    try:
        if connection.connection is not None and not keep:
            with connection.wrap_database_errors:
                connection.connection.rollback()
        wanted = connection.settings_dict["AUTOCOMMIT"]
        if connection.connection is not None and connection.autocommit is not wanted:
            connection.set_autocommit(wanted)
    except Exception:
        logger.exception(
            "Resetting the connection to the database %r failed. The connection is closed.",
            connection.alias,
        )
        connection.close()

"""What a task leaves on the database connections of its thread, and how an attempt ends on them.

A function may leave a transaction open: `set_autocommit(False)`, a raw BEGIN, an `atomic()` that
it never leaves. Django would undo that work with the connection, after the answer. Here a function
that returns has its work committed, and only then is told to have succeeded; one that raises has
it rolled back. Either way the next user of the connection finds it as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..core.errors import UncommittedWorkError

logger = logging.getLogger("django_tasks_cloud_tasks")

# Of libpq's PGTransactionStatusType; 0 is idle, 4 a connection that is gone.
_ACTIVE, _IN_TRANSACTION, _IN_ERROR = 1, 2, 3
_OPEN = {_ACTIVE, _IN_TRANSACTION, _IN_ERROR}

# The attribute of a driver's connection that tells its status.
_STATUS = {"postgresql": "info", "sqlite": "in_transaction", "mysql": "server_status"}


def open_transactions() -> frozenset[str]:
    """The aliases of this thread's connections that are in a transaction of Django's now.

    Those are the caller's, and not a task's to end: a test may run in one.
    """
    return frozenset(c.alias for c in _connections() if c.in_atomic_block)


def commit_leftovers(callers: Collection[str]) -> None:
    """Commit what the function that has just returned left uncommitted.

    Args:
        callers: what `open_transactions` told before the function ran.

    Raises:
        UncommittedWorkError: a transaction is broken, and cannot be committed.
        django.db.Error: the database refuses the commit, or is away.
    """
    for connection in _connections():
        if connection.alias in callers or not _is_open(connection):
            continue
        if not _always_open(connection):
            logger.warning(
                "A task left a transaction open on the database %r; it is committed now. Use "
                "transaction.atomic(), or commit before the task returns.",
                connection.alias,
            )
        _commit(connection)


def roll_back_leftovers(callers: Collection[str]) -> None:
    """Undo what the function that has just raised left uncommitted."""
    for connection in _connections():
        if connection.alias not in callers and _is_open(connection):
            _reset(connection)


def awaited_transactions(database: str | None = None) -> list[str]:
    """The aliases of the transactions that work begun in this thread now belongs to.

    Args:
        database: the alias of the one that is meant; None for all that are open.
    """
    if database is not None:
        return [database] if _is_in_transaction(connections[database]) else []
    connected = _connections()
    # A transaction that a TestCase put around a test is never committed; Django's helpers for tests
    # call what waits for that of the default database.
    waiting = [c.alias for c in connected if _is_in_transaction(c) and not _is_of_a_test(c)]
    is_default = [c.alias for c in connected if c.alias == DEFAULT_DB_ALIAS and c.in_atomic_block]
    return waiting or is_default


def after_commit(awaited: Sequence[str], call: Callable[[], None]) -> None:
    """Call once those transactions are committed; a rollback of any of them drops the call."""
    if awaited:
        rest = partial(after_commit, awaited[1:], call)
        transaction.on_commit(rest, using=awaited[0], robust=True)
    else:
        call()


def _is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Whether Django has this connection in a transaction, by a block or by hand."""
    by_hand = connection.connection is not None and not connection.autocommit
    return connection.in_atomic_block or by_hand


def _is_of_a_test(connection: BaseDatabaseWrapper) -> bool:
    blocks = connection.atomic_blocks
    return bool(blocks) and all(getattr(block, "_from_testcase", False) for block in blocks)


def commit_own(connection: BaseDatabaseWrapper) -> None:
    """Commit what a store has written, where the connection does not do that by itself."""
    if not connection.in_atomic_block and _is_open(connection):
        _commit(connection)


def renew(alias: str) -> None:
    """Have the next query of this thread make a connection that nobody has used before."""
    connection = connections[alias]
    if not connection.in_atomic_block:
        connection.close()
        # Not `close` alone: wrappers and settings of the session may be what is wrong.
        if connection.connection is None:
            del connections[alias]


def _connections() -> list[BaseDatabaseWrapper]:
    return list(connections.all(initialized_only=True))


def _is_open(connection: BaseDatabaseWrapper) -> bool:
    """Whether something on the connection is not committed."""
    if connection.connection is None and not connection.in_atomic_block:
        return False
    return (
        connection.in_atomic_block
        or connection.autocommit is not connection.settings_dict["AUTOCOMMIT"]
        or _status(connection) in _OPEN
    )


def _always_open(connection: BaseDatabaseWrapper) -> bool:
    """Whether every statement opens a transaction, by the site's settings or for all we know."""
    return not connection.settings_dict["AUTOCOMMIT"] or not hasattr(
        connection.connection, _STATUS.get(connection.vendor, "")
    )


def _status(connection: BaseDatabaseWrapper) -> int:
    """The driver's transaction status, in libpq's numbers; of an unknown driver, in transaction."""
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
            f"The task left a broken transaction open on the database {connection.alias!r}: its "
            "work there is undone. Commit before the task returns, or use transaction.atomic()."
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
    """Make the connection as Django made it, without what is not committed.

    Args:
        keep: whether the connection itself is sound, and need not be made anew.
    """
    if connection.closed_in_transaction:
        connection.connection = None  # It is closed already.
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
        logger.exception("The connection to %r is dropped.", connection.alias)
        connection.close()

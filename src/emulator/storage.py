"""Queues and tasks in SQLite, for an emulator that is to survive its own end.

Every change is written before the call that made it is answered. What is written survives the
process, killed in whatever moment; not the machine's power, for which nothing is synced.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError

from ..core.errors import ConfigurationError
from .errors import ApiError, unavailable
from .limits import SECOND
from .queue_messages import read_queue, write_queue
from .state import Service, split_task_name
from .task_messages import read_deadline, read_target, read_task_retries, write_task
from .values import AttemptRecord, Queue, QueueState, Task
from .wire import FULL, QueueMessage, TaskMessage

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY, stored BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS deleted_queues (name TEXT PRIMARY KEY, until INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY,
    stored BLOB NOT NULL,
    schedule_time INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    execution_count INTEGER NOT NULL,
    first_dispatch INTEGER,
    last_status INTEGER,
    last_answered INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstones (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_VERSION = 1


class Storage:
    """`Journal` on a SQLite file.

    Raises:
        ConfigurationError: the file is none of ours, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refuses = False
        try:
            self._database = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=0
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise self._unusable(error) from error
        except ConfigurationError:
            self._database.close()
            raise

    def _prepare(self) -> None:
        execute = self._database.execute
        # For as long as the emulator lives: two of them would deliver everything twice.
        execute("PRAGMA locking_mode=EXCLUSIVE")
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=OFF")
        execute("BEGIN EXCLUSIVE")
        execute("COMMIT")
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version not in {0, _VERSION} or (tables and not version):
            raise self._unusable("it is another program's, or another version's")
        self._database.executescript(_SCHEMA)

    def _unusable(self, why: object) -> ConfigurationError:
        return ConfigurationError(f"The state file {self._path} cannot be used: {why}.")

    def latest(self) -> int:
        """The latest time in the file: no earlier than this may a clock go on."""
        with self._reading():
            (latest,) = self._database.execute("SELECT max(create_time) FROM tasks").fetchone()
            return _whole(latest or 0)

    def restore(self, service: Service, now: int) -> None:
        """Fill a new service with what the file holds."""
        with self._reading():
            for name, until in self._database.execute("SELECT name, until FROM deleted_queues"):
                service.restore_deleted_queue(name, _whole(until))
            for _, stored in self._database.execute("SELECT name, stored FROM queues"):
                message = QueueMessage.FromString(stored)
                queue = service.restore_queue(
                    message.name, read_queue(message, zero_doublings=True), now
                )
                if message.state == QueueMessage.PAUSED:
                    queue.state = QueueState.PAUSED
                if message.HasField("purge_time"):
                    moment = message.purge_time
                    queue.purge_time = moment.seconds * SECOND + moment.nanos
            for name, until in self._database.execute("SELECT name, until FROM tombstones"):
                service.restore_tombstone(name, _whole(until), now)
            for row in self._database.execute("SELECT * FROM tasks ORDER BY schedule_time"):
                service.restore_task(_read(*row))
            self._database.execute("DELETE FROM tombstones WHERE until <= ?", [now])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever is wrong with what the file holds is told as one fault of the file.

        Raises:
            ConfigurationError: it is damaged.
        """
        try:
            yield
        except (sqlite3.Error, DecodeError, ApiError, LookupError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The state file {self._path} cannot be read: {error}. Delete it to begin anew."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # Journal

    def queue_changed(self, queue: Queue) -> None:
        """See `Journal`."""
        stored = write_queue(queue).SerializeToString()
        with self.together():
            self._database.execute("REPLACE INTO queues VALUES (?, ?)", [queue.name, stored])
            self._database.execute("DELETE FROM deleted_queues WHERE name = ?", [queue.name])

    def queue_deleted(self, name: str, until: int) -> None:
        """See `Journal`."""
        with self.together():
            self._database.execute("DELETE FROM queues WHERE name = ?", [name])
            self._database.execute("REPLACE INTO deleted_queues VALUES (?, ?)", [name, until])
            for table in ("tasks", "tombstones"):
                # The names of a queue's tasks: from its own and a slash up to the next character.
                self._database.execute(
                    f"DELETE FROM {table} WHERE name >= ? AND name < ?",  # noqa: S608 - tables of ours
                    [f"{name}/tasks/", f"{name}/tasks0"],
                )

    def task_changed(self, task: Task) -> None:
        """See `Journal`."""
        last = task.last_attempt
        row = [
            task.name,
            write_task(task, FULL).SerializeToString(),
            task.schedule_time,
            task.create_time,
            task.execution_count,
            task.first_attempt.dispatch_time if task.first_attempt else None,
            last.status if last else None,
            last.answered if last else None,
        ]
        with self._writing():
            self._database.execute("REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def task_removed(self, task: Task, until: int) -> None:
        """See `Journal`."""
        with self.together():
            self._database.execute("DELETE FROM tasks WHERE name = ?", [task.name])
            self._database.execute("REPLACE INTO tombstones VALUES (?, ?)", [task.name, until])

    def emptied(self) -> None:
        """See `Journal`."""
        with self.together():
            for table in ("queues", "deleted_queues", "tasks", "tombstones"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - tables of ours

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Journal`. All of it or nothing, wherever the process is killed."""
        if self._database.in_transaction:
            yield
            return
        with self._writing():
            self._database.execute("BEGIN")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._database.rollback()
                raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Refuse a change that cannot be written: a full disk, a file that is gone.

        The log has a line when that begins, and one when it ends.
        """
        try:
            yield
        except sqlite3.Error as error:
            if not self._refuses:
                self._refuses = True
                logger.error("The state file %s cannot be written: %s", self._path, error)  # noqa: TRY400 - one line
            raise unavailable(f"The state file cannot be written: {error}.") from error
        if self._refuses:
            self._refuses = False
            logger.warning("The state file %s can be written again.", self._path)


def _read(
    name: str,
    stored: bytes,
    schedule_time: int,
    create_time: int,
    execution_count: int,
    first_dispatch: int | None,
    last_status: int | None,
    last_answered: int | None,
) -> Task:
    message = TaskMessage.FromString(stored)
    queue_name, task_id = split_task_name(name)
    if last_status is not None:
        _whole(last_status)
    task = Task(
        queue_name=queue_name,
        task_id=task_id,
        target=read_target(message, url_needed=False),
        create_time=_whole(create_time),
        schedule_time=_whole(schedule_time),
        deadline=read_deadline(message),
        retries=read_task_retries(message),
        dispatch_count=message.dispatch_count,
        response_count=message.response_count,
        execution_count=_whole(execution_count),
    )
    if first_dispatch is not None:
        task.first_attempt = AttemptRecord(_whole(first_dispatch), first_dispatch)
        # An attempt that was under way when the emulator ended had no answer.
        dispatched = message.last_attempt.dispatch_time
        task.last_attempt = AttemptRecord(
            schedule_time,
            dispatched.seconds * SECOND + dispatched.nanos,
            status=503 if last_status is None else last_status,
            answered=bool(last_answered),
        )
    return task


def _whole(value: object) -> int:
    """A number of a column; SQLite keeps whatever it was given."""
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value

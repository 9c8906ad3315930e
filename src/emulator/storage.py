"""The state file: queues, tasks and jobs in a SQLite database. The next start reads it.

The emulator writes every change before it answers the call that made the change. A written change
survives if the process is killed. It may be lost if the machine loses power, because the file is
not synced to the disk.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError

from ..core.errors import ConfigurationError
from .errors import ApiError, unavailable
from .messages.queues import read_queue, write_queue
from .messages.tasks import read_deadline, read_target, read_task_retries, write_task
from .messages.wire import FULL, QueueMessage, TaskMessage
from .state.job_service import JobService
from .state.jobs import Execution, Job, JobState
from .state.limits import SECOND
from .state.model import AttemptRecord, Queue, QueueState, Task
from .state.state_machine import QUEUE_TOMBSTONE, TASK_TOMBSTONE, Service, split_task_name

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
CREATE TABLE IF NOT EXISTS jobs (
    name TEXT PRIMARY KEY,
    stored BLOB NOT NULL,
    latest INTEGER NOT NULL,
    next_tick INTEGER,
    last_attempt_time INTEGER,
    last_status INTEGER,
    execution_time INTEGER,
    first_attempt INTEGER,
    attempts INTEGER,
    retry_time INTEGER
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_VERSION = 1
_INTERRUPTED = 0  # the id of an attempt that was in progress when the emulator ended
# A name is reserved from the removal of its task or queue until `until`. So the time of the removal
# is `until` minus the length of the reservation.
_LATEST = """
SELECT max(moment) FROM (
    SELECT max(create_time) AS moment FROM tasks
    UNION ALL SELECT max(until) - ? FROM tombstones
    UNION ALL SELECT max(until) - ? FROM deleted_queues
    UNION ALL SELECT max(latest) FROM jobs
)
"""


class Storage:
    """A `Journal` and `JobJournal` that writes to a SQLite file.

    Args:
        path: the file. It is created if it does not exist.

    Raises:
        ConfigurationError: the file is not a state file of this version, another emulator uses it,
            or it cannot be read or written.
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
        # The lock is held while the emulator runs, because two emulators on one file would deliver
        # every task twice.
        execute("PRAGMA locking_mode=EXCLUSIVE")
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=OFF")
        execute("BEGIN EXCLUSIVE")
        execute("COMMIT")
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version not in {0, _VERSION} or (tables and not version):
            raise self._unusable("another program or another version of the emulator wrote it")
        self._database.executescript(_SCHEMA)

    def _unusable(self, why: object) -> ConfigurationError:
        return ConfigurationError(
            f"The state file {self._path} cannot be used: {why}. Choose another --state file."
        )

    def latest(self) -> int:
        """The latest time of an event in the file, in nanoseconds since the epoch; 0 for none.

        The clock must not start earlier.

        Raises:
            ConfigurationError: the file is damaged.
        """
        with self._reading():
            (latest,) = self._database.execute(
                _LATEST, [TASK_TOMBSTONE, QUEUE_TOMBSTONE]
            ).fetchone()
            return _whole(latest or 0)

    def restore(self, service: Service, jobs: JobService, now: int) -> None:
        """Add the queues, tasks, reserved names and jobs in the file to new services.

        Args:
            service: a service without queues.
            jobs: a service without jobs.
            now: the time, in nanoseconds since the epoch.

        Raises:
            ConfigurationError: the file is damaged, or it contains jobs and the extra [scheduler]
                is not installed.
        """
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
            for row in self._database.execute("SELECT * FROM jobs"):
                jobs.restore(_read_job(*row), now)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A context that converts every error of reading the file to `ConfigurationError`."""
        try:
            yield
        except ImportError as error:
            raise ConfigurationError(
                f"The state file {self._path} contains jobs. To read them, the emulator needs the "
                f"extra [scheduler], because {error.name} is missing. Run: pip install "
                "'django-tasks-cloud-tasks[scheduler]', or choose another --state file."
            ) from error
        except (sqlite3.Error, DecodeError, ApiError, LookupError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The state file {self._path} cannot be read: {error}. Delete the file to start "
                "with an empty state."
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
                # This selects the names that start with `{name}/tasks/`: "0" follows "/" in ASCII.
                self._database.execute(
                    f"DELETE FROM {table} WHERE name >= ? AND name < ?",  # noqa: S608 - constant table names
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

    def job_changed(self, job: Job) -> None:
        """See `JobJournal`."""
        # Jobs need the extra [scheduler].
        from .messages.jobs import write_job

        execution = job.execution
        row = [
            job.name,
            write_job(job).SerializeToString(),
            max(job.user_update_time, job.last_attempt_time or 0),
            job.next_tick,
            job.last_attempt_time,
            job.last_status,
            execution.schedule_time if execution else None,
            execution.first_attempt if execution else None,
            execution.attempts if execution else None,
            # Empty while an attempt is in progress.
            execution.retry_time if execution and execution.running is None else None,
        ]
        with self._writing():
            self._database.execute("REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def job_removed(self, name: str) -> None:
        """See `JobJournal`."""
        with self._writing():
            self._database.execute("DELETE FROM jobs WHERE name = ?", [name])

    def emptied(self) -> None:
        """See `Journal`."""
        with self.together():
            for table in ("queues", "deleted_queues", "tasks", "tombstones", "jobs"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - constant table names

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Journal`. The guarantee also holds if the process is killed."""
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
        """A context that refuses a change if writing it fails, for example on a full disk.

        It logs one line at the first failure, and one line when writing succeeds again.

        Raises:
            ApiError: UNAVAILABLE, the change was not written.
        """
        try:
            yield
        except sqlite3.Error as error:
            if not self._refuses:
                self._refuses = True
                logger.error(  # noqa: TRY400 - one line
                    "Writing to the state file %s failed: %s. Requests that change queues, tasks "
                    "or jobs are refused until writing succeeds.",
                    self._path,
                    error,
                )
            raise unavailable(f"The state file cannot be written: {error}.") from error
        if self._refuses:
            self._refuses = False
            logger.warning("Writing to the state file %s succeeds again.", self._path)


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
        # An attempt that was in progress when the emulator ended counts as one without a response.
        dispatched = message.last_attempt.dispatch_time
        task.last_attempt = AttemptRecord(
            schedule_time,
            dispatched.seconds * SECOND + dispatched.nanos,
            status=503 if last_status is None else last_status,
            answered=bool(last_answered),
        )
    return task


def _read_job(
    name: str,
    stored: bytes,
    _: int,
    next_tick: int | None,
    last_attempt_time: int | None,
    last_status: int | None,
    execution_time: int | None,
    first_attempt: int | None,
    attempts: int | None,
    retry_time: int | None,
) -> Job:
    from .messages.jobs import JobMessage, job_name, read_job

    message = JobMessage.FromString(stored)
    execution = None
    if execution_time is not None:
        execution = Execution(
            schedule_time=_whole(execution_time),
            first_attempt=_whole(first_attempt),
            attempts=_whole(attempts),
            running=_INTERRUPTED if retry_time is None else None,
            retry_time=_whole(retry_time or 0),
        )
    return Job(
        name=job_name(name),
        config=read_job(message),
        user_update_time=message.user_update_time.seconds * SECOND,
        state=JobState.PAUSED if message.state == JobMessage.PAUSED else JobState.ENABLED,
        next_tick=None if next_tick is None else _whole(next_tick),
        execution=execution,
        last_attempt_time=None if last_attempt_time is None else _whole(last_attempt_time),
        last_status=None if last_status is None else _whole(last_status),
    )


def _whole(value: object) -> int:
    """Check that a column contains an integer. SQLite does not enforce the type of a column."""
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    return value

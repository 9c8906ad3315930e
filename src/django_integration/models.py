"""The table of recorded tasks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from ..core.errors import UnreadableRecordError
from ..core.records import LONGEST_NAME, State, TaskRecord
from .results.columns import Columns

if TYPE_CHECKING:
    from django.tasks.base import TaskResult


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Status(models.TextChoices):
    """The values of `State`, with labels for the admin."""

    READY = State.READY.value, "Ready"
    RUNNING = State.RUNNING.value, "Running"
    SUCCESSFUL = State.SUCCESSFUL.value, "Successful"
    FAILED = State.FAILED.value, "Failed"
    CANCELLED = State.CANCELLED.value, "Cancelled"


class InstantField(models.Field):  # type: ignore[type-arg]  # generic in the stubs only
    """A time, stored as microseconds since 1970.

    With USE_TZ off, the field of Django cannot tell the two hours apart that have the same local
    time when daylight saving ends.
    """

    description = "Moment"

    def get_internal_type(self) -> str:
        """Store the time as a number."""
        return "BigIntegerField"

    def from_db_value(self, value: int | None, *_: object) -> datetime | None:
        """Return the time, aware."""
        return None if value is None else _EPOCH + value * _MICROSECOND

    def get_prep_value(self, value: Any) -> Any:  # noqa: ANN401 - Django's signature
        """Return the microseconds."""
        return (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value

    def to_python(self, value: Any) -> Any:  # noqa: ANN401 - Django's signature
        """Return the time, also from the text of a fixture."""
        return datetime.fromisoformat(value) if isinstance(value, str) else value

    def value_to_string(self, obj: models.Model) -> Any:  # noqa: ANN401 - Django's signature
        """Return ISO 8601 for a fixture, or None."""
        moment = self.value_from_object(obj)
        return moment.isoformat() if moment else None


class ExactCharField(models.CharField):  # type: ignore[type-arg]  # generic in the stubs only
    """Text that is compared exactly. The default collation of MySQL and MariaDB ignores case."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Use a binary collation on MySQL and MariaDB."""
        parameters: dict[str, Any] = super().db_parameters(connection)
        if connection.vendor == "mysql":
            parameters["collation"] = "utf8mb4_bin"
        return parameters


class StoredTask(models.Model):
    """A recorded task. `TaskRecord` explains the fields.

    JSON is stored as text, because the JSON types of some databases cannot store every value that
    a task can get. Read a task with `get_result()`, or with the properties below.
    """

    task_id = ExactCharField("id", max_length=LONGEST_NAME, primary_key=True)
    task_path = ExactCharField("task", max_length=LONGEST_NAME)
    queue_name = ExactCharField("queue", max_length=100)
    backend = ExactCharField(max_length=100)
    priority = models.SmallIntegerField(default=0)
    takes_context = models.BooleanField(default=False)
    args_json = models.TextField("positional arguments", default="[]")
    kwargs_json = models.TextField("keyword arguments", default="{}")
    enqueued_at = models.DateTimeField(null=True)
    schedule = ExactCharField(max_length=100, default="")
    scheduled_for = InstantField(null=True)
    run_after = InstantField(null=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.READY)
    attempts_json = models.TextField("attempts", default="[]")
    tracebacks_json = models.TextField("tracebacks", default="[]")
    attempt_count = models.IntegerField("number of attempts", default=0)
    finished_at = models.DateTimeField(null=True)
    failure = ExactCharField(max_length=LONGEST_NAME, default="")
    return_value_json = models.TextField("return value", default="null")
    lost = models.TextField(default="")
    cancel_requested = models.BooleanField(default=False)
    replay_of = ExactCharField(max_length=LONGEST_NAME, default="")
    replayed_as = ExactCharField(max_length=LONGEST_NAME, default="")
    claim_token = models.CharField(max_length=32, default="")
    claim_expires_at = InstantField(null=True)
    redelivery_count = models.IntegerField(default=0)
    redelivery_first = models.IntegerField(default=0)
    redelivery_name = models.TextField(default="")
    redelivery_at = InstantField(null=True)
    redelivery_sent = models.BooleanField(default=False)
    redelivery_turned_away = models.BooleanField(default=False)
    relay_at = InstantField(null=True)
    relay_failures = models.IntegerField(default=0)
    relay_error = models.TextField(default="")

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """Indexes for the relay, for pruning, and for the admin's list in its order."""

        app_label = "django_tasks_cloud_tasks"
        verbose_name = "task"
        ordering: ClassVar = ["-enqueued_at", "-task_id"]
        indexes: ClassVar = [
            models.Index(fields=["relay_at"], name="cloudtasks_relay"),
            models.Index(fields=["status", "finished_at"], name="cloudtasks_finished"),
            models.Index(fields=["-enqueued_at", "-task_id"], name="cloudtasks_latest"),
            models.Index(fields=["status", "-enqueued_at", "-task_id"], name="cloudtasks_status"),
            models.Index(
                fields=["queue_name", "-enqueued_at", "-task_id"], name="cloudtasks_queue"
            ),
            models.Index(fields=["task_path", "-enqueued_at", "-task_id"], name="cloudtasks_path"),
            models.Index(
                fields=["failure", "task_path", "finished_at", "replayed_as"],
                name="cloudtasks_failures",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task_path} {self.task_id}"

    @property
    def record(self) -> TaskRecord:
        """The record as a value.

        Raises:
            UnreadableRecordError: the row is damaged, or a newer version wrote it.
        """
        try:
            return COLUMNS.decode(self)
        except Exception as error:
            raise unreadable(self.pk, error) from error

    @property
    def result(self) -> TaskResult[..., Any]:
        """The result that `get_result()` returns for this task.

        Raises:
            TaskResultDoesNotExist: the site does not have this task any more.
            UnreadableRecordError: the row is damaged, or a newer version wrote it.
        """
        from .results.task_results import recorded_result, recorded_task

        record = self.record
        return recorded_result(recorded_task(record), record)


class StoredSchedule(models.Model):
    """What is known of a schedule of the site. `ScheduleState` explains the fields."""

    name = ExactCharField(max_length=100, primary_key=True)
    rhythm = models.TextField()
    ticked_at = InstantField()
    paused = models.BooleanField(default=False)

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """The app of the package."""

        app_label = "django_tasks_cloud_tasks"
        verbose_name = "schedule"

    def __str__(self) -> str:
        return str(self.name)


COLUMNS = Columns(StoredTask)
"""How a `TaskRecord` is kept in the table."""


def unreadable(task_id: str, error: Exception) -> UnreadableRecordError:
    """Return the exception for a record that cannot be read because of `error`."""
    return UnreadableRecordError(
        f"The record of the task {task_id} cannot be read: {type(error).__name__}: {error}. It is "
        "damaged, or a newer version of this package wrote it."
    )

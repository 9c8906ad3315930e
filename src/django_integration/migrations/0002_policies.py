"""Columns for retry policies, replays and groups of failures. FAILED becomes a final status."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from ..models import ExactCharField, InstantField

_BATCH = 500
_ENDED = ("SUCCESSFUL", "FAILED", "CANCELLED")


def end_or_wait(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Convert the failed tasks.

    A failed task that waits for another attempt becomes READY. After an hour the relay looks up
    whether Cloud Tasks still has it. The other failed tasks get the class of their last error in
    the column `failure`.
    """
    rows = _rows(apps, schema_editor)
    soon = datetime.now(UTC) + timedelta(hours=1)
    rows.filter(status="FAILED", final=False).update(
        status="READY", finished_at=None, relay_at=soon
    )
    changed = []
    for row in rows.filter(status="FAILED").only("attempts_json").iterator(chunk_size=_BATCH):
        row.failure = _failure(row.attempts_json)
        changed.append(row)
        if len(changed) == _BATCH:
            rows.bulk_update(changed, ["failure"])
            changed.clear()
    rows.bulk_update(changed, ["failure"])


def mark_final(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Mark the tasks that have ended as final. This reverses `end_or_wait` in part."""
    _rows(apps, schema_editor).filter(status__in=_ENDED).update(final=True)


def _rows(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> Any:  # noqa: ANN401 - a historical model
    model: Any = apps.get_model("django_tasks_cloud_tasks", "StoredTask")
    return model.objects.using(schema_editor.connection.alias)


def _failure(attempts: str) -> str:
    """Return the class path of the last attempt's error; that of Exception if it is unreadable."""
    try:
        path = json.loads(attempts)[-1][3]
    except (ValueError, LookupError, TypeError):
        path = None
    return path[:255] if isinstance(path, str) else "builtins.Exception"


class Migration(migrations.Migration):
    """Adds the columns, converts the existing rows, and removes the column `final`."""

    dependencies = [("django_tasks_cloud_tasks", "0001_initial")]

    operations = [
        migrations.AddField("storedtask", "failure", ExactCharField(max_length=255, default="")),
        migrations.AddField("storedtask", "lost", models.TextField(default="")),
        migrations.AddField("storedtask", "redelivery_first", models.IntegerField(default=0)),
        migrations.AddField("storedtask", "redelivery_name", models.TextField(default="")),
        migrations.AddField("storedtask", "redelivery_at", InstantField(null=True)),
        migrations.AddField("storedtask", "replay_of", ExactCharField(max_length=255, default="")),
        migrations.AddField(
            "storedtask", "replayed_as", ExactCharField(max_length=255, default="")
        ),
        migrations.RunPython(end_or_wait, mark_final),
        migrations.RemoveField("storedtask", "final"),
        migrations.AddIndex(
            "storedtask",
            models.Index(
                fields=["failure", "task_path", "finished_at", "replayed_as"],
                name="cloudtasks_failures",
            ),
        ),
    ]

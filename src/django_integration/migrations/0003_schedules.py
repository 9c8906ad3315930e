"""Recurring tasks: the state of each schedule, and the tick of each task."""

from django.db import migrations, models

from ..models import ExactCharField, InstantField


class Migration(migrations.Migration):
    """Adds a table and two columns."""

    dependencies = [("django_tasks_cloud_tasks", "0002_policies")]

    operations = [
        migrations.CreateModel(
            name="StoredSchedule",
            fields=[
                ("name", ExactCharField(max_length=100, primary_key=True, serialize=False)),
                ("rhythm", models.TextField()),
                ("ticked_at", InstantField()),
                ("paused", models.BooleanField(default=False)),
            ],
            options={"verbose_name": "schedule"},
        ),
        migrations.AddField("storedtask", "schedule", ExactCharField(max_length=100, default="")),
        migrations.AddField("storedtask", "scheduled_for", InstantField(null=True)),
    ]

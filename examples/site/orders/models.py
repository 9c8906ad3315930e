"""What happened to each task, as Django's signals told it."""

from django.db import models


class TaskRun(models.Model):
    """A task, once for all its attempts."""

    task_id = models.CharField(max_length=64, primary_key=True)
    name = models.CharField(max_length=200)
    queue = models.CharField(max_length=100)
    priority = models.IntegerField(default=0)
    arguments = models.JSONField(default=list)
    status = models.CharField(max_length=20)
    attempts = models.IntegerField(default=0)
    outcome = models.TextField(blank=True)
    enqueued_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    seen_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """The latest first."""

        ordering = ["-seen_at"]

    def __str__(self) -> str:
        return f"{self.name} {self.task_id}"

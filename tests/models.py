"""What tasks of the tests leave behind."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models


class Order(models.Model):
    """What was enqueued in one transaction with this: the task, and what it shall return."""

    task_id = models.CharField(max_length=50, primary_key=True)
    kind = models.CharField(max_length=20)
    number = models.IntegerField()
    queue = models.CharField(max_length=20, default="default")

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """No further wishes."""

        app_label = "tests"

    def __str__(self) -> str:
        return f"{self.kind} {self.number} in {self.queue}"


class Counter(models.Model):
    """Counts up."""

    name = models.CharField(max_length=20, primary_key=True)
    value = models.IntegerField(default=0)

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """No further wishes."""

        app_label = "tests"

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class Mark(models.Model):
    """One for each time that a task had its effect."""

    name = models.CharField(max_length=100)
    parent = models.ForeignKey("self", models.CASCADE, null=True)

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """No further wishes."""

        app_label = "tests"

    def __str__(self) -> str:
        return self.name

"""Tables to which the tasks of the tests write."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models


class Order(models.Model):
    """A row that is written in the transaction that enqueues a task."""

    task_id = models.CharField(max_length=50, primary_key=True)
    kind = models.CharField(max_length=20)
    number = models.IntegerField()
    queue = models.CharField(max_length=20, default="default")

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """Nothing beyond the defaults."""

        app_label = "tests"

    def __str__(self) -> str:
        return f"{self.kind} {self.number} in {self.queue}"


class Counter(models.Model):
    """A number that tasks increment."""

    name = models.CharField(max_length=20, primary_key=True)
    value = models.IntegerField(default=0)

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """Nothing beyond the defaults."""

        app_label = "tests"

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class Mark(models.Model):
    """A row for each effect of a task."""

    name = models.CharField(max_length=100)
    parent = models.ForeignKey("self", models.CASCADE, null=True)

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        """Nothing beyond the defaults."""

        app_label = "tests"

    def __str__(self) -> str:
        return self.name

"""What tasks of the tests leave behind."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models


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

"""What the shop sells is paid by a task."""

from django.db import models


class Order(models.Model):
    """An order, and how often it was paid: once, whatever happens."""

    amount = models.IntegerField()
    payments = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"order {self.pk} over {self.amount}"

"""The app of the example."""

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    """Listens to Django's task signals."""

    name = "orders"

    def ready(self) -> None:
        """Connect the receivers."""
        from . import history

        history.connect()

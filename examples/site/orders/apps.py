"""The app of the example."""

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    """Orders, and the tasks that go with them."""

    name = "orders"

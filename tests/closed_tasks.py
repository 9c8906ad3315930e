"""A task that is declared for the backend "closed"."""

from django.tasks import task

from tests.tasks import ran


@task(backend="closed")
def declared_closed() -> None:
    ran.append("declared_closed")

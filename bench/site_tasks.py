"""The task that is measured: it does nothing."""

from django.tasks import task


@task
def nothing(**_: object) -> None:
    """Do nothing."""

"""A module of tasks whose import waits until a test continues it. Only task paths refer to it."""

from django.tasks import task

from tests import gate

gate.importing.set()
assert gate.go_on.wait(30)


@task
def late() -> str:
    """A task that exists only after the import has ended."""
    return "here"

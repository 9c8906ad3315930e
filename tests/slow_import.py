"""A module of tasks whose import takes as long as a test wants. Imported by path only."""

from django.tasks import task

from tests import gate

gate.importing.set()
assert gate.go_on.wait(30)


@task
def late() -> str:
    """A task that is there once the module is."""
    return "here"

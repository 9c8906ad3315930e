"""A module of tasks whose import takes as long as a test wants. Only a task path names it."""

from django.tasks import task

from tests import gate

gate.importing.set()
assert gate.go_on.wait(30)


@task
def late() -> str:
    """A task that exists when the import has ended."""
    return "here"

"""The app of the storm's site. It writes the ends of the tasks to the journal."""

from django.apps import AppConfig
from django.tasks.signals import task_finished

from tests.storm.journal import tell_of_end


class StormConfig(AppConfig):
    """Connects the journal in the processes of the storm, and not in the process of the test."""

    name = "tests.storm"

    def ready(self) -> None:
        """Connect the journal to `task_finished`."""
        task_finished.connect(tell_of_end)

"""The app's entry in Django's registry."""

from django.apps import AppConfig
from django.core import checks

from .installation import APP


class CloudTasksConfig(AppConfig):
    """The app. It contains the management commands and the checks of `check --deploy`."""

    name = APP
    label = "django_tasks_cloud_tasks"
    verbose_name = "Cloud Tasks"

    def ready(self) -> None:
        """Register the checks of `check --deploy`. The backend provides the other checks."""
        # This import registers Django's check of TASKS, which runs the checks of each backend.
        import django.tasks  # noqa: F401

        from .checks import check_deployment

        checks.register(check_deployment, checks.Tags.security, deploy=True)

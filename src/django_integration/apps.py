"""The app's entry in Django's registry."""

from django.apps import AppConfig
from django.core import checks

from .installation import APP


class CloudTasksConfig(AppConfig):
    """Brings the management commands and the checks of `check --deploy`."""

    name = APP
    label = "django_tasks_cloud_tasks"
    verbose_name = "Cloud Tasks"

    def ready(self) -> None:
        """Register the checks that only a deployment needs; the backend brings the rest."""
        # Django registers its check of TASKS, which asks the backends, when this is imported.
        import django.tasks  # noqa: F401

        from .checks import check_deployment

        checks.register(check_deployment, checks.Tags.security, deploy=True)

"""The app's entry in Django's registry."""

from django.apps import AppConfig, apps
from django.core import checks

from ..core.errors import ConfigurationError

APP = "django_tasks_cloud_tasks.django_integration"
"""The name of the app; `django_tasks_cloud_tasks` in INSTALLED_APPS leads to it."""


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


def demand_app() -> None:
    """Refuse to go on without the app: the checks, the commands and the table come with it.

    Raises:
        ConfigurationError: it is not in INSTALLED_APPS.
    """
    if apps.apps_ready and not apps.is_installed(APP):
        raise ConfigurationError(
            "'django_tasks_cloud_tasks' is not in INSTALLED_APPS. Add it: it brings the checks, "
            "the commands, and the table that RESULTS needs."
        )

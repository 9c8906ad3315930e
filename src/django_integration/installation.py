"""Whether the app is in INSTALLED_APPS."""

from django.apps import apps

from ..core.errors import ConfigurationError

APP = "django_tasks_cloud_tasks.django_integration"
"""The name of the app. Django finds it for `django_tasks_cloud_tasks` in INSTALLED_APPS."""


def is_installed() -> bool:
    """Return whether the app is installed. True until Django has loaded its apps."""
    return not apps.apps_ready or apps.is_installed(APP)


def demand_app() -> None:
    """Raise an error if the app is not installed, because it contains the checks and the table.

    Raises:
        ConfigurationError: the app is not in INSTALLED_APPS.
    """
    if not is_installed():
        raise ConfigurationError(
            "'django_tasks_cloud_tasks' is not in INSTALLED_APPS. Add it: it contains the checks, "
            "the commands, and the table that RESULTS needs."
        )

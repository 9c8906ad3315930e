"""Whether the app is among INSTALLED_APPS."""

from django.apps import apps

from ..core.errors import ConfigurationError

APP = "django_tasks_cloud_tasks.django_integration"
"""The name of the app; `django_tasks_cloud_tasks` in INSTALLED_APPS leads to it."""


def is_installed() -> bool:
    """Whether it is; before Django has loaded its apps nobody can tell, and it counts as such."""
    return not apps.apps_ready or apps.is_installed(APP)


def demand_app() -> None:
    """Refuse to go on without the app: the checks, the commands and the table come with it.

    Raises:
        ConfigurationError: it is not in INSTALLED_APPS.
    """
    if not is_installed():
        raise ConfigurationError(
            "'django_tasks_cloud_tasks' is not in INSTALLED_APPS. Add it: it contains the checks, "
            "the commands, and the table that RESULTS needs."
        )

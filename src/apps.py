"""Where Django looks for the app of `INSTALLED_APPS = ["django_tasks_cloud_tasks"]`."""

from .django_integration.apps import CloudTasksConfig as CloudTasksConfig

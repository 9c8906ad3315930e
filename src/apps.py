"""Django finds the app of `INSTALLED_APPS = ["django_tasks_cloud_tasks"]` in this module."""

from .django_integration.apps import CloudTasksConfig as CloudTasksConfig

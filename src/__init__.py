"""Django's task framework on Google Cloud Tasks.

The names below are imported when they are first used, so that start-up stays light: neither
grpc nor google.cloud is loaded before the first task is enqueued.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .core.errors import (
        CloudTasksError,
        ConfigurationError,
        EnqueueError,
        PayloadTooLargeError,
        PermissionDeniedError,
        QueueNotFoundError,
        ScheduleTooFarError,
        ServiceUnavailableError,
        TaskRejectedError,
    )
    from .django_integration.backend import CloudTasksBackend
    from .django_integration.surroundings import (
        detect_default_service_account,
        detect_gcp_location,
        detect_gcp_project,
        detect_task_handler_host,
        is_app_engine,
        is_cloud_run,
    )
    from .django_integration.views import AsyncExecuteTaskView, ExecuteTaskView

__all__ = [
    "AsyncExecuteTaskView",
    "CloudTasksBackend",
    "CloudTasksError",
    "ConfigurationError",
    "EnqueueError",
    "ExecuteTaskView",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "QueueNotFoundError",
    "ScheduleTooFarError",
    "ServiceUnavailableError",
    "TaskRejectedError",
    "detect_default_service_account",
    "detect_gcp_location",
    "detect_gcp_project",
    "detect_task_handler_host",
    "is_app_engine",
    "is_cloud_run",
]

_HOMES = {
    "CloudTasksBackend": ".django_integration.backend",
    "ExecuteTaskView": ".django_integration.views",
    "AsyncExecuteTaskView": ".django_integration.views",
    **dict.fromkeys(
        [
            "detect_default_service_account",
            "detect_gcp_location",
            "detect_gcp_project",
            "detect_task_handler_host",
            "is_app_engine",
            "is_cloud_run",
        ],
        ".django_integration.surroundings",
    ),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, ".core.errors"), __name__), name)
    globals()[name] = value
    return value

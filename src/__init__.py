"""Django's task framework on Google Cloud Tasks.

The names below are imported when they are first used, so that start-up stays light: neither
grpc nor google.cloud is loaded before the first task is enqueued.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .core.errors import (
        CancelError,
        CloudTasksError,
        ConfigurationError,
        EnqueueError,
        PayloadTooLargeError,
        PermissionDeniedError,
        QueueNotFoundError,
        RunNowError,
        ScheduleTooFarError,
        ServiceUnavailableError,
        TaskCancelledError,
        TaskRejectedError,
        WorkerLostError,
    )
    from .django_integration.backend import CloudTasksBackend
    from .django_integration.declaration import CloudTaskContext, task
    from .django_integration.models import StoredTask
    from .django_integration.steering import CancelOutcome, acancel, cancel
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
    "CancelError",
    "CancelOutcome",
    "CloudTaskContext",
    "CloudTasksBackend",
    "CloudTasksError",
    "ConfigurationError",
    "EnqueueError",
    "ExecuteTaskView",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "QueueNotFoundError",
    "RunNowError",
    "ScheduleTooFarError",
    "ServiceUnavailableError",
    "StoredTask",
    "TaskCancelledError",
    "TaskRejectedError",
    "WorkerLostError",
    "acancel",
    "cancel",
    "detect_default_service_account",
    "detect_gcp_location",
    "detect_gcp_project",
    "detect_task_handler_host",
    "is_app_engine",
    "is_cloud_run",
    "task",
]

_HOMES = {
    "CloudTasksBackend": ".django_integration.backend",
    "CloudTaskContext": ".django_integration.declaration",
    "task": ".django_integration.declaration",
    "StoredTask": ".django_integration.models",
    "CancelOutcome": ".django_integration.steering",
    "acancel": ".django_integration.steering",
    "cancel": ".django_integration.steering",
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

"""Django's task framework on Google Cloud Tasks.

The public names are imported when they are first used, so that the start is fast. grpc and
google.cloud are loaded only when the first task is enqueued.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .core.backoff import Backoff
    from .core.errors import (
        CancelError,
        CloudTasksError,
        ConfigurationError,
        EnqueueError,
        PayloadTooLargeError,
        PermissionDeniedError,
        QueueNotFoundError,
        RunNowError,
        ServiceUnavailableError,
        TaskCancelledError,
        TaskLostError,
        TaskRejectedError,
        WorkerLostError,
    )
    from .core.lifecycle import CancelOutcome
    from .django_integration.enqueueing.backend import CloudTasksBackend
    from .django_integration.executing.views import AsyncExecuteTaskView, ExecuteTaskView
    from .django_integration.models import StoredTask
    from .django_integration.operating.control import acancel, cancel
    from .django_integration.runtime import (
        detect_default_service_account,
        detect_gcp_location,
        detect_gcp_project,
        detect_task_handler_host,
        is_app_engine,
        is_cloud_run,
    )
    from .django_integration.tasks import CloudTaskContext, Discard, Retry, Snooze, task

__all__ = [
    "AsyncExecuteTaskView",
    "Backoff",
    "CancelError",
    "CancelOutcome",
    "CloudTaskContext",
    "CloudTasksBackend",
    "CloudTasksError",
    "ConfigurationError",
    "Discard",
    "EnqueueError",
    "ExecuteTaskView",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "QueueNotFoundError",
    "Retry",
    "RunNowError",
    "ServiceUnavailableError",
    "Snooze",
    "StoredTask",
    "TaskCancelledError",
    "TaskLostError",
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
    "CloudTasksBackend": ".django_integration.enqueueing.backend",
    "CloudTaskContext": ".django_integration.tasks",
    "task": ".django_integration.tasks",
    "Retry": ".django_integration.tasks",
    "Snooze": ".django_integration.tasks",
    "Discard": ".django_integration.tasks",
    "Backoff": ".core.backoff",
    "StoredTask": ".django_integration.models",
    "CancelOutcome": ".core.lifecycle",
    "acancel": ".django_integration.operating.control",
    "cancel": ".django_integration.operating.control",
    "ExecuteTaskView": ".django_integration.executing.views",
    "AsyncExecuteTaskView": ".django_integration.executing.views",
    **dict.fromkeys(
        [
            "detect_default_service_account",
            "detect_gcp_location",
            "detect_gcp_project",
            "detect_task_handler_host",
            "is_app_engine",
            "is_cloud_run",
        ],
        ".django_integration.runtime",
    ),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, ".core.errors"), __name__), name)
    globals()[name] = value
    return value

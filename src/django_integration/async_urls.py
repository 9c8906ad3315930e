"""The endpoints that Cloud Tasks and Cloud Scheduler call, for sites on ASGI."""

from django.urls import path

from .executing.url_patterns import execution_endpoint
from .executing.views import AsyncExecuteTaskView
from .operating.views import RelayView

app_name = "django_tasks_cloud_tasks"
urlpatterns = [
    execution_endpoint("execute/", AsyncExecuteTaskView.endpoint(), name="execute"),
    path("relay/", RelayView.endpoint(), name="relay"),
]

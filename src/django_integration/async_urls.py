"""The endpoints that Cloud Tasks and Cloud Scheduler call, for sites on ASGI."""

from django.urls import path

from .executing.url_patterns import execution_endpoint
from .executing.views import AsyncExecuteTaskView
from .operating.views import RelayView, ScheduleView

app_name = "django_tasks_cloud_tasks"
urlpatterns = [
    execution_endpoint("execute/", AsyncExecuteTaskView.endpoint(), name="execute"),
    path("relay/", RelayView.endpoint(), name="relay"),
    path("schedule/", ScheduleView.endpoint(), name="schedule"),
    path("schedule/<slug:name>/", ScheduleView.endpoint(), name="schedule"),
]

"""The endpoints that Cloud Tasks and Cloud Scheduler call, for sites on WSGI."""

from django.urls import path

from .views import ExecuteTaskView, RelayView

app_name = "django_tasks_cloud_tasks"
urlpatterns = [
    path("execute/", ExecuteTaskView.as_view(), name="execute"),
    path("relay/", RelayView.as_view(), name="relay"),
]

"""The endpoint that Cloud Tasks calls, for sites on ASGI."""

from django.urls import path

from .views import AsyncExecuteTaskView

app_name = "django_tasks_cloud_tasks"
urlpatterns = [path("execute/", AsyncExecuteTaskView.as_view(), name="execute")]

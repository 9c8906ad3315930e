"""The page, and the endpoint that Cloud Tasks calls."""

from django.urls import include, path

urlpatterns = [
    path("cloudtasks/", include("django_tasks_cloud_tasks.urls")),
    path("", include("orders.urls")),
]

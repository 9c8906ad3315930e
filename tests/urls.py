"""Both views, so that every test can choose."""

from django.urls import include, path

urlpatterns = [
    path("cloudtasks/", include("django_tasks_cloud_tasks.urls")),
    path("async/cloudtasks/", include("django_tasks_cloud_tasks.async_urls", namespace="async")),
]

"""The URLs of both views, so that a test can choose one, and of the admin."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("cloudtasks/", include("django_tasks_cloud_tasks.urls")),
    path("async/cloudtasks/", include("django_tasks_cloud_tasks.async_urls", namespace="async")),
]

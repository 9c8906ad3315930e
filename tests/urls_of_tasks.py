"""The URLs of a site without an admin."""

from django.urls import include, path

urlpatterns = [path("cloudtasks/", include("django_tasks_cloud_tasks.urls"))]

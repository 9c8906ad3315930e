"""The URLs of a site with only the task endpoint."""

from django.urls import include, path

urlpatterns = [path("cloudtasks/", include("django_tasks_cloud_tasks.urls"))]

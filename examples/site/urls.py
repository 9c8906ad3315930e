"""The page, the admin, and the endpoints that Cloud Tasks and its scheduler call."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("cloudtasks/", include("django_tasks_cloud_tasks.urls")),
    path("", include("orders.urls")),
]

"""The URLs of a WSGI site, for `include("django_tasks_cloud_tasks.urls")`."""

from .django_integration.urls import app_name as app_name
from .django_integration.urls import urlpatterns as urlpatterns

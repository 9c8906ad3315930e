"""The URLs of an ASGI site, for `include("django_tasks_cloud_tasks.async_urls")`."""

from .django_integration.async_urls import app_name as app_name
from .django_integration.async_urls import urlpatterns as urlpatterns

"""For `include("django_tasks_cloud_tasks.async_urls")`: the view of an ASGI site."""

from .django_integration.async_urls import app_name as app_name
from .django_integration.async_urls import urlpatterns as urlpatterns

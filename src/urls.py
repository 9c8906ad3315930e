"""For `include("django_tasks_cloud_tasks.urls")`: the view of a WSGI site."""

from .django_integration.urls import app_name as app_name
from .django_integration.urls import urlpatterns as urlpatterns

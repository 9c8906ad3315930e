"""The URLs of a site whose paths begin with a language."""

from django.conf.urls.i18n import i18n_patterns
from django.urls import include, path

urlpatterns = i18n_patterns(path("cloudtasks/", include("django_tasks_cloud_tasks.urls")))

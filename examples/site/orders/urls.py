"""The page and what it asks for."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("enqueue/<slug:kind>/", views.enqueue, name="enqueue"),
    path("runs/", views.runs, name="runs"),
]

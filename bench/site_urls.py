"""The URLs of the task endpoint and of a minimal view that parses the same JSON."""

import json

from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def bare(request: HttpRequest) -> JsonResponse:
    """Parse the JSON, and answer like the endpoint."""
    payload = json.loads(request.body)
    return JsonResponse({"status": "success", "task_id": payload["task_id"]})


# Both paths have the same depth, so that resolving the URL costs the same.
urlpatterns = [
    path("bare/", include([path("execute/", bare)])),
    path("cloudtasks/", include("django_tasks_cloud_tasks.urls")),
]

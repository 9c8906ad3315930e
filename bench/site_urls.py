"""The endpoint, and beside it the least that could parse the same JSON."""

import json

from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def bare(request: HttpRequest) -> JsonResponse:
    """Parse, and answer as the endpoint does."""
    payload = json.loads(request.body)
    return JsonResponse({"status": "success", "task_id": payload["task_id"]})


# As deep as the endpoint, so that resolving the URL costs both the same.
urlpatterns = [
    path("bare/", include([path("execute/", bare)])),
    path("cloudtasks/", include("django_tasks_cloud_tasks.urls")),
]
